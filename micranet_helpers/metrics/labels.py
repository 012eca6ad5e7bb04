"""Compare image-level labels: accuracy, area under the ROC curve, thresholds."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from micranet_helpers.metrics.masks import Mask, as_array, as_masks


def label_accuracy(pred: Mask, target: Mask) -> float:
    """Compute the share of image-level labels that are right, over images and classes, in [0, 1].

    Predicted and true labels are bool or integer, (B, K), of B images and K classes; every value
    other than 0 is "yes". Where most labels are "absent", saying "absent" to everything scores
    high: read it together with :func:`exact_match` or an F1 score. Raises TypeError if the labels
    are floating-point numbers, ValueError if their shapes differ or are not (B, K), or there is no
    label.
    """
    right = _right_labels(pred, target)
    return int(right.sum()) / right.numel()


def exact_match(pred: Mask, target: Mask) -> float:
    """Compute the share of images with all labels right; inputs as for :func:`label_accuracy`."""
    right = _right_labels(pred, target)
    return int(right.all(dim=1).sum()) / len(right)


def best_threshold(scores: ArrayLike, present: ArrayLike) -> float:
    """Choose the threshold of one class: the highest F1 score of "score >= threshold".

    ``scores``, (N,), are finite logits, probabilities or other scores of validation crops;
    ``present``, (N,), is above 0 where a crop shows the class. The threshold is the middle between
    two neighbouring scores, as all values between them decide alike; ties go to the widest gap, so
    that new images may differ a little. It is the lowest score if always "yes" is best. Raises
    ValueError if scores and labels do not belong together, or all crops have the same label.
    """
    scores, present = (as_array(values) for values in (scores, present))
    if scores.ndim != 1 or scores.shape != present.shape or not np.isfinite(scores).all():
        raise ValueError(
            f"Give a finite score and a label for each crop of one class, not {scores.shape} and "
            f"{present.shape} or NaN."
        )
    present = present > 0
    if present.all() or not present.any():
        word = "negative" if present.any() else "positive"
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
    return float(middle if low < middle <= high else high)  # neighbouring floats have none


def _right_labels(pred: Mask, target: Mask) -> Tensor:
    pred, target = as_masks(pred, target)
    if pred.ndim != 2 or pred.numel() == 0:
        raise ValueError(
            f"Labels must have the shape (images, classes) with at least one of each, "
            f"not {tuple(pred.shape)}."
        )
    return pred == target


def roc_areas(scores: ArrayLike, labels: ArrayLike) -> list[float]:
    """Compute the area under the ROC curve of each of K classes, in [0, 1].

    It is the probability that a crop with the class gets a higher score than one without it; 0.5 is
    guessing. It is NaN for a class that all crops show, or none. ``scores``, float (N, K), are
    logits or anything else that rises with them; ``labels``, (N, K), are positive where a crop
    shows the class; those of NaN are unknown and do not count. Raises ValueError if the shapes
    differ.
    """
    from torchmetrics.functional.classification import binary_auroc  # takes seconds to load

    scores, labels = map(torch.as_tensor, (scores, labels))
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(
            f"Scores and labels must have one shape (crops, classes), not {tuple(scores.shape)} "
            f"and {tuple(labels.shape)}."
        )
    areas = []
    for score, label in zip(scores.T, labels.T, strict=True):
        known = ~label.isnan()
        score, shown = score[known], label[known] > 0
        both = shown.any() and not shown.all()
        areas.append(binary_auroc(score, shown.int()).item() if both else torch.nan)
    return areas
