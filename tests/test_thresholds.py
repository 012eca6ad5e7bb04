"""Thresholds that labels of crops set: by hand, on images that are their own scores."""

from pathlib import Path

import numpy as np
import pytest
from conftest import random_model

from micranet_helpers.data import dataset
from micranet_helpers.data.crops import CropDataset, Rule
from micranet_helpers.maps import thresholds
from micranet_helpers.maps.cam import evidence
from micranet_helpers.maps.thresholds import from_labels

SIDE = 32


@pytest.fixture
def crops(tmp_path: Path) -> CropDataset:
    """Three images of two crops; class 1 never shows, class 2 always."""
    label = np.zeros((3, 3, SIDE, 2 * SIDE), np.uint8)
    label[:2, 0, 8:16, 8:16] = 1  # the left crops of two images show class 0
    label[:, 2] = 1
    image = np.zeros(label.shape, np.float32)
    image[0, 0, 12, 12], image[0, 0, 12, 44] = 5, 1  # yes, no
    image[1, 0, 12, 12], image[1, 0, 12, 44] = 3, 2
    image[:, 0, 12, 34] = 9  # beside an object, in the rim of a crop without
    image[2, 0, 12, 12] = 8  # in an image that does not show the class
    pairs = enumerate(zip(image, label, strict=True))
    samples = [dataset.Sample(f"{i}", *both) for i, both in pairs]
    rule = Rule(("a", "b", "c"))
    about = dataset.About(rule.classes, "made up", "CC0")
    path = dataset.write(tmp_path / "a.hdf5", {"validation": samples}, about)
    return CropDataset(path, "validation", SIDE, SIDE, rule)


def test_threshold_is_between_crops_with_and_without(crops: CropDataset, monkeypatch) -> None:
    monkeypatch.setattr(thresholds, "evidence", lambda _, images: images)
    assert from_labels(random_model(), crops).tolist() == [2.5, 0, 0]


def test_crops_are_seen_alone(crops: CropDataset) -> None:
    """The evidence of each crop, not of its place in the image, decides."""
    model = random_model(3, 3)
    found = from_labels(model, crops)
    highest = [evidence(model, crops[i][0][None])[0, 0, 8:-8, 8:-8].max() for i in range(4)]
    yes, no = highest[::2], highest[1::2]
    f1 = [
        2 * sum(y >= t for y in yes) / (2 + sum(x >= t for x in highest))
        for t in (found[0], *(each - 1e-3 for each in highest))
    ]
    assert f1[0] == max(f1) and len(no) == 2


def test_network_in_training_mode_is_refused(crops: CropDataset) -> None:
    with pytest.raises(ValueError, match=r"call model\.eval"):
        from_labels(random_model(3, 3).train(), crops)
