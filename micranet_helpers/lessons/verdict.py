"""Judge: a classifier by the labels of crops, detections by the objects that they match.

Sentences about a result are chosen by its numbers: see :func:`table`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from micranet_helpers import metrics
from micranet_helpers.lessons import results
from micranet_helpers.train import logits_of

ALIKE = 0.02
"""Scores that differ by less are called alike: a few images cannot tell them apart."""


class Verdict(NamedTuple):
    """Hold what :func:`judge` finds, one value for each class.

    ``thresholds``, float32 (K,), are the lowest logits that count as yes. ``auc`` is the area
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
    logits, labels = logits_of(model, testing), testing.labels
    f1 = [metrics.dice(each >= threshold, present)
          for threshold, (each, present) in zip(thresholds, _known(logits, labels), strict=True)]
    return Verdict(thresholds, metrics.roc_areas(logits, labels), f1)


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


def best_of(scores: Mapping[str, float]) -> str:
    """Say in Markdown which way scores highest, and which are alike: within :data:`ALIKE` of it.

    Scores are by the names of ways; those that are NaN are left out.
    """
    known = {way: score for way, score in scores.items() if math.isfinite(score)}
    if not any(known.values()):
        return "No way scores above 0."
    best, *others = sorted(known, key=lambda way: -known[way])
    near = [f"*{way}* ({known[way]:.3f})" for way in others if known[best] - known[way] < ALIKE]
    also = f"; less than {ALIKE} behind: {', '.join(near)}" if near else ""
    return f"Highest: *{best}* ({known[best]:.3f}){also}."


def compared(scores: Mapping[str, float], way: str, other: str) -> str:
    """Say in Markdown how the score of a way compares with that of another, e.g. "*a* beats *b*".

    Scores that differ by less than :data:`ALIKE` are called alike.
    """
    gain = scores[way] - scores[other]
    verb = "does as well as" if abs(gain) < ALIKE else "beats" if gain > 0 else "does worse than"
    return f"*{way}* ({scores[way]:.3f}) {verb} *{other}* ({scores[other]:.3f}) here"


def table(
    rows: Mapping[str, Mapping[str, float]], *pairs: str, corner: str = "", only: str = ""
) -> str:  # fmt: skip
    """Make a Markdown table, and say below it for each column, or only for one, what is best.

    ``rows`` and ``corner`` are as for :func:`results.number_table`. The sentences are those of
    :func:`best_of` and, for ``pairs`` of rows one after the other, of :func:`compared`.
    """
    columns = [only] if only else dict.fromkeys(name for row in rows.values() for name in row)
    lines = [results.number_table(rows, corner)]
    for column in columns:
        scores = {way: row[column] for way, row in rows.items() if column in row}
        lines.append(f"{column}{f' ({corner})' * bool(corner)}: {best_of(scores)}")
        for way, other in zip(pairs[::2], pairs[1::2], strict=True):
            lines[-1] += f" {compared(scores, way, other)}."
    return "\n\n".join(lines)
