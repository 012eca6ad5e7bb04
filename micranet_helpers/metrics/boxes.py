"""Compare points with annotated boxes: matching, precision and recall.

Points are rows and columns of pixels; the centre of the first pixel is (0, 0). Boxes are bounded
by the edges of pixels, as in :mod:`micranet_helpers.data.dataset`: top, left, bottom, right 0, 0,
2, 2 holds the pixels 0 and 1 of both directions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from micranet_helpers.metrics.objects import Matching, largest_sum


def match_boxes(
    points: ArrayLike, boxes: ArrayLike, ignore: ArrayLike = (), slack: float = 0
) -> Matching:
    """Pair points and boxes: a point detects a box when it lies in it.

    Each point detects one box at most, and each box is detected once. Of the largest sets of
    pairs, that with the smallest sum of distances to the centres of boxes is taken (Hungarian
    method).

    Parameters
    ----------
    points : array-like, float, (N, 2) or more columns
        Row and column, px, e.g. of :func:`~micranet_helpers.maps.detect.peaks`; more columns
        are ignored.
    boxes : array-like, float, (M, 4)
        Top, left, bottom, right, px: for a Sample, the rows of its ``boxes`` of one class
        without their first column.
    ignore : array-like, float, (P, 4)
        Boxes that may or may not be found.
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
        If points or boxes have another shape or are not finite, or a box ends before it begins.
    """
    points, boxes, inside, skipped = _placed(points, boxes, ignore, slack)
    centres = (boxes[:, :2] + boxes[:, 2:] - 1) / 2
    distances = cdist(points[:, :2], centres)
    # More than all distances together: one pair more is worth any way.
    most = distances.max(initial=0) * min(distances.shape) + 1
    pairs = largest_sum(np.where(inside, most - distances, 0))
    return Matching(pairs, int((~skipped).sum()), len(boxes))


def ignored(
    points: ArrayLike, boxes: ArrayLike, ignore: ArrayLike, slack: float = 0
) -> NDArray[np.bool_]:
    """Mark the points that are not counted: in an ignored box and in no other, bool (N,).

    Points, boxes, ignored boxes and slack are those of :func:`match_boxes`.
    """
    return _placed(points, boxes, ignore, slack)[-1]


class Curve(NamedTuple):
    """Hold what :func:`precision_recall` returns.

    Attributes
    ----------
    thresholds : ndarray, float64, (T,)
        All different scores of points that count, the highest first.
    precision, recall : ndarray, float64, (T,)
        Of the points whose score reaches each threshold, over all images together.
    average_precision : float
        Mean precision over the boxes in the order in which they are found, 0 for those never
        found; in [0, 1].
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

    They equal those of :func:`match_boxes` for the points of at least that score.

    Parameters
    ----------
    points_by_image : sequence of array-like, float, (N, 3) or more columns
        Row, column, score of the points of each image.
    boxes_by_image : sequence of array-like, float, (M, 4)
        Boxes of each image.
    ignore_by_image : sequence of array-like, float, (P, 4), optional
        Boxes of each image that are not counted.
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
    """List the score of each point that counts, and whether it finds a further box (1) or not (0).

    The sets of points that can detect different boxes are a matroid. So a matching that prefers
    points of higher score has, above every threshold, as many pairs as any matching of the points
    above it: one matching serves for all thresholds.
    """
    points, _, inside, skipped = _placed(points, boxes, ignore, slack, 3)
    hit = np.zeros(len(points))
    rank = points[:, 2].argsort().argsort() + 1
    hit[largest_sum(inside * rank[:, None])[:, 0]] = 1
    return np.c_[points[:, 2], hit][~skipped]


def _placed(
    points: ArrayLike, boxes: ArrayLike, ignore: ArrayLike, slack: float, columns: int = 2
) -> tuple[NDArray[Any], ...]:
    """Check points and boxes; say which are in which, (N, M), and which points are ignored."""
    points, boxes, ignore = _points(points, columns), _boxes(boxes), _boxes(ignore)
    if not 0 <= slack < np.inf:
        raise ValueError(f"The slack must be 0 px or more, not {slack}.")
    places = points[:, None, :2] + 0.5
    inside, aside = (((some[:, :2] - slack <= places) & (places <= some[:, 2:] + slack)).all(-1)
                     for some in (boxes, ignore))  # fmt: skip
    return points, boxes, inside, aside.any(1) & ~inside.any(1)


def _points(points: ArrayLike, columns: int) -> NDArray[np.float64]:
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
