"""The U-Net: the names and numbers of the published checkpoints, masks as large as the image."""

import pytest
import torch
from conftest import random_images
from torch import Tensor

from micranet_helpers.unet import UNet

STATISTICS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def expected_shapes(channels: int, classes: int, depth: int, first: int) -> dict[str, tuple]:
    """The table of names, written out."""
    shapes = {}

    def double(prefix: str, n_in: int, n_out: int) -> None:
        for place, n in ((0, n_in), (3, n_out)):
            shapes[f"{prefix}conv.{place}.weight"] = (n_out, n, 3, 3)
            shapes[f"{prefix}conv.{place}.bias"] = (n_out,)
            for name in STATISTICS:
                size = () if name == "num_batches_tracked" else (n_out,)
                shapes[f"{prefix}conv.{place + 1}.{name}"] = size

    double("firstConvolution.", channels, first)
    for i in range(depth - 1):
        double(f"contractingPath.{i}.conv.1.", first * 2**i, first * 2 ** (i + 1))
    for j in range(depth - 1):
        n = first * 2 ** (depth - 1 - j)
        shapes[f"expandingPath.{j}.expand.weight"] = (n, n // 2, 2, 2)
        shapes[f"expandingPath.{j}.expand.bias"] = (n // 2,)
        double(f"expandingPath.{j}.conv.", n, n // 2)
    shapes["lastConv.weight"] = (classes, first, 1, 1)
    shapes["lastConv.bias"] = (classes,)
    return shapes


@pytest.mark.parametrize(
    "sizes", [(1, 11, 4, 16), (1, 10, 5, 32), (3, 2, 1, 8), (1, 1, 2, 3)], ids=str
)
def test_names_and_shapes_are_those_of_the_published_checkpoints(sizes: tuple) -> None:
    state = UNet(*sizes).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected_shapes(*sizes)


def test_numbers_of_the_published_network() -> None:
    model = UNet(1, 11)
    assert len(model.state_dict()) == 106
    assert sum(p.numel() for p in model.parameters()) == 483_323
    assert sum(value.numel() for value in model.state_dict().values()) == 484_745


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 3, 8, 24), (1, 3, 16, 8)])
def test_logits_have_the_size_of_the_image(depth: int, shape: tuple) -> None:
    logits = UNet(3, 2, depth, filters=4).eval()(random_images(*shape))
    assert logits.shape == (shape[0], 2, *shape[2:])
    assert logits.std() > 0


def test_a_pixel_reaches_all_around_it_but_not_the_whole_image() -> None:
    """By the gradient: how far a pixel of the mask sees, the same up and down, left and right."""
    torch.manual_seed(0)
    model = UNet(1, 1, depth=3, filters=4).eval()
    image = random_images(1, 1, 128, 128).requires_grad_()
    rows, columns = [], []
    for place in ((64, 64), (63, 63)):  # on both sides of where all pools divide the image
        [slope] = torch.autograd.grad(model(image)[0, 0][place], image)
        rows.append(slope[0, 0].abs().sum(1).nonzero().flatten())
        columns.append(slope[0, 0].abs().sum(0).nonzero().flatten())
    for seen in (rows, columns):
        assert 0 < seen[0].min() < 64 < seen[0].max() < 127
        assert seen[0].min() + seen[1].max() == seen[0].max() + seen[1].min() == 127


def test_fine_detail_comes_from_the_level_above() -> None:
    """The upsampled map is first, the skip second: cut the second, and detail is gone."""
    torch.manual_seed(0)
    model = UNet(1, 1, depth=2, filters=4).eval()
    first = model.expandingPath[0]["conv"].conv[0].weight
    images = random_images(1, 1, 16, 16)
    whole = model(images)
    with torch.no_grad():
        first[:, 4:] = 0
        model.expandingPath[0]["expand"].weight.zero_()
    flat = model(images)[..., 4:12, 4:12]
    assert whole[..., 4:12, 4:12].std() > 1e-3
    assert flat.std() < 1e-6


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (1, 1, 0), (1, 1, 4, 0)])
def test_bad_numbers_are_refused(sizes: tuple) -> None:
    with pytest.raises(ValueError, match="at least 1, not in_channels"):
        UNet(*sizes)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([[1.0]], TypeError, "torch tensor, not list"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TypeError, "are torch.uint8: scale"),
        (torch.zeros(1, 8, 8), ValueError, r"\(batch, 1, height, width\)"),
        (torch.zeros(1, 3, 8, 8), ValueError, r"\(batch, 1, height, width\)"),
        (torch.zeros(0, 1, 8, 8), ValueError, "batch is empty"),
        (torch.zeros(1, 1, 12, 8), ValueError, r"multiples of 8, not \(12, 8\): crop or pad"),
        (torch.zeros(1, 1, 8, 0), ValueError, "multiples of 8"),
    ],
    ids=["list", "bytes", "rank", "channels", "empty", "side", "no side"],
)
def test_bad_images_are_refused(images: Tensor, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        UNet(1, 1)(images)
