"""From a map of scores to points and objects, and how well they agree with annotated boxes.

Points are rows and columns of pixels; the centre of the first pixel is (0, 0). Boxes are bounded
by the edges of pixels, as in :mod:`micranet_helpers.data.layout`: top, left, bottom, right 0, 0,
2, 2 holds the pixels 0 and 1 of both directions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from skimage.feature import peak_local_max
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from micranet_helpers.metrics import Matching


def peaks(score: ArrayLike, min_distance: int, threshold: float) -> NDArray[np.float64]:
    """Find where a score is highest in its surroundings.

    Each peak is the highest value within ``min_distance`` rows and columns. A plateau wider than
    that has several peaks: smooth such a score first.

    Parameters
    ----------
    score : array-like, (H, W)
        Finite values; high on the objects, e.g. evidence in logits.
    min_distance : int
        At least 1 px: about half the distance of the nearest objects.
    threshold : float
        Only peaks above it are found, in the unit of the score.

    Returns
    -------
    ndarray, float64, (N, 3)
        Row, column, score; the highest score first. Nothing where the score is constant.

    Raises
    ------
    ValueError
        If the score is no finite map, or a number makes no sense.
    """
    score = _map(score, min_distance)
    if not np.isfinite(threshold):
        raise ValueError(f"The threshold must be a finite number, not {threshold}.")
    found = peak_local_max(score, min_distance, threshold, exclude_border=False)
    return np.c_[found, score[tuple(found.T)]]


def instances(mask: ArrayLike, landscape: ArrayLike, min_distance: int) -> NDArray[np.int32]:
    """Split a mask into objects: one around each peak of a landscape (watershed).

    Parts of the mask that do not touch (4 neighbours) are different objects in any case, and each
    of them is at least one object.

    Parameters
    ----------
    mask : array-like, bool, (H, W)
        Pixels of all objects.
    landscape : array-like, (H, W)
        Finite values; high inside the objects and low between them, e.g. the distance from the
        background (``scipy.ndimage.distance_transform_edt(mask)``), or the evidence for a cell
        less that for a contact of two cells.
    min_distance : int
        At least 1 px: peaks of one part nearer than this, in rows and columns, are one object.

    Returns
    -------
    ndarray, int32, (H, W)
        0 outside the mask; objects are numbered from 1.

    Raises
    ------
    ValueError
        If mask and landscape are no maps of one shape, or a number makes no sense.

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


def pieces(mask: ArrayLike, area: float = 1) -> NDArray[np.int32]:
    """Number the parts of a mask that do not touch (4 neighbours), each an object.

    Parameters
    ----------
    mask : array-like, bool, (H, W)
        Pixels of all objects.
    area : float
        Parts of fewer pixels are left out.

    Returns
    -------
    ndarray, int32, (H, W)
        0 outside the mask; objects are numbered from 1.

    Raises
    ------
    ValueError
        If this is no mask.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 2:
        raise ValueError(f"Give a bool mask (height, width), not {mask.dtype} {mask.shape}.")
    return drop_small(ndimage.label(mask)[0], area)


def drop_small(labels: ArrayLike, area: float) -> NDArray[np.int32]:
    """Leave out objects of fewer than ``area`` pixels and number the others from 1.

    Parameters
    ----------
    labels : array-like, integer, (H, W)
        0 is background, every other value is one object.
    area : float
        Least number of pixels.

    Returns
    -------
    ndarray, int32, (H, W)
        The objects, in the order of their old numbers.

    Raises
    ------
    ValueError
        If this is no label image.
    """
    labels = _label_image(labels)
    numbers, ranks, areas = np.unique(labels, return_inverse=True, return_counts=True)
    kept = (areas >= area) & (numbers != 0)
    return (kept * kept.cumsum())[ranks].reshape(labels.shape).astype(np.int32)


def table(
    labels: ArrayLike, score: ArrayLike | None = None, pixel_size_um: float | None = None
) -> list[dict[str, float]]:
    """List the objects of a label image, one a row.

    Parameters
    ----------
    labels : array-like, integer, (H, W)
        0 is background, every other value is one object.
    score : array-like, float, (H, W), optional
        A map whose mean in each object is wanted.
    pixel_size_um : float, optional
        Side of a pixel, µm.

    Returns
    -------
    list of dict
        ``label``, ``area_px``, ``row`` and ``column`` (of the centroid, px); ``score`` if there
        is one; ``area_um2``, ``row_um`` and ``column_um`` if the pixel size is known. Fit for
        ``csv.DictWriter`` or ``pandas.DataFrame``.

    Raises
    ------
    ValueError
        If this is no label image, the score has another shape or the pixel size is not above 0.
    """
    labels = _label_image(labels)
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


def match_boxes(
    points: ArrayLike, boxes: ArrayLike, ignore: ArrayLike = (), slack: float = 0
) -> Matching:
    """Pair points and boxes: a point detects a box when it lies in it.

    Each point detects one box at most, and each box is detected once. As many pairs as possible
    are made; among these choices, the distances of points to the centres of their boxes have the
    smallest sum (Hungarian method).

    Parameters
    ----------
    points : array-like, float, (N, 2) or more columns
        Row and column, px, e.g. of :func:`peaks`; more columns are not used.
    boxes : array-like, float, (M, 4)
        Top, left, bottom, right, px: for a Sample, the rows of its ``boxes`` of one class
        without their first column.
    ignore : array-like, float, (P, 4)
        Boxes of which nobody knows whether they should be found.
    slack : float
        Points up to this far outside a box, px, count as inside.

    Returns
    -------
    Matching
        Pairs hold the row numbers of ``points`` and ``boxes``; :func:`ignored` points are not
        counted in ``num_pred``.

    Raises
    ------
    ValueError
        If points or boxes have another shape, are not finite, or a box is turned.
    """
    points, boxes = _points(points), _boxes(boxes)
    centres = (boxes[:, :2] + boxes[:, 2:] - 1) / 2
    distances = cdist(points[:, :2], centres)
    # More than all distances together: one pair more is worth any way.
    most = distances.max(initial=0) * min(distances.shape) + 1
    pairs = _largest_sum(np.where(_inside(points, boxes, slack), most - distances, 0))
    skipped = ignored(points, boxes, ignore, slack).sum()
    return Matching(pairs, len(points) - int(skipped), len(boxes))


def ignored(
    points: ArrayLike, boxes: ArrayLike, ignore: ArrayLike, slack: float = 0
) -> NDArray[np.bool_]:
    """Mark the points that count neither way: they lie in an ignored box, and in no other.

    Parameters
    ----------
    points, boxes, ignore, slack
        As in :func:`match_boxes`.

    Returns
    -------
    ndarray, bool, (N,)
        True where a point is not counted.

    Raises
    ------
    ValueError
        As in :func:`match_boxes`.
    """
    points, boxes, ignore = _points(points), _boxes(boxes), _boxes(ignore)
    return _inside(points, ignore, slack).any(1) & ~_inside(points, boxes, slack).any(1)


class Curve(NamedTuple):
    """What :func:`precision_recall` returns.

    Attributes
    ----------
    thresholds : ndarray, float64, (T,)
        All different scores of points that count, the highest first.
    precision, recall : ndarray, float64, (T,)
        Of the points whose score reaches each threshold, over all images together.
    average_precision : float
        Mean precision over the boxes in the order in which they are found, 0 for those that
        never are; in [0, 1].
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    average_precision: float


def precision_recall(
    points_by_image: Sequence[ArrayLike],
    boxes_by_image: Sequence[ArrayLike],
    ignore_by_image: Sequence[ArrayLike] | None = None,
    slack: float = 0,
) -> Curve:
    """Compute precision and recall of points for every threshold of their score.

    They are those of :func:`match_boxes` for the points of at least that score.

    Parameters
    ----------
    points_by_image : sequence of array-like, float, (N, 3) or more columns
        Row, column, score of the points of each image.
    boxes_by_image : sequence of array-like, float, (M, 4)
        Boxes of each image.
    ignore_by_image : sequence of array-like, float, (P, 4), optional
        Boxes of each image that count neither way.
    slack : float
        As in :func:`match_boxes`.

    Returns
    -------
    Curve
        Thresholds, precision, recall and average precision (not interpolated, as
        ``average_precision_score`` of scikit-learn).

    Raises
    ------
    ValueError
        If the lists differ in length, there is no box at all, or points and boxes are wrong.
    """
    if ignore_by_image is None:
        ignore_by_image = [()] * len(boxes_by_image)
    lengths = [len(each) for each in (points_by_image, boxes_by_image, ignore_by_image)]
    if len(set(lengths)) > 1:
        raise ValueError(f"Points, boxes and ignored boxes are of {lengths} images: give as many.")
    num_true = sum(len(_boxes(boxes)) for boxes in boxes_by_image)
    if num_true == 0:
        raise ValueError("There is no box to be found: give images with boxes.")
    images = zip(points_by_image, boxes_by_image, ignore_by_image, strict=True)
    counted = np.concatenate([_hits(*image, slack) for image in images])
    score, hit = counted[counted[:, 0].argsort()[::-1]].T
    last = np.flatnonzero(np.diff(score, append=-np.inf))  # of the points of each score
    found = hit.cumsum()[last]
    precision, recall = found / (last + 1), found / num_true
    area = float((np.diff(recall, prepend=0) * precision).sum())
    return Curve(score[last], precision, recall, area)


def _hits(
    points: ArrayLike, boxes: ArrayLike, ignore: ArrayLike, slack: float
) -> NDArray[np.float64]:
    """Score of each point that counts, and whether it is a further box found (1) or not (0).

    The sets of points that can detect different boxes are a matroid. So a matching that prefers
    points of higher score has, above every threshold, as many pairs as any matching of the points
    above it: one matching serves for all thresholds.
    """
    points, boxes = _points(points, 3), _boxes(boxes)
    hit = np.zeros(len(points))
    rank = points[:, 2].argsort().argsort() + 1
    hit[_largest_sum(_inside(points, boxes, slack) * rank[:, None])[:, 0]] = 1
    return np.c_[points[:, 2], hit][~ignored(points, boxes, ignore, slack)]


def _largest_sum(gain: NDArray[Any]) -> NDArray[np.int64]:
    pairs = np.stack(linear_sum_assignment(gain, maximize=True), axis=1)
    return pairs[gain[tuple(pairs.T)] > 0]


def _inside(
    points: NDArray[np.float64], boxes: NDArray[np.float64], slack: float
) -> NDArray[np.bool_]:
    """Whether each point is in each box: (N, M)."""
    if not 0 <= slack < np.inf:
        raise ValueError(f"The slack must be 0 px or more, not {slack}.")
    places = points[:, None, :2] + 0.5
    return ((boxes[:, :2] - slack <= places) & (places <= boxes[:, 2:] + slack)).all(-1)


def _points(points: ArrayLike, columns: int = 2) -> NDArray[np.float64]:
    points = np.asarray(points, float)
    if points.size == 0:
        return np.empty((0, columns))
    if points.ndim != 2 or points.shape[1] < columns or not np.isfinite(points).all():
        names = ("row", "column", "score")[:columns]
        raise ValueError(f"Points must be finite rows of {', '.join(names)}, not {points.shape}.")
    return points


def _boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    boxes = np.asarray(boxes, float)
    if boxes.size == 0:
        return np.empty((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError(
            f"Boxes must be finite rows of top, left, bottom, right, not {boxes.shape}: leave out "
            "the class of a Sample's boxes with boxes[:, 1:]."
        )
    if (boxes[:, :2] > boxes[:, 2:]).any():
        raise ValueError("A box ends before it begins: give top, left, bottom, right.")
    return boxes


def _map(values: ArrayLike, min_distance: int) -> NDArray[np.float64]:
    values = np.asarray(values, float)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"Give one map (H, W) of finite numbers, not {values.shape} or NaN.")
    if min_distance < 1:
        raise ValueError(f"min_distance must be at least 1 pixel, not {min_distance}.")
    return values


def _label_image(labels: ArrayLike) -> NDArray[np.integer]:
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"A label image must hold integers of shape (H, W), not {labels.dtype} of shape "
            f"{labels.shape}: number the objects of a mask with instances."
        )
    return labels
