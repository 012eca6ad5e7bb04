"""Networks as people have them: compiled, made parallel, averaged, in Lightning, or quantised."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import random_images, random_model
from filelock import FileLock
from torch import nn

from micranet_helpers import zoo
from micranet_helpers.files.lock import alone
from micranet_helpers.maps import evidence, grad_cam, recipes, segment
from micranet_helpers.networks.unet import UNet
from micranet_helpers.networks.wrapped import unwrapped
from micranet_helpers.zoo.export import to_onnx, to_safetensors


class Module(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


WRAPPERS: list[Callable[[nn.Module], nn.Module]] = [
    nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel, Module,
    lambda model: nn.DataParallel(torch.compile(model)),
]  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrapped_networks_give_the_same_maps_masks_and_files(wrap, model, tmp_path: Path) -> None:
    images = random_images(1, 1, 32, 32)
    wrapped = wrap(model).eval()
    for compute in (lambda net: grad_cam(net, images).maps, lambda net: evidence(net, images),
                    lambda net: segment([net, model], images, recipes.EVIDENCE).scores):
        torch.testing.assert_close(compute(wrapped), compute(model), atol=0, rtol=0)
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", wrapped, {})
    zoo.save(tmp_path / "zoo.hdf5", "folds", [wrapped, model], {})
    [loaded] = zoo.load(tmp_path / "zoo.hdf5", "MICRANet").models
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=0, rtol=0)
    to_safetensors(tmp_path / "a.safetensors", wrapped, {})


def test_what_is_no_wrapper_stays_as_it_is(model) -> None:
    chain = nn.Sequential(model)
    assert unwrapped(chain) is chain and unwrapped(model) is model


@pytest.mark.filterwarnings("ignore")
def test_other_and_quantised_networks_are_refused_in_a_sentence(model, tmp_path: Path) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    images = random_images(1, 1, 32, 32)
    for net, words in ((quantised, "quanti"), (UNet(1, 3).eval(), "not a UNet"),
                       (nn.Sequential(model), "not a Sequential")):
        for compute in (grad_cam, evidence):
            with pytest.raises(TypeError, match=words):
                compute(net, images)
    for write in (lambda net: zoo.save(tmp_path / "zoo.hdf5", "a", net, {}),
                  lambda net: to_onnx(tmp_path / "a.onnx", net),
                  lambda net: to_safetensors(tmp_path / "a.safetensors", net, {})):
        for net in (quantised, nn.Sequential(model)):
            with pytest.raises(TypeError, match="can be written"):
                write(net)
    assert not list(tmp_path.iterdir())


def test_home_folder_and_lock_of_a_zoo(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    zoo.save("~/zoo.hdf5", "a", random_model(1, 2), {}, [0.5, 0.5])
    np.testing.assert_array_equal(zoo.load(tmp_path / "zoo.hdf5", "a").class_thresholds, 0.5)
    with (
        FileLock(tmp_path / ".zoo.hdf5.lock"),
        pytest.raises(ValueError, match="Another program is writing to .*zoo.hdf5"),
        alone(tmp_path, "zoo.hdf5"),
    ):
        pass
