"""A verdict is what its parts say: thresholds of validation crops, scores of test crops."""

import numpy as np
import pytest
import torch
from conftest import random_images, random_model
from sklearn.metrics import f1_score, roc_auc_score
from torch.utils.data import TensorDataset

from micranet_helpers.lessons.verdict import (
    best_of,
    compared,
    judge,
    scores_of,
    table,
    tally_of,
    thresholds_of,
)
from micranet_helpers.metrics import Matching, best_threshold
from micranet_helpers.train import logits_of


class Crops(TensorDataset):
    def __init__(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.labels = (torch.rand(20, 2, generator=draw) > 0.6).float()
        super().__init__(random_images(20, 1, 16, 16), self.labels)


def test_thresholds_come_from_validation_and_scores_from_testing() -> None:
    model, validation, testing = random_model(num_classes=2), Crops(1), Crops(2)
    verdict = judge(model, validation, testing)
    known, new = logits_of(model, validation), logits_of(model, testing)
    for k in range(2):
        cut = best_threshold(known[:, k], validation.labels[:, k] > 0)
        present = testing.labels[:, k].numpy()
        assert verdict.thresholds[k].item() == pytest.approx(cut)
        assert verdict.auc[k] == pytest.approx(roc_auc_score(present, new[:, k]))
        assert verdict.f1[k] == pytest.approx(f1_score(present, new[:, k] >= cut))


def test_each_class_has_its_own_threshold() -> None:
    scores = torch.tensor([[0.0, 5], [1, 6], [2, 7], [3, 8]])
    labels = torch.tensor([[0.0, 1], [0, 1], [1, 0], [1, 0]])
    assert thresholds_of(scores, labels).tolist() == [1.5, 5]


def test_objects_of_all_images_are_scored_together() -> None:
    pairs = [Matching(np.zeros((n, 2), int), n + 1, 2) for n in (1, 2)]
    scores = scores_of(pairs)
    assert [scores[name] for name in ("found", "false", "missed")] == [3, 2, 1]
    assert (scores["precision"], scores["recall"]) == (0.6, 0.75)
    assert scores["F1"] == pytest.approx(2 / 3)
    assert tally_of(pairs).tolist() == [[2, 4], [4, 5]]


def test_words_follow_the_numbers() -> None:
    scores = {"a": 0.5, "b": 0.715, "c": 0.7, "d": float("nan")}
    assert best_of(scores) == "Highest: *b* (0.715); less than 0.02 behind: *c* (0.700)."
    assert best_of({"a": 0.5, "b": 0.4}) == "Highest: *a* (0.500)."
    assert best_of({"d": scores["d"]}) == "No way scores above 0."
    assert compared(scores, "b", "a") == "*b* (0.715) beats *a* (0.500) here"
    assert compared(scores, "a", "b") == "*a* (0.500) does worse than *b* (0.715) here"
    assert compared(scores, "c", "b") == "*c* (0.700) does as well as *b* (0.715) here"


def test_a_table_says_below_what_is_best_in_each_column() -> None:
    rows = {"a": {"F1": 0.5, "found": 3}, "b": {"F1": 0.7, "found": 2}}
    text = table(rows, "a", "b", only="F1")
    assert text.startswith("|  | F1 | found |") and text.count("Highest") == 1
    worse = "*a* (0.500) does worse than *b* (0.700) here."
    assert text.endswith(f"\n\nF1: Highest: *b* (0.700). {worse}")
    twice = table(rows, "a", "b", "b", "a", only="F1")
    assert twice == f"{text} *b* (0.700) beats *a* (0.500) here."
    assert "\n\nfound (simulated): " in table(rows, corner="simulated")
    assert table(rows).endswith("\n\nfound: Highest: *a* (3.000).")
