"""Outline the objects of a label image, for pictures and for other programs."""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import roifile
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from skimage.measure import find_contours


def contours(
    labels: NDArray[np.integer],
) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
    """Yield the number of each object of a label image (H, W) and its outlines, row and column.

    Outlines are closed, run between pixels, and also where an object touches another or the border.
    """
    for number, place in enumerate(find_objects(labels), 1):
        if place:
            corner = place[0].start - 1, place[1].start - 1
            inside = np.pad(labels[place] == number, 1)
            yield number, [line + corner for line in find_contours(inside, 0.5)]


def rois(labels: NDArray[np.integer], name: str) -> list[roifile.ImagejRoi]:
    """Outline each object of a label image by a polygon with the centres of just its pixels inside.

    They are named ``<name>-<number>``. ImageJ's coordinates: the first pixel covers 0 to 1. An
    object with holes, or of several parts, is a compound ROI.
    """
    # A pixel's centre is 0 in scikit-image and 0.5 in ImageJ, whose outlines close by themselves.
    return [_roi([line[:-1, ::-1] + 0.5 for line in lines], f"{name}-{number}")
            for number, lines in contours(labels)]  # fmt: skip


def _roi(loops: list[NDArray[np.float64]], name: str) -> roifile.ImagejRoi:
    roi = roifile.ImagejRoi.frompoints(np.concatenate(loops).astype(np.float32), name=name)
    if len(loops) == 1:
        roi.roitype = roifile.ROI_TYPE.POLYGON
        return roi
    move, line, close = 0, 1, 4
    steps = []
    for loop in loops:
        kinds = np.r_[move, np.full(len(loop) - 1, line)]
        steps += [np.c_[kinds, loop].ravel(), [close]]
    path = np.concatenate(steps).astype(np.float32)
    edges = {side: getattr(roi, side) for side in ("top", "left", "bottom", "right")}
    return roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT, name=name, multi_coordinates=path,
        shape_roi_size=len(path), **edges,
    )  # fmt: skip


def roi_set(found: Iterable[roifile.ImagejRoi]) -> bytes:
    """Pack ROIs as a set for ImageJ's ROI manager, a zip; the same ROIs give the same bytes."""
    with zipfile.ZipFile(data := io.BytesIO(), "w") as archive:
        for roi in found:
            entry = zipfile.ZipInfo(f"{roi.name.replace('/', '_')}.roi")  # without the time
            archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)
    return data.getvalue()


def geojson(
    labels: Iterable[NDArray[np.integer]], classes: Sequence[str], colours: Sequence[Any],
    measured: Mapping[int, Mapping[str, float]],
) -> bytes:  # fmt: skip
    """Write the outlines of each class's objects as GeoJSON, px, as QuPath reads it.

    ``colours`` are three numbers from 0 to 255 for each class; ``measured`` numbers by object.
    """
    features = []
    for name, colour, plane in zip(classes, colours, labels, strict=True):
        for number, lines in contours(plane):
            # The outline is the longest line, the others are holes.
            rings = sorted((line[:, ::-1] + 0.5 for line in lines), key=lambda r: -np.ptp(r[:, 0]))
            features.append({
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring.tolist() for ring in rings]},
                "properties": {
                    "objectType": "detection", "name": f"{name}-{number}",
                    "classification": {"name": name, "color": list(colour)},
                    "measurements": measured[number],
                },
            })  # fmt: skip
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()
