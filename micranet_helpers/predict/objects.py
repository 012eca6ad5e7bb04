"""Number the objects of an image, measure them, and write them for other programs."""

import io
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from micranet_helpers.maps.detect import pieces
from micranet_helpers.zoo import Usage

SHARE = 0.1  # of the area of a usual object: less is a crumb
FEATURES = ("area", "centroid", "bbox", "intensity_mean")
NAMES = ("area_px", "row", "column", "top", "left", "bottom", "right", "score")


class Found(NamedTuple):
    """Hold the objects of an image; of a large one, picture and labels are every n-th pixel."""

    table: NDArray[np.float64]  # (N, 8 + C): NAMES, then means of the channels
    classes: NDArray[np.int64]  # (N,)
    covered: float  # share of all pixels
    highest: float  # score
    picture: NDArray[Any]  # (C, H, W)
    labels: NDArray[np.integer]  # (K, H, W)


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


def found_in(
    image: NDArray[Any], masks: NDArray[np.bool_], scores: NDArray[np.float32], area: int,
    width: float | None,
) -> Found:  # fmt: skip
    """Number and measure the objects of masks, as :func:`numbered`; scores are (K, H, W), too."""
    labels, tables = numbered(masks, area, width), []
    for plane, score in zip(labels, scores, strict=True):
        values = np.moveaxis(np.concatenate([score[None], image]).astype(np.float32), 0, -1)
        tables.append(np.transpose([*regionprops_table(plane, values, FEATURES).values()]))
    classes = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    covered = float((labels > 0).any(0).mean())
    return Found(np.concatenate(tables), classes, covered, float(scores.max()), image, labels)


def rows_of(
    found: Found, usage: Usage, pixel_um: float | None, start: int = 0, stop: int | None = None
) -> list[dict[str, Any]]:
    """List some objects as rows: area, place and box in px, mean score and channels; µm, if known.

    Their ids, and so ``start`` and ``stop``, are by class, from the top of the image.
    """
    means = [f"intensity_{each}" for each in usage.channels or range(1, found.table.shape[1] - 7)]
    rows = []
    for line, cls in zip(found.table[start:stop].tolist(), found.classes[start:stop], strict=True):
        row = {"id": start + len(rows) + 1, "class": usage.classes[cls],
               **dict(zip((*NAMES, *means), line, strict=True))}  # fmt: skip
        row |= {side: int(row[side]) for side in ("top", "left", "bottom", "right")}
        if pixel_um:
            row["area_um2"] = row["area_px"] * pixel_um**2
            row |= {f"{side}_um": row[side] * pixel_um for side in ("row", "column")}
        rows.append(row)
    return rows


def mask_bytes(labels: NDArray[np.int32], classes: Sequence[str], pixel_um: float | None) -> bytes:
    """Write the numbers of the objects as OME-TIFF, a channel for each class."""
    kind = np.uint16 if labels.max(initial=0) < 2**16 else np.float32  # readers know no uint32
    about = {"axes": "CYX", "Channel": {"Name": list(classes)}, "UUID": str(uuid.UUID(int=0))}
    if pixel_um:
        about |= {"PhysicalSizeX": pixel_um, "PhysicalSizeXUnit": "µm",
                  "PhysicalSizeY": pixel_um, "PhysicalSizeYUnit": "µm"}  # fmt: skip
    tifffile.imwrite(data := io.BytesIO(), labels.astype(kind), ome=True, metadata=about,
                     compression="zlib", photometric="minisblack")  # fmt: skip
    return data.getvalue()
