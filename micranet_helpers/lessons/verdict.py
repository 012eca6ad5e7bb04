"""Judge: a classifier by the labels of crops, detections by the objects that they match."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from micranet_helpers import metrics
from micranet_helpers.train import logits_of


class Verdict(NamedTuple):
    """Hold what :func:`judge` finds, one value for each class.

    ``thresholds``, float32 (K,), are logits from which on the answer is yes. ``auc`` is the area
    under the ROC curve of the test crops, ``f1`` their F1 score at the threshold, both in [0, 1].
    """

    thresholds: Tensor
    auc: list[float]
    f1: list[float]


def judge(model: nn.Module, validation: Dataset, testing: Dataset) -> Verdict:
    """Choose the thresholds of a classifier on validation crops, and score it on test crops.

    The network is in evaluation mode, on any device; both sets have ``labels`` of the same classes.
    Raises ValueError if there is no crop, or the validation crops show a class always or never.
    """
    thresholds = thresholds_of(logits_of(model, validation), validation.labels)
    columns = list(_known(logits_of(model, testing), testing.labels))
    f1 = [metrics.dice(logits >= threshold, present)
          for threshold, (logits, present) in zip(thresholds, columns, strict=True)]
    areas = [metrics.roc_areas(*(part[:, None] for part in pair))[0] for pair in columns]
    return Verdict(thresholds, areas, f1)


def thresholds_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Choose for each class the threshold of highest F1: float32 (K,).

    Scores of N crops and their labels, above 0 for yes, NaN for unknown, are (N, K); see
    :func:`micranet_helpers.metrics.labels.best_threshold`.
    """
    return torch.tensor([metrics.best_threshold(*pair) for pair in _known(scores, labels)])


def _known(scores: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scores and presence of each class, of the crops of which it is known."""
    for column, label in zip(scores.T, labels.T, strict=True):
        known = ~label.isnan()
        yield column[known], label[known] > 0


def scores_of(matchings: Iterable[metrics.Matching]) -> dict[str, float]:
    """Score the objects of many images together, as a row of a table.

    It holds ``found``, ``false`` and ``missed`` (numbers), ``precision``, ``recall`` and ``F1``.
    """
    pool = metrics.total(matchings)
    return {
        "found": pool.tp, "false": pool.fp, "missed": pool.fn,
        "precision": pool.precision, "recall": pool.recall, "F1": pool.f1,
    }  # fmt: skip


def tally_of(matchings: Iterable[metrics.Matching]) -> NDArray[np.int64]:
    """Count what :func:`micranet_helpers.metrics.intervals.f1_interval` draws from: int64 (2, N).

    For each of N images: twice the objects found; predicted and true objects together.
    """
    return np.transpose([(2 * each.tp, each.num_pred + each.num_true) for each in matchings])
