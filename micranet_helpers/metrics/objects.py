"""Compare numbered objects.

An empty prediction of an empty truth is right: nothing to find, nothing found, score 1. Only
``seg_score``, which judges true objects, has none to judge then and gives NaN.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array

from micranet_helpers.metrics.masks import Mask, as_labels


@dataclass(frozen=True, eq=False)
class Matching:
    """Hold one-to-one pairs of predicted and true objects, and the scores that follow from them.

    A ratio with the denominator 0 is 0; where there is nothing to find and nothing was found,
    precision, recall and F1 are 1, as for :func:`~micranet_helpers.metrics.masks.dice`
    (FLClab/metrics gives an F1 of 0 there).

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
        """Count the pairs (true positives)."""
        return len(self.pairs)

    @property
    def fp(self) -> int:
        """Count predicted objects without a partner (false positives)."""
        return self.num_pred - self.tp

    @property
    def fn(self) -> int:
        """Count true objects without a partner (false negatives)."""
        return self.num_true - self.tp

    @property
    def precision(self) -> float:
        """Give the share of predicted objects that are right, in [0, 1]."""
        return self._ratio(self.tp, self.num_pred)

    @property
    def recall(self) -> float:
        """Give the share of true objects that were found, in [0, 1]."""
        return self._ratio(self.tp, self.num_true)

    @property
    def f1(self) -> float:
        """Give the harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN), in [0, 1]."""
        return self._ratio(2 * self.tp, self.num_pred + self.num_true)

    def _ratio(self, part: int, whole: int) -> float:
        return part / whole if whole else float(self.num_pred == self.num_true)


def total(matchings: Iterable[Matching]) -> Matching:
    """Pool the matchings of images or classes, at least one, so that every object counts alike.

    The pairs are those of the images one after another, with each image's own numbers. Raises
    ValueError if there is no matching.
    """
    matchings = list(matchings)
    return Matching(
        np.concatenate([each.pairs for each in matchings]),
        sum(each.num_pred for each in matchings),
        sum(each.num_true for each in matchings),
    )


def match_objects(pred_labels: Mask, true_labels: Mask, min_iou: float = 0.5) -> Matching:
    """Pair predicted and true objects by their intersection over union (IoU).

    Of all pairs with an IoU of at least ``min_iou``, those with the largest sum of IoUs are taken
    (Hungarian method). From 0.5 on an object has one possible partner. Below 0.5 the result
    differs from FLClab/metrics, which may pair an object with one that is below the limit.

    Parameters
    ----------
    pred_labels, true_labels : Tensor or ndarray, integer, (H, W)
        Label images: 0 is background, every value above is one object.
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
    possible = overlap >= min_iou
    gain = np.zeros((len(pred_ids), len(true_ids)))
    gain[p[possible], t[possible]] = overlap[possible]
    pairs = largest_sum(gain)
    pairs = np.stack([pred_ids[pairs[:, 0]], true_ids[pairs[:, 1]]], axis=1)
    return Matching(pairs.astype(np.int64), np.count_nonzero(pred_ids), np.count_nonzero(true_ids))


def seg_score(pred_labels: Mask, true_labels: Mask) -> float:
    """Compute the mean IoU of the true objects with the predicted objects that cover them.

    A predicted object covers a true one if it holds more than half of its pixels; a true object
    that none covers counts 0. Predicted objects that cover nothing do not matter. The score, in
    [0, 1], is NaN where there is no true object. Label images are those of :func:`match_objects`.
    Raises ValueError if they are no integer label images of one shape.

    SEG of the Cell Tracking Challenge: Maška et al. 2014, Bioinformatics 30, 1609–1617,
    doi 10.1093/bioinformatics/btu080.
    """
    _, true_ids, _, _, overlap, share = _overlaps(pred_labels, true_labels)
    count = np.count_nonzero(true_ids)
    return float(overlap[share > 0.5].sum() / count) if count else float("nan")


def holders(inner: Mask, outer: Mask) -> NDArray[np.int64]:
    """Find the objects of one label image that hold several objects of another.

    Predicted objects that hold several true ones are merged cells; true objects that hold several
    predicted ones are split cells. Label images are those of :func:`match_objects`. The result,
    int64 (N,), has the labels of ``outer`` that hold more than half of each of two or more objects
    of ``inner``. Raises ValueError if the images are no integer label images of one shape.
    """
    outer_ids, _, o, _, _, share = _overlaps(outer, inner)
    held, times = np.unique(outer_ids[o[share > 0.5]], return_counts=True)
    return held[times > 1].astype(np.int64)


def _overlaps(pred_labels: Mask, true_labels: Mask) -> tuple[NDArray[Any], ...]:
    """List labels of both images; of objects that meet: ranks, IoU, share of the true object."""
    pred, true = as_labels(pred_labels), as_labels(true_labels)
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
    pairs = p, t, table.data / (pred_area + true_area - table.data), table.data / true_area
    objects = (pred_ids[p] != 0) & (true_ids[t] != 0)
    return pred_ids, true_ids, *(each[objects] for each in pairs)


def largest_sum(gain: NDArray[np.floating]) -> NDArray[np.int64]:
    """Pair rows and columns of a table so that the sum of its values is largest; 0 is no pair."""
    pairs = np.stack(linear_sum_assignment(gain, maximize=True), axis=1)
    return pairs[gain[tuple(pairs.T)] > 0]
