"""U-Nets: the names and numbers of the published checkpoints, masks as large as the image."""


import pytest
import torch
from conftest import random_images
from torch import Tensor
from torch.nn import functional as F

from micranet_helpers.networks.unet import FalkUNet, UNet

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
    model = UNet(*sizes)
    state = model.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected_shapes(*sizes)
    if sizes == (1, 11, 4, 16):  # for MNIST
        numbers = sum(p.numel() for p in model.parameters())
        assert (len(state), numbers) == (106, 483_323)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 3, 8, 24), (1, 3, 16, 8)])
def test_logits_have_the_size_of_the_image(depth: int, shape: tuple) -> None:
    logits = UNet(3, 2, depth, filters=4).eval()(random_images(*shape))
    assert logits.shape == (shape[0], 2, *shape[2:])
    assert logits.std() > 0


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


# --- Falk's ------------------------------------------------------------------------------------

CONVOLUTIONS = {  # name: channels out, channels in
    "conv_d0ab": (64, 1), "conv_d0bc": (64, 64),
    "conv_d1ab": (128, 64), "conv_d1bc": (128, 128),
    "conv_d2ab": (256, 128), "conv_d2bc": (256, 256),
    "conv_d3ab": (512, 256), "conv_d3bc": (512, 512),
    "conv_d4ab": (1024, 512), "conv_d4bc": (1024, 1024),
    "conv_u3bc": (512, 1024), "conv_d3cd": (512, 512),
    "conv_u2bc": (256, 512), "conv_d2cd": (256, 256),
    "conv_u1bc": (128, 256), "conv_d1cd": (128, 128),
    "conv_u0bc": (128, 192), "conv_d0cd": (128, 128),
    "conv_u0dscore": (2, 128),
}  # fmt: skip
TRANSPOSED = {  # name: channels in, channels out
    "upconv_d4c_u3a": (1024, 512),
    "upconv_u3d_u2a": (512, 256),
    "upconv_u2d_u1a": (256, 128),
    "upconv_u1d_u0a": (128, 128),
}


def falk(seed: int = 0, **sizes: int) -> FalkUNet:
    torch.manual_seed(seed)
    return FalkUNet(**{"filters": 2} | sizes)


def test_names_shapes_and_numbers_of_falk_are_those_of_the_published_checkpoints() -> None:
    expected = {}
    for name, (n_out, n_in) in CONVOLUTIONS.items():
        expected |= {f"{name}.weight": (n_out, n_in, 3, 3), f"{name}.bias": (n_out,)}
    for name, (n_in, n_out) in TRANSPOSED.items():
        expected |= {f"{name}.weight": (n_in, n_out, 2, 2), f"{name}.bias": (n_out,)}
    with torch.device("meta"):
        model = FalkUNet()
    state = model.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    assert len(state) == 46
    assert sum(p.numel() for p in model.parameters()) == 31_323_842


def test_falk_computes_what_its_definition_says() -> None:
    """Written out: activations, pools, what is concatenated in which order."""
    model, images = falk(in_channels=3, num_classes=5), random_images(2, 3, 32, 48)
    weights = model.state_dict()
    for name in weights:  # biases, too, must come where they belong
        weights[name] = weights[name] + 0.1 * random_images(*weights[name].shape)
    model.load_state_dict(weights)

    def conv(x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
            x = torch.where(x > 0, x, 0.1 * x)
        return x

    def up(skip: Tensor, x: Tensor, name: str) -> Tensor:
        parts = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return torch.cat([skip, F.conv_transpose2d(x, *parts, stride=2)], dim=1)

    d0 = conv(images, "conv_d0ab", "conv_d0bc")
    d1 = conv(F.max_pool2d(d0, 2), "conv_d1ab", "conv_d1bc")
    d2 = conv(F.max_pool2d(d1, 2), "conv_d2ab", "conv_d2bc")
    d3 = conv(F.max_pool2d(d2, 2), "conv_d3ab", "conv_d3bc")
    d4 = conv(F.max_pool2d(d3, 2), "conv_d4ab", "conv_d4bc")
    u3 = conv(up(d3, d4, "upconv_d4c_u3a"), "conv_u3bc", "conv_d3cd")
    u2 = conv(up(d2, u3, "upconv_u3d_u2a"), "conv_u2bc", "conv_d2cd")
    u1 = conv(up(d1, u2, "upconv_u2d_u1a"), "conv_u1bc", "conv_d1cd")
    u0 = conv(up(d0, u1, "upconv_u1d_u0a"), "conv_u0bc", "conv_d0cd")
    last = weights["conv_u0dscore.weight"], weights["conv_u0dscore.bias"]
    torch.testing.assert_close(model(images), F.conv2d(u0, *last, padding=1))


def test_every_weight_of_falk_learns_from_the_start() -> None:
    """So that one step at a usual rate moves it; torch's own choice of weights gives 1e-9."""
    model, images = falk(filters=4), random_images(2, 1, 32, 32)
    loss = F.binary_cross_entropy_with_logits(model(images), torch.cat([images, images], 1).round())
    loss.backward()
    for name, value in model.named_parameters():
        assert value.grad.norm() > 1e-4 * value.norm() and value.grad.any(), name


# --- both --------------------------------------------------------------------------------------


def test_sides_are_multiples_of_what_the_levels_halve() -> None:
    image = random_images(1, 1, 24, 16)
    UNet(1, 1, filters=2)(image)
    with pytest.raises(ValueError, match=r"multiples of 16, not \(24, 16\): crop or pad"):
        falk()(image)
