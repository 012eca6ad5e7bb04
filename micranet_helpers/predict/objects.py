"""Number the objects of an image, measure them, and write them for other programs."""

import io
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from micranet_helpers.maps.detect import pieces

SHARE = 0.1  # of the area of a usual object: less is a crumb


def least_area(width: float) -> int:
    """Compute the least area of an object, px, by the usual width of one, px."""
    return max(4, round(SHARE * np.pi / 4 * width**2))


def numbered(masks: NDArray[np.bool_], area: int, width: float | None) -> NDArray[np.int32]:
    """Number the objects of each class, (K, H, W), on from those of the class before.

    Objects of fewer pixels than ``area`` are left out. With the usual ``width`` of an object, px,
    parts that touch are split where they bulge (watershed of the distance from the background).
    """
    labels, count = np.zeros(masks.shape, np.int32), 0
    split = max(1, round(width / 2)) if width else 0
    for plane, mask in zip(labels, masks, strict=True):
        found = pieces(mask, area, split)
        plane[:] = np.where(found, found + count, 0)
        count += int(found.max())
    return labels


def measure(
    labels: NDArray[np.int32], scores: NDArray[np.float32], image: NDArray[Any],
    classes: Sequence[str], channels: Sequence[str], pixel_um: float | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """List the objects as rows: place in px, mean score, mean of each channel; with µm, size."""
    wanted = ("area", "centroid", "bbox", "intensity_mean", "label")
    rows = []
    for name, plane, score in zip(classes, labels, scores, strict=True):
        values = np.moveaxis(np.concatenate([score[None], image]).astype(np.float32), 0, -1)
        table = regionprops_table(plane, values, wanted).values()
        for *line, number in zip(*(column.tolist() for column in table), strict=True):
            rows.append(row_of(number, name, line, channels, pixel_um))
    return rows


def row_of(
    number: int, name: str, measures: Sequence[float], channels: Sequence[str],
    pixel_um: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Name the measures of an object of a class: area, place, box, mean score and channels."""
    means = [f"intensity_{each}" for each in channels or range(1, len(measures) - 7)]
    names = "area_px", "row", "column", "top", "left", "bottom", "right", "score", *means
    row = {"id": number, "class": name, **dict(zip(names, measures, strict=True))}
    if pixel_um:
        row["area_um2"] = row["area_px"] * pixel_um**2
        row |= {f"{side}_um": row[side] * pixel_um for side in ("row", "column")}
    return row


def mask_bytes(
    labels: NDArray[np.int32], classes: Sequence[str], pixel_um: float | None
) -> bytes:
    """Write the numbers of the objects as OME-TIFF, a channel for each class."""
    kind = np.uint16 if labels.max(initial=0) < 2**16 else np.float32  # readers know no uint32
    about = {"axes": "CYX", "Channel": {"Name": list(classes)}, "UUID": str(uuid.UUID(int=0))}
    if pixel_um:
        about |= {"PhysicalSizeX": pixel_um, "PhysicalSizeXUnit": "µm",
                  "PhysicalSizeY": pixel_um, "PhysicalSizeYUnit": "µm"}  # fmt: skip
    tifffile.imwrite(data := io.BytesIO(), labels.astype(kind), ome=True, metadata=about,
                     compression="zlib", photometric="minisblack")  # fmt: skip
    return data.getvalue()
