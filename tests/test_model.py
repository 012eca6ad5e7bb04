"""The network: names and shapes of the published checkpoints, any side, clear refusals."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from conftest import random_images, random_model
from torch import Tensor, nn
from torch.nn import functional as F

from micranet_helpers.networks.micranet import LAYERS, STRIDES, WIDTHS, MICRANet
from micranet_helpers.networks.unet import FalkUNet, UNet


def published_entries(in_channels: int, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the published order, written out."""
    widths = [("1a", 32), ("1b", 32), ("2a", 64), ("2b", 64)]
    widths += [("3a", 128), ("3b", 128), ("4a", 256), ("4b", 256)]
    entries: dict[str, tuple[int, ...]] = {}
    above = in_channels
    for layer, width in widths:
        entries[f"conv{layer}.weight"] = (width, above, 3, 3)
        entries[f"conv{layer}.bias"] = (width,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            entries[f"bnorm{layer}.{name}"] = (width,)
        entries[f"bnorm{layer}.num_batches_tracked"] = ()
        above = width
    return entries | {"linear1.weight": (num_classes, 256), "linear1.bias": (num_classes,)}


@pytest.mark.parametrize("sizes", [(1, 10), (3, 1)])
def test_entries_are_those_of_the_published_checkpoints(sizes: tuple[int, int]) -> None:
    state = MICRANet(*sizes).state_dict()
    assert len(state) == 58
    assert [(k, tuple(v.shape)) for k, v in state.items()] == [*published_entries(*sizes).items()]


def fixed_kernel_logits(model: MICRANet, images: Tensor) -> Tensor:
    """Write the published network out: named modules, a pool of size // 8, sigmoid outside."""
    x = images
    for block in "1234":
        if block != "1":
            x = nn.MaxPool2d(2)(x)
        for half in "ab":
            x = getattr(model, f"conv{block}{half}")(x)
            x = F.relu(getattr(model, f"bnorm{block}{half}")(x))
    pooled = F.max_pool2d(x, kernel_size=images.shape[-1] // 8).squeeze()
    return model.linear1(pooled)


@pytest.mark.parametrize("side", [32, 64])
def test_global_pool_equals_the_published_fixed_kernel(model: MICRANet, side: int) -> None:
    images = random_images(3, 1, side, side)
    torch.testing.assert_close(model(images), fixed_kernel_logits(model, images))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 1])
def test_top_is_the_mean_of_the_highest_positions(share: float) -> None:
    model, images = random_model(pool="top", share=share), random_images(2, 1, 32, 48)
    logits = model.linear1(model.features(images).movedim(1, -1)).flatten(1, 2)  # (B, 24, K)
    count = {0.01: 1, 0.05: 2, 0.3: 8, 1: 24}[share]
    expected = logits.sort(1, descending=True).values[:, :count].mean(1)
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("sharpness", [0.5, 4])
def test_log_sum_exp_is_between_mean_and_maximum(sharpness: float) -> None:
    model, images = random_model(pool="lse", sharpness=sharpness), random_images(2, 1, 32, 48)
    each = model.positions(model.features(images)).double().flatten(2)
    expected = (sharpness * each).exp().mean(2).log() / sharpness
    torch.testing.assert_close(model(images).double(), expected, atol=1e-5, rtol=0)
    assert (each.mean(2) < expected).all() and (expected < each.amax(2)).all()


@pytest.mark.parametrize(
    "options",
    [{"pool": "max"}, {"pool": []}, {"pool": "top", "share": 0}, {"pool": "top", "share": 1.1},
     {"pool": "lse", "sharpness": 0}, {"pool": "lse", "sharpness": float("inf")},
     {"pool": "top", "share": "0.1"}],
)  # fmt: skip
def test_other_pools_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match='The pool is "channel", "top" with a share'):
        MICRANet(1, 1, **options)


def test_one_image_gets_the_logits_that_it_gets_in_a_batch(model: MICRANet) -> None:
    images = random_images(4, 1, 24, 40)
    one_by_one = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(one_by_one, model(images))


def test_activations_can_be_hooked_by_name(model: MICRANet) -> None:
    seen = {}

    def note(layer: str) -> Callable:
        return lambda module, inputs, output: seen.update({layer: output})

    hooks = [model.get_submodule(f"relu{k}").register_forward_hook(note(k)) for k in LAYERS]
    logits = model(random_images(2, 1, 32, 64))
    for hook in hooks:
        hook.remove()
    assert [seen[layer].shape for layer in LAYERS] == [
        (2, width, 32 // stride, 64 // stride)
        for width, stride in zip(WIDTHS, STRIDES, strict=True)
    ]
    assert STRIDES == (1, 1, 2, 2, 4, 4, 8, 8)
    assert all(activation.min() == 0 for activation in seen.values())
    torch.testing.assert_close(model.linear1(seen["4b"].amax((2, 3))), logits)


def test_dropout_acts_in_training_only() -> None:
    model, images = random_model(), random_images(2, 1, 16, 16)
    assert torch.equal(model(images), model(images))
    model.dropout.train()
    assert not torch.equal(model(images), model(images))


# --- refusals, also of the U-Nets ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((1, 1, 16, 16)), TypeError, "torch tensor, not ndarray"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8), TypeError, "are torch.uint8: scale"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.bool), TypeError, "are torch.bool: scale"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.float64), TypeError, "float64.*float32: convert"),
        (torch.zeros(1, 16, 16), ValueError, r"\(batch, 1, height, width\), not \(1, 16, 16\)"),
        (torch.zeros(1, 1, 1, 16, 16), ValueError, r"\(batch, 1, height, width\)"),
        (torch.zeros(2, 3, 16, 16), ValueError, r"\(batch, 1, .*not \(2, 3, 16, 16\)"),
        (torch.zeros(0, 1, 16, 16), ValueError, "batch is empty"),
        (torch.zeros(1, 1, 12, 16), ValueError, r"of (8|16), not \(12, 16\): crop or pad"),
        (torch.zeros(1, 1, 16, 20), ValueError, "multiples of"),
        (torch.zeros(1, 1, 16, 0), ValueError, "multiples of"),
    ],
    ids=["array", "bytes", "bool", "double", "one", "rank", "channels", "empty", "height", "width",
         "no side"],
)  # fmt: skip
@pytest.mark.parametrize(
    "network", [MICRANet, UNet, partial(FalkUNet, filters=2)], ids=["MICRANet", "UNet", "FalkUNet"]
)
def test_bad_images_are_refused(network, images, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        network(1, 1)(images)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (1, -2)])
def test_zero_channels_or_classes_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one .* not in_channels="):
        MICRANet(*sizes)
