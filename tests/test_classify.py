"""What a classifier says of many crops equals what it says of each."""

import math

import pytest
import torch
from conftest import random_images, random_model
from sklearn.metrics import roc_auc_score
from torch.utils.data import TensorDataset

from micranet_helpers.metrics.labels import roc_areas
from micranet_helpers.train import BATCH, logits_of


def test_logits_of_all_crops_in_their_order() -> None:
    model, images = random_model(num_classes=2), random_images(BATCH + 3, 1, 16, 16)
    with torch.no_grad():
        expected = torch.cat([model(image[None]) for image in images])
    logits = logits_of(model, TensorDataset(images, torch.zeros(len(images), 2)))
    torch.testing.assert_close(logits, expected)
    assert not logits.requires_grad and logits.device.type == "cpu"


def test_no_crop_and_a_network_in_training_are_refused() -> None:
    model, images = random_model(), random_images(2, 1, 16, 16)
    with pytest.raises(ValueError, match="no crop to classify"):
        logits_of(model, TensorDataset(images[:0], torch.zeros(0, 3)))
    with pytest.raises(ValueError, match="training mode"):
        logits_of(model.train(), TensorDataset(images, torch.zeros(2, 3)))


def test_areas_against_scikit_learn_with_ties() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (60, 3), generator=draw).float()
    labels = (scores + torch.randint(0, 9, (60, 3), generator=draw) > 9).float()
    expected = [roc_auc_score(labels[:, k], scores[:, k]) for k in range(3)]
    assert roc_areas(scores, labels) == pytest.approx(expected)


def test_a_class_without_yes_or_without_no_has_no_area() -> None:
    labels = torch.tensor([[1.0, 0, 1], [1, 0, 0]])
    areas = roc_areas(torch.tensor([[1.0, 1, 1], [0, 0, 0]]), labels)
    assert math.isnan(areas[0]) and math.isnan(areas[1]) and areas[2] == 1


@pytest.mark.parametrize("shape", [(4,), (4, 3), (5, 2)])
def test_scores_of_other_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        roc_areas(torch.zeros(shape), torch.zeros(4, 2))
