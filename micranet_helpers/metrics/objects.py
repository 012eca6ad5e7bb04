"""Compare numbered objects and their centres.

An empty prediction of an empty truth is right: nothing to find, nothing found, score 1. Only
``seg_score``, which judges true objects, has none to judge then and gives NaN.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.spatial.distance import cdist

from micranet_helpers.metrics.masks import Mask, as_array


@dataclass(frozen=True, eq=False)
class Matching:
    """One-to-one pairs of predicted and true objects, and the scores that follow from them.

    A ratio with the denominator 0 is 0, except where there is nothing to find and nothing was
    found: then precision, recall and F1 are 1, as for :func:`dice` (the FLClab/metrics package
    gives an F1 of 0 there).

    Attributes
    ----------
    pairs : ndarray of int64, (M, 2)
        Each row names a predicted and a true object; no object occurs twice.
    num_pred, num_true : int
        Number of predicted and of true objects.
    """

    pairs: NDArray[np.int64]
    num_pred: int
    num_true: int

    @property
    def tp(self) -> int:
        """True positives: the number of pairs."""
        return len(self.pairs)

    @property
    def fp(self) -> int:
        """False positives: predicted objects without a partner."""
        return self.num_pred - self.tp

    @property
    def fn(self) -> int:
        """False negatives: true objects without a partner."""
        return self.num_true - self.tp

    @property
    def precision(self) -> float:
        """Share of the predicted objects that are right, in [0, 1]."""
        return self._ratio(self.tp, self.num_pred)

    @property
    def recall(self) -> float:
        """Share of the true objects that were found, in [0, 1]."""
        return self._ratio(self.tp, self.num_true)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN), in [0, 1]."""
        return self._ratio(2 * self.tp, self.num_pred + self.num_true)

    def _ratio(self, part: int, whole: int) -> float:
        return part / whole if whole else float(self.num_pred == self.num_true)


def total(matchings: Iterable[Matching]) -> Matching:
    """Pool the matchings of many images, so that every object counts alike.

    Parameters
    ----------
    matchings : iterable of Matching
        One for each image (or class), at least one.

    Returns
    -------
    Matching
        Counts and scores of all objects together. Its pairs are those of the images one after
        another, with each image's own numbers.

    Raises
    ------
    ValueError
        If there is no matching.
    """
    matchings = list(matchings)
    return Matching(
        np.concatenate([each.pairs for each in matchings]),
        sum(each.num_pred for each in matchings),
        sum(each.num_true for each in matchings),
    )


def match_centroids(
    pred_points: ArrayLike,
    true_points: ArrayLike,
    max_distance: float,
    how: Literal["hungarian", "nearest"] = "hungarian",
) -> Matching:
    """Pair predicted and true points by their distance.

    ``"nearest"`` takes the closest pair of points, sets both aside and goes on, as long as the
    distance is at most ``max_distance``. ``"hungarian"`` leaves out points without a partner
    nearer than ``max_distance``, assigns the others so that the sum of log(distance + 1e-6) is
    smallest, and keeps the pairs nearer than ``max_distance``.

    Parameters
    ----------
    pred_points, true_points : array-like or Tensor, float, (N, 2) and (M, 2)
        Row and column of each point, in pixels.
    max_distance : float
        Largest distance of a pair, in pixels.
    how : {"hungarian", "nearest"}
        Way to pair.

    Returns
    -------
    Matching
        Its pairs hold the row numbers of the points in the two inputs.

    Raises
    ------
    ValueError
        If the points are not finite numbers of shape (N, 2), ``max_distance`` is not above 0 or
        ``how`` is unknown.

    References
    ----------
    Kuhn 1955, Nav. Res. Logist. Q. 2, 83–97, doi 10.1002/nav.3800020109; the costs and limits
    are those of the package FLClab/metrics.
    """
    pred, true = _points(pred_points), _points(true_points)
    if not max_distance > 0:
        raise ValueError(f"max_distance must be above 0 pixels, not {max_distance}.")
    if how not in ("hungarian", "nearest"):
        raise ValueError(f'how must be "hungarian" or "nearest", not {how!r}.')
    match = _hungarian if how == "hungarian" else _nearest
    return Matching(match(cdist(pred, true), max_distance), len(pred), len(true))


def match_objects(pred_labels: Mask, true_labels: Mask, min_iou: float = 0.5) -> Matching:
    """Pair predicted and true objects by their intersection over union (IoU).

    Only pairs with an IoU of at least ``min_iou`` may be taken; among them, the sum of IoUs is
    made largest (Hungarian method). From 0.5 on this is the usual method, as an object has
    one possible partner. Below 0.5 it differs from FLClab/metrics, which only asks that each
    object has *some* partner above the limit and may then pair it with another one.

    Parameters
    ----------
    pred_labels, true_labels : Tensor or ndarray, integer, (H, W)
        Label images: 0 is background, every other value is one object.
    min_iou : float
        Smallest IoU of a pair, in (0, 1].

    Returns
    -------
    Matching
        Its pairs hold the label values of the objects.

    Raises
    ------
    ValueError
        If the images are no integer label images of one shape (H, W), or ``min_iou`` is outside
        (0, 1].

    References
    ----------
    Caicedo et al. 2019, Cytometry A 95, 952–965, doi 10.1002/cyto.a.23863.
    """
    if not 0 < min_iou <= 1:
        raise ValueError(f"min_iou must be above 0 and at most 1, not {min_iou}.")
    pred_ids, true_ids, p, t, overlap, _ = _overlaps(pred_labels, true_labels)
    possible = (overlap >= min_iou) & (pred_ids[p] != 0) & (true_ids[t] != 0)
    pairs = _largest_sum(p[possible], t[possible], overlap[possible])
    pairs = np.stack([pred_ids[pairs[:, 0]], true_ids[pairs[:, 1]]], axis=1)
    return Matching(pairs.astype(np.int64), np.count_nonzero(pred_ids), np.count_nonzero(true_ids))


def seg_score(pred_labels: Mask, true_labels: Mask) -> float:
    """Compute the mean IoU of the true objects with the predicted objects that cover them.

    A predicted object covers a true one if it holds more than half of its pixels; a true object
    that none covers counts 0. Predicted objects that cover nothing do not matter.

    Parameters
    ----------
    pred_labels, true_labels : Tensor or ndarray, integer, (H, W) or (N, H, W)
        Label images: 0 is background, every other value is one object of that image. Of several
        images, all true objects have the same weight.

    Returns
    -------
    float
        In [0, 1]; NaN where there is no true object.

    Raises
    ------
    ValueError
        If the images are no integer label images of one shape.

    References
    ----------
    SEG of the Cell Tracking Challenge: Maška et al. 2014, Bioinformatics 30, 1609–1617,
    doi 10.1093/bioinformatics/btu080.
    """
    if np.ndim(true_labels) != 3:
        pred_labels, true_labels = [pred_labels], [true_labels]
    if len(pred_labels) != len(true_labels):
        raise ValueError(f"There are {len(pred_labels)} predictions of {len(true_labels)} images.")
    total = count = 0
    for pair in zip(pred_labels, true_labels, strict=True):
        pred_ids, true_ids, p, t, overlap, share = _overlaps(*pair)
        covered = (share > 0.5) & (pred_ids[p] != 0) & (true_ids[t] != 0)
        total += overlap[covered].sum()
        count += np.count_nonzero(true_ids)
    return float(total / count) if count else float("nan")


def holders(inner: Mask, outer: Mask) -> NDArray[np.int64]:
    """Find the objects of one label image that hold several objects of another.

    With true objects inside predicted ones these are the cells that were merged; the other way
    round, the true cells that were split.

    Parameters
    ----------
    inner, outer : Tensor or ndarray, integer, (H, W)
        Label images: 0 is background, every other value is one object.

    Returns
    -------
    ndarray, int64, (N,)
        Labels of ``outer`` that hold more than half of each of two or more objects of ``inner``.

    Raises
    ------
    ValueError
        If the images are no integer label images of one shape.
    """
    outer_ids, inner_ids, o, i, _, share = _overlaps(outer, inner)
    inside = (share > 0.5) & (outer_ids[o] != 0) & (inner_ids[i] != 0)
    held, times = np.unique(outer_ids[o[inside]], return_counts=True)
    return held[times > 1].astype(np.int64)


def _points(points: ArrayLike) -> NDArray[np.float64]:
    points = as_array(points)
    if points.size == 0:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"Points must be finite numbers of shape (N, 2), not {points.shape}.")
    return points.astype(np.float64)



def _nearest(distances: NDArray[np.float64], limit: float) -> NDArray[np.int64]:
    near = np.argwhere(distances <= limit)
    order = np.argsort(distances[tuple(near.T)], kind="stable")
    taken: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for i, j in near[order].tolist():
        if i not in taken[0] and j not in taken[1]:
            pairs.append((i, j))
            taken[0].add(i)
            taken[1].add(j)
    return np.array(pairs, np.int64).reshape(-1, 2)


def _hungarian(distances: NDArray[np.float64], limit: float) -> NDArray[np.int64]:
    near = distances < limit
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    i, j = linear_sum_assignment(np.log(distances[np.ix_(rows, columns)] + 1e-6))
    pairs = np.stack([rows[i], columns[j]], axis=1)
    return pairs[near[tuple(pairs.T)]]


def _label_image(labels: Mask) -> NDArray[np.integer]:
    labels = as_array(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"A label image must hold integers of shape (H, W), not {labels.dtype} of shape "
            f"{labels.shape}: number the objects of a mask with skimage.measure.label."
        )
    return labels


def _overlaps(pred_labels: Mask, true_labels: Mask) -> tuple[NDArray[Any], ...]:
    """Label values of both images; of all pairs that meet: ranks, IoU, share of the true object."""
    pred, true = _label_image(pred_labels), _label_image(true_labels)
    if pred.shape != true.shape:
        raise ValueError(f"The label images have different shapes: {pred.shape}, {true.shape}.")
    # Labels may have gaps or be huge, so the table is indexed by their ranks.
    pred_ids, p = np.unique(pred.ravel(), return_inverse=True)
    true_ids, t = np.unique(true.ravel(), return_inverse=True)
    shape = (len(pred_ids), len(true_ids))
    table = coo_array((np.ones(p.size, np.int64), (p, t)), shape=shape)
    table.sum_duplicates()
    p, t = table.coords
    pred_area, true_area = table.sum(1)[p], table.sum(0)[t]
    iou = table.data / (pred_area + true_area - table.data)
    return pred_ids, true_ids, p, t, iou, table.data / true_area


def _largest_sum(
    rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float64]
) -> NDArray[np.int64]:
    row_ids, i = np.unique(rows, return_inverse=True)
    column_ids, j = np.unique(columns, return_inverse=True)
    gain = np.zeros((len(row_ids), len(column_ids)))
    gain[i, j] = values
    i, j = linear_sum_assignment(gain, maximize=True)
    return np.stack([row_ids[i], column_ids[j]], axis=1)[gain[i, j] > 0]
