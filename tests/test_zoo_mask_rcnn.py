"""Mask R-CNN in a zoo: names of two releases of torchvision, settings, damage, no torchvision."""

import os
import re
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
import torch
from conftest import random_images
from test_zoo_layouts import architecture, unet_weights

from micranet_helpers import zoo
from micranet_helpers.lessons.baselines import mask_rcnn
from micranet_helpers.networks.mask_rcnn import build
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.networks.unet import FalkUNet, UNet
from micranet_helpers.zoo import architectures

RCNN = {"num_classes": 3, "num_input_images": 1, "pretrained": False, "pretrained_backbone": False,
        "min_size": 64, "max_size": 64, "image_mean": [0.0110], "image_std": [0.0212]}  # fmt: skip


@pytest.fixture(scope="module")
def rcnn():
    """A Mask R-CNN that finds objects everywhere, with the settings published for actin."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(1, 2, 64).eval()
    model.transform.image_mean, model.transform.image_std = [0.0110], [0.0212]
    torch.nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias[1], 50)
    return model


def named_as_in_2021(weights):
    """The 307 entries that torchvision had: other names, and no counts of batches."""
    old = {}
    for name, value in weights.items():
        name = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", name)
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for number in range(4):
            name = name.replace(f"mask_head.{number}.0.", f"mask_head.mask_fcn{number + 1}.")
        if not name.endswith("num_batches_tracked"):
            old[name] = value
    assert len(old) == 307 and len(old.keys() - weights.keys()) == 26
    return old


def assert_same_numbers(model, expected):
    found, hoped = model.state_dict(), expected.state_dict()
    assert found.keys() == hoped.keys() and not model.training
    assert all(torch.equal(found[key], value) for key, value in hoped.items())


def assert_same_network(model, expected):
    assert_same_numbers(model, expected)
    image = 0.0110 + 0.0212 * random_images(1, 64, 64).numpy()
    for each in (model, expected):
        each.roi_heads.detections_per_img = 5  # for speed
    found, hoped = (mask_rcnn.predict(each, image) for each in (model, expected))
    assert len(hoped.scores) > 0
    for a, b in zip(found, hoped, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_mask_rcnns_of_the_cells(tmp_path, rcnn):
    path = tmp_path / "CTCModelZoo.hdf5"
    weights = {key: value.numpy() for key, value in named_as_in_2021(rcnn.state_dict()).items()}
    with h5py.File(path, "w") as file:
        architecture(file, "MaskRCNN-FS", {"epochs": 700, "model_params": RCNN}, weights)
    state = torch.random.get_rng_state()
    entry = zoo.load(path, "MaskRCNN-FS")
    path.unlink()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert entry.params == {"epochs": 700, **RCNN}
    assert_same_network(*entry.models, rcnn)


@pytest.mark.slow
def test_a_saved_mask_rcnn_comes_back(tmp_path, rcnn):
    """In the file are torchvision's names of today."""
    path = tmp_path / "zoo.hdf5"
    zoo.save(path, "MaskRCNN-FS", rcnn, {"epochs": 3})
    with h5py.File(path) as file:
        assert file["MaskRCNN-FS/model"].keys() == rcnn.state_dict().keys()
    entry = zoo.load(path, "MaskRCNN-FS")
    size = {key: value for key, value in RCNN.items() if not key.startswith("pretrained")}
    assert entry.params == {"epochs": 3, **size}
    assert_same_network(*entry.models, rcnn)


def write_rcnn(path, rcnn, params=RCNN, change=lambda arrays: arrays):
    """Names and shapes alone: without numbers the file is small."""
    shapes = change({key: tuple(value.shape) for key, value in rcnn.state_dict().items()})
    with h5py.File(path, "w") as file:
        model = architecture(file, "MaskRCNN-FS", {"model_params": params}, {})
        for key, shape in shapes.items():
            model["20200100-000000_42"].create_dataset(key, shape, "f4")
    assert path.stat().st_size < 1e6


TONES = "must be a list of 1 numbers from"
SIDES = "must be one whole number, the side of the crops, from 32 to 4096"
MASKS = "roi_heads.mask_predictor.mask_fcn_logits.weight"


def both_names(shapes):
    return shapes | {"rpn.head.conv.weight": shapes["rpn.head.conv.0.0.weight"]}


def without(name):
    return lambda shapes: {key: shape for key, shape in shapes.items() if key != name}


BAD_SETTINGS = {
    "other classes": ({"num_classes": 2}, "weights say num_classes = 3, the settings 2"),
    "huge": ({"min_size": 10**9, "max_size": 10**9}, SIDES),
    "rescaled": ({"max_size": 1333}, SIDES + ", not 64 and 1333"),
    "no mean": ({"image_mean": None}, f"image_mean {TONES} -1e.06 to 1e.06"),
    "endless": ({"image_mean": [10**400]}, TONES),
    "no spread": ({"image_std": [0]}, f"image_std {TONES} 1e-06 to"),
}
BAD_SHAPES = {
    "missing": (without("roi_heads.box_head.fc6.weight"), "missing.*fc6.weight"),
    "both names": (both_names, "unexpected .'rpn.head.conv.weight'"),
    "misshapen": (lambda shapes: shapes | {"roi_heads.box_predictor.cls_score.bias": (4,)},
                  r"cls_score.bias has the shape \(4,\), expected is \(3,\)"),
    "large": (lambda shapes: shapes | {MASKS: (10**4, 256, 1, 1)}, "sizes from 1 to 1000"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*BAD_SETTINGS, *BAD_SHAPES])
def test_bad_mask_rcnns_are_refused_in_one_sentence(tmp_path, rcnn, case):
    path = tmp_path / "zoo.hdf5"
    if case in BAD_SETTINGS:
        settings, message = BAD_SETTINGS[case]
        write_rcnn(path, rcnn, RCNN | settings)
    else:
        change, message = BAD_SHAPES[case]
        write_rcnn(path, rcnn, change=change)
    with pytest.raises(ValueError, match=message) as caught:
        zoo.load(path, "MaskRCNN-FS")
    assert f"'MaskRCNN-FS' from {path}" in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_loaded_is_not_saved(tmp_path, rcnn, monkeypatch):
    path = tmp_path / "zoo.hdf5"
    monkeypatch.setattr(rcnn.transform, "max_size", 1333)
    with pytest.raises(ValueError, match=SIDES):
        zoo.save(path, "MaskRCNN", rcnn, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_only_a_mask_rcnn_needs_torchvision_and_only_training_lightning(tmp_path, rcnn):
    path = tmp_path / "zoo.hdf5"
    write_rcnn(path, rcnn)
    with h5py.File(path, "a") as file:
        architecture(file, "UNet", {}, unet_weights(np.random.default_rng(0), 1, 1, 1, 2))
    script = f"""
        import sys
        from micranet_helpers import explore, maps, predict, train, zoo
        from micranet_helpers.lessons import training, verdict
        from micranet_helpers.maps import selftraining
        print(type(zoo.load({str(path)!r}, "UNet").models[0]).__name__)
        print([row["model"] is not None for row in zoo.contents({str(path)!r})])
        print({{"torchvision", "pytorch_lightning"}} & {{*sys.modules}})
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines() == ["UNet", "[True, True]", "set()"], result.stderr


def test_every_architecture_has_a_sign_of_its_own(rcnn):
    for model in (MICRANet(1, 1), UNet(1, 1), FalkUNet(1, 1, 1), rcnn):
        names = model.state_dict()
        fitting = [row.kind for row in architectures.ARCHITECTURES if row.sign in names]
        assert fitting == [type(model).__name__]
