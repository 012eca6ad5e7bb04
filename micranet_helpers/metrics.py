"""How good are the masks, the points, the objects and the image-level labels?

Masks and labels may be torch tensors on any device or numpy arrays. An empty prediction of an
empty truth is right here: nothing to find, nothing found, score 1. Only boundary_dice and
seg_score, which judge outlines and true objects, have none to judge then and give NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import correlate1d
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.spatial.distance import cdist
from torch import Tensor

Mask = Tensor | NDArray[np.bool_] | NDArray[np.integer]


def dice(pred: Mask, target: Mask, dim: int | tuple[int, ...] | None = None) -> float | Tensor:
    """Compute the Dice coefficient: twice the common area over the sum of both areas.

    It is the F1 score of the pixels.

    Parameters
    ----------
    pred, target : Tensor or ndarray, bool or integer, any equal shape
        Masks; every value other than 0 is foreground.
    dim : int or tuple of int, optional
        Axes to count over, e.g. ``(-2, -1)`` for one value per image. By default all pixels of
        all images are counted together.

    Returns
    -------
    float, or Tensor of float32 on the device of ``pred`` where ``dim`` is given
        In [0, 1]. Two empty masks give 1, one empty mask gives 0.

    Raises
    ------
    TypeError
        If a mask holds floating-point numbers.
    ValueError
        If the shapes differ.

    References
    ----------
    Dice 1945, Ecology 26, 297–302, doi 10.2307/1932409.
    """
    a, b = _masks(pred, target)
    return _share(2 * (a & b).sum(dim), a.sum(dim) + b.sum(dim), dim)


def iou(pred: Mask, target: Mask, dim: int | tuple[int, ...] | None = None) -> float | Tensor:
    """Compute the intersection over union (Jaccard index), which equals Dice / (2 − Dice).

    Parameters
    ----------
    pred, target : Tensor or ndarray, bool or integer, any equal shape
        Masks; every value other than 0 is foreground.
    dim : int or tuple of int, optional
        Axes to count over, as in :func:`dice`.

    Returns
    -------
    float, or Tensor of float32 on the device of ``pred`` where ``dim`` is given
        In [0, 1]. Two empty masks give 1, one empty mask gives 0.

    Raises
    ------
    TypeError
        If a mask holds floating-point numbers.
    ValueError
        If the shapes differ.

    References
    ----------
    Jaccard 1912, New Phytologist 11, 37–50, doi 10.1111/j.1469-8137.1912.tb05611.x.
    """
    a, b = _masks(pred, target)
    return _share((a & b).sum(dim), (a | b).sum(dim), dim)


def boundary_dice(pred: Mask, target: Mask, radius: int = 2) -> float:
    """Compute the symmetric boundary Dice: the Dice coefficient in small windows on the outlines.

    The window of a pixel holds the rows and columns from ``-radius`` to ``radius - 1`` around
    it. The outline of a mask is made of the pixels whose window is neither empty nor full;
    outside the image there is background. The local Dice coefficients are averaged over both
    outlines, so a pixel on both of them counts twice.

    Parameters
    ----------
    pred, target : Tensor or ndarray, bool or integer, (H, W)
        Masks; every value other than 0 is foreground.
    radius : int
        Half the side of the window, in pixels, at least 1.

    Returns
    -------
    float
        In [0, 1]; NaN where both masks are empty, as there is no outline to judge.

    Raises
    ------
    TypeError
        If a mask holds floating-point numbers.
    ValueError
        If the shapes differ or are not (H, W), or if ``radius`` is less than 1.

    References
    ----------
    Yeghiazaryan and Voiculescu 2018, J. Med. Imaging 5, 015006, doi 10.1117/1.JMI.5.1.015006.
    """
    masks = [mask.cpu().numpy() for mask in _masks(pred, target)]
    if masks[0].ndim != 2:
        raise ValueError(f"Give one mask of shape (H, W) at a time, not {masks[0].shape}.")
    if radius < 1:
        raise ValueError(f"The radius must be at least 1 pixel, not {radius}.")
    p, t = (_window_sum(mask, radius) for mask in masks)
    both = _window_sum(masks[0] & masks[1], radius)
    local = 2 * both / np.maximum(p + t, 1)
    outlines = [local[(counts > 0) & (counts < (2 * radius) ** 2)] for counts in (t, p)]
    values = np.concatenate(outlines)
    return float(values.mean()) if values.size else float("nan")


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


def pooled_f1(
    pred: Sequence[Mask], true: Sequence[Mask], ignore: Sequence[Mask] | None = None
) -> float:
    """Compute the F1 score (Dice coefficient) of the pixels of all images together.

    Parameters
    ----------
    pred, true : sequence of Tensor or ndarray, bool or integer
        Masks, each two of one shape; every value other than 0 is foreground.
    ignore : sequence of Tensor or ndarray, bool or integer, optional
        Pixels that are not counted, for each image.

    Returns
    -------
    float
        In [0, 1]; 1 where there is nothing to find and nothing was found.

    Raises
    ------
    TypeError
        If a mask holds floating-point numbers.
    ValueError
        If there is no image, the lists differ in length or two masks in shape.
    """
    lengths = [len(masks) for masks in (pred, true, ignore) if masks is not None]
    if lengths[0] == 0 or len(set(lengths)) > 1:
        raise ValueError(f"Give as many masks each, at least one, not {lengths}.")
    common = total = 0
    for i, pair in enumerate(zip(pred, true, strict=True)):
        a, b = _masks(*pair)
        if ignore is not None:
            hidden, _ = _masks(ignore[i], a)
            a, b = (mask & ~hidden.to(mask.device) for mask in (a, b))
        common += int((a & b).sum())
        total += int(a.sum() + b.sum())
    return 2 * common / total if total else 1.0


def label_accuracy(pred: Mask, target: Mask) -> float:
    """Compute the share of image-level labels that are right, over all images and classes.

    Where most labels are "absent", saying "absent" to everything scores high: read it together
    with :func:`exact_match` or an F1 score.

    Parameters
    ----------
    pred, target : Tensor or ndarray, bool or integer, (B, K)
        Predicted and true labels of B images and K classes; every value other than 0 is "yes".

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError
        If the labels are floating-point numbers, e.g. probabilities.
    ValueError
        If the shapes differ, are not (B, K) or hold no label.
    """
    right = _right_labels(pred, target)
    return int(right.sum()) / right.numel()


def exact_match(pred: Mask, target: Mask) -> float:
    """Compute the share of images with all labels right.

    Parameters
    ----------
    pred, target : Tensor or ndarray, bool or integer, (B, K)
        As in :func:`label_accuracy`.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError
        If the labels are floating-point numbers, e.g. probabilities.
    ValueError
        If the shapes differ, are not (B, K) or hold no label.
    """
    right = _right_labels(pred, target)
    return int(right.all(dim=1).sum()) / len(right)


def best_threshold(scores: ArrayLike, present: ArrayLike) -> float:
    """Choose the threshold of one class: the highest F1 score of "score >= threshold".

    It needs image-level labels only. Between two neighbouring scores every threshold decides
    alike: their middle is taken, and of several best gaps the widest, so that new images may
    differ a little.

    Parameters
    ----------
    scores : array-like or Tensor, float, (N,)
        Finite logits, probabilities or other scores of validation crops.
    present : array-like or Tensor, bool or 0 and 1, (N,)
        Whether each crop shows the class.

    Returns
    -------
    float
        In the unit of the scores; the lowest score if it is best to say always "yes".

    Raises
    ------
    ValueError
        If scores and labels do not belong together, or all crops have the same label.
    """
    scores, present = (_array(values) for values in (scores, present))
    if scores.ndim != 1 or scores.shape != present.shape or not np.isfinite(scores).all():
        raise ValueError(
            f"Give a finite score and a label for each crop of one class, not {scores.shape} and "
            f"{present.shape} or NaN."
        )
    if not np.isin(present, (0, 1)).all():
        raise ValueError("Labels must be 0 (absent) or 1 (present).")
    if len(missing := {0, 1} - set(present.astype(int).tolist())):
        word = "positive" if 1 in missing else "negative"
        raise ValueError(
            f"No {word} crop is among the {len(scores)} validation crops: take more or other "
            "images for validation, or keep the usual threshold."
        )
    levels, index = np.unique(scores, return_inverse=True)
    positives = np.bincount(index, present.astype(float))[::-1].cumsum()[::-1]
    chosen = np.bincount(index)[::-1].cumsum()[::-1]
    f1 = 2 * positives / (chosen + present.sum())
    gaps = np.diff(levels, prepend=levels[0])
    best = np.lexsort((gaps, f1))[-1]
    low, high = levels[max(best - 1, 0)], levels[best]
    middle = low / 2 + high / 2
    return float(middle if low < middle else high)  # between neighbouring floats is none


def _masks(pred: Mask, target: Mask) -> tuple[Tensor, Tensor]:
    pred, target = _foreground(pred), _foreground(target)
    if pred.shape != target.shape:
        raise ValueError(
            f"Prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape: "
            "give two of one shape."
        )
    return pred, target.to(pred.device)


def _foreground(mask: Mask) -> Tensor:
    if isinstance(mask, Tensor):
        whole_numbers = not (mask.is_floating_point() or mask.is_complex())
    else:
        mask = np.asarray(mask)
        whole_numbers = mask.dtype.kind in "biu"
    if not whole_numbers:
        # A probability map taken for a mask would be foreground nearly everywhere.
        raise TypeError(f"Threshold the {mask.dtype} values first: masks must be bool or integer.")
    return mask.bool() if isinstance(mask, Tensor) else torch.as_tensor(mask != 0)


def _share(part: Tensor, whole: Tensor, dim: int | tuple[int, ...] | None) -> float | Tensor:
    if dim is not None:
        return torch.where(whole > 0, part / whole, 1.0)
    return int(part) / int(whole) if whole > 0 else 1.0


def _window_sum(mask: NDArray[np.bool_], radius: int) -> NDArray[np.int64]:
    # With an even number of weights SciPy centres the window just as the definition asks.
    ones = np.ones(2 * radius, np.int64)
    rows = correlate1d(mask.astype(np.int64), ones, axis=0, mode="constant")
    return correlate1d(rows, ones, axis=1, mode="constant")


def _points(points: ArrayLike) -> NDArray[np.float64]:
    points = _array(points)
    if points.size == 0:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"Points must be finite numbers of shape (N, 2), not {points.shape}.")
    return points.astype(np.float64)


def _array(values: ArrayLike) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


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
    labels = _array(labels)
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


def _right_labels(pred: Mask, target: Mask) -> Tensor:
    pred, target = _masks(pred, target)
    if pred.ndim != 2 or pred.numel() == 0:
        raise ValueError(
            f"Labels must have the shape (images, classes) with at least one of each, "
            f"not {tuple(pred.shape)}."
        )
    return pred == target
