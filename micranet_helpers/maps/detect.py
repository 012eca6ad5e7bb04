"""Find points and objects in a map of scores.

Points are rows and columns of pixels; the centre of the first pixel is (0, 0).
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from micranet_helpers.metrics.masks import as_labels


def peaks(score: ArrayLike, min_distance: int, threshold: float) -> NDArray[np.float64]:
    """Find the peaks of a score: the highest values within ``min_distance`` rows and columns.

    The score (H, W) is finite and high on the objects, e.g. evidence in logits; peaks below
    ``threshold``, in its unit, are left out. ``min_distance`` is at least 1 px: take about half the
    distance of the nearest objects. The peaks, float64 (N, 3), are row, column and score, the
    highest score first; a constant score has none. A plateau wider than ``min_distance`` has
    several peaks: smooth such a score first. Raises ValueError if the score is no finite map, or
    ``min_distance`` is less than 1.
    """
    score = _map(score, min_distance)
    found = peak_local_max(score, min_distance, threshold, exclude_border=False)
    return np.c_[found, score[tuple(found.T)]]


def instances(mask: ArrayLike, landscape: ArrayLike, min_distance: int) -> NDArray[np.int32]:
    """Split a mask into objects: one around each peak of a landscape (watershed).

    Parts of the mask that do not touch (4 neighbours) are always different objects. They are
    numbered from 1, int32 (H, W), 0 outside the mask. Raises ValueError if mask and landscape are
    no maps of one shape, or ``min_distance`` is less than 1.

    Parameters
    ----------
    mask : array-like, bool, (H, W)
        Pixels of all objects.
    landscape : array-like, (H, W)
        Finite values; high inside the objects and low between them, e.g. the distance from the
        background (``scipy.ndimage.distance_transform_edt(mask)``).
    min_distance : int
        At least 1 px; peaks of one part nearer than this, in rows and columns, are one object.

    References
    ----------
    Watershed: Vincent & Soille 1991, doi 10.1109/34.87344, as in scikit-image.
    """
    mask, landscape = np.asarray(mask), _map(landscape, min_distance)
    if mask.dtype != bool or mask.shape != landscape.shape:
        raise ValueError(
            f"The mask is {mask.dtype} {mask.shape}: give a bool mask of the landscape's shape "
            f"{landscape.shape}."
        )
    parts, _ = ndimage.label(mask)
    found = peak_local_max(landscape, min_distance, labels=parts, exclude_border=False)
    # A plateau is one summit, however many of its pixels were found, and a shoulder is none.
    inside = np.where(mask, landscape, -np.inf)
    summits, count = ndimage.label(local_maxima(inside, connectivity=1))
    markers = np.where(np.isin(summits, summits[tuple(found.T)]), summits, 0)
    labels = watershed(-landscape, markers, mask=mask)
    rest = np.where(labels == 0, parts, 0)  # a part of constant height may have no peak
    return drop_small(np.where(rest, rest + count, labels), 1)


def pieces(mask: ArrayLike, area: float = 1, split: int = 0) -> NDArray[np.int32]:
    """Number the objects of a bool mask (H, W): its parts that do not touch (4 neighbours).

    With ``split`` above 0, parts with several bulges are split between them (watershed of the
    distance from the background); bulges nearer than this to each other, px, are one. The numbers,
    int32 (H, W), begin with 1, and are 0 outside the mask; objects of fewer than ``area`` pixels
    are left out. Raises ValueError if this is no mask.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 2:
        raise ValueError(f"Give a bool mask (height, width), not {mask.dtype} {mask.shape}.")
    if split and mask.any():
        return drop_small(instances(mask, ndimage.distance_transform_edt(mask), split), area)
    return drop_small(ndimage.label(mask)[0], area)


def refined(mask: NDArray[np.bool_], image: NDArray[Any], reach: float) -> NDArray[np.bool_]:
    """Follow the contrast of an image near a coarse mask: both (H, W).

    Otsu's threshold of the pixels within ``reach`` px of the mask divides these in two; the side
    that the mask's pixels are on, compared with those farther away, replaces it where it touches
    it. So objects may be dark or bright, and get their own outlines.
    """
    if not mask.any():
        return mask
    near = ndimage.distance_transform_edt(~mask) <= reach
    if np.ptp(image[near]) == 0:
        return mask
    around = image if near.all() else image[~near]
    bright = image[mask].mean() >= around.mean()
    parts, _ = ndimage.label(near & ((image > threshold_otsu(image[near])) == bright))
    return np.isin(parts, np.setdiff1d(parts[mask], [0]))


def drop_small(labels: ArrayLike, area: float) -> NDArray[np.int32]:
    """Leave out objects of fewer than ``area`` pixels and number the others from 1.

    ``labels``, integer (H, W), have 0 for the background. The new ones, int32 (H, W), keep the
    order of the old. Raises ValueError if this is no label image.
    """
    labels = as_labels(labels)
    numbers, ranks, areas = np.unique(labels, return_inverse=True, return_counts=True)
    kept = (areas >= area) & (numbers != 0)
    return (kept * kept.cumsum())[ranks].reshape(labels.shape).astype(np.int32)


def table(
    labels: ArrayLike, score: ArrayLike | None = None, pixel_size_um: float | None = None
) -> list[dict[str, float]]:
    """List the objects of a label image, integer (H, W), as rows for ``csv.DictWriter`` or pandas.

    Each row has ``label``, ``area_px``, ``row`` and ``column`` (of the centroid, px). With a score,
    float (H, W), it has its mean in the object, ``score``; with the side of a pixel, µm, also
    ``area_um2``, ``row_um`` and ``column_um``. Raises ValueError if this is no label image, the
    score has another shape or the pixel size is not above 0.
    """
    labels = as_labels(labels)
    if pixel_size_um is not None and not 0 < pixel_size_um < np.inf:
        raise ValueError(f"The pixel size must be above 0 µm, not {pixel_size_um}.")
    if score is not None and np.shape(score) != labels.shape:
        raise ValueError(f"The score {np.shape(score)} must have the labels' shape {labels.shape}.")
    numbers, areas = np.unique(labels[labels != 0], return_counts=True)
    centroids = ndimage.center_of_mass(np.ones(labels.shape), labels, numbers)
    row, column = np.reshape(centroids, (-1, 2)).T
    columns = {"label": numbers, "area_px": areas, "row": row, "column": column}
    if score is not None:
        columns["score"] = np.asarray(ndimage.mean(np.asarray(score, float), labels, numbers))
    if pixel_size_um is not None:
        columns["area_um2"] = areas * pixel_size_um**2
        columns |= {"row_um": row * pixel_size_um, "column_um": column * pixel_size_um}
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _map(values: ArrayLike, min_distance: int) -> NDArray[np.float64]:
    values = np.asarray(values, float)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"Give one map (H, W) of finite numbers, not {values.shape} or NaN.")
    if min_distance < 1:
        raise ValueError(f"min_distance must be at least 1 pixel, not {min_distance}.")
    return values
