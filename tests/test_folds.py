"""Fine-tuning in folds: every image is held out once, and no network has learnt from its own."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from conftest import random_model

from micranet_helpers.data.crops import Rule
from micranet_helpers.data.dataset import About, Sample
from micranet_helpers.lessons.folds import Fold, fine_tune, threshold_for
from micranet_helpers.networks.micranet import LAYERS


def field(number: int) -> Sample:
    image = np.full((1, 16, 16), 10 * number, np.uint8)
    label = np.zeros((1, 16, 16), np.uint16)
    label[0, :8, :8] = 1
    return Sample(f"field {number}", image, label)


def test_each_image_is_held_out_once_and_frozen_layers_stay(tmp_path: Path) -> None:
    start = random_model(num_classes=1)
    crops = {"side": 8, "stride": 8, "rule": Rule(("cell",))}
    options = {"batch_size": 4, "frozen": LAYERS[:6], "learning_rate": 1e-2}
    samples = [field(i) for i in range(6)]
    about = About(("cell",), "drawn", "MIT")
    folds = fine_tune(start, samples, about, f"{tmp_path}/there", 1, crops, **options)
    held = [[sample.name for sample in fold.samples] for fold in folds]
    assert held == [[f"field {i}", f"field {i + 1}"] for i in (0, 2, 4)]
    for fold in folds:
        assert len(fold.crops) == 8 and not fold.network.training
        assert torch.equal(fold.network.conv1a.weight, start.conv1a.weight)
        assert not torch.equal(fold.network.conv4b.weight, start.conv4b.weight)


def test_threshold_takes_each_fold_by_its_own_network() -> None:
    labels = torch.tensor([[0.0], [1.0]])
    folds = [Fold(None, [], SimpleNamespace(labels=labels)) for _ in range(2)]
    asked = []

    def score(network: int, fold: Fold) -> list[float]:
        asked.append((network, fold))
        return [network, network + 10]

    assert threshold_for(folds, [1, 2], score) == 6.5
    assert asked == [(1, folds[0]), (2, folds[1])]
