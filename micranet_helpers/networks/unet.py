"""U-Nets: they learn masks, to compare with, or to train on MICRA-Net's own masks."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from micranet_helpers.networks.micranet import check_images

SLOPE = 0.1  # of FalkUNet's LeakyReLU below 0

_DOWN = [(f"conv_d{level}ab", f"conv_d{level}bc") for level in range(5)]
_UP = [
    ("upconv_d4c_u3a", "conv_u3bc", "conv_d3cd"),
    ("upconv_u3d_u2a", "conv_u2bc", "conv_d2cd"),
    ("upconv_u2d_u1a", "conv_u1bc", "conv_d1cd"),
    ("upconv_u1d_u0a", "conv_u0bc", "conv_d0cd"),
]


class UNet(nn.Module):
    """The U-Net that MICRA-Net was compared with for MNIST and F-actin.

    A contracting path of [2×2 max pool → two convolutions], an expanding path of [2×2 transposed
    convolution → two convolutions of the result and of the same level of the contracting path],
    each convolution 3×3 with batch norm and ReLU, and a last convolution 1×1. Parameters have
    the names of the published checkpoints, whose ``number_filter`` f means ``filters`` = 2^f.

    It predicts ``num_classes`` masks of images of ``in_channels``; each pixel is a yes or no of its
    own for each class. ``depth`` counts the levels: the sides of images must be multiples of
    2^(depth - 1). The first has ``filters`` channels, each level twice as many as the one above.

    Ronneberger et al. 2015, doi 10.1007/978-3-319-24574-4_28; sizes and names as in Bilodeau et
    al. 2022, doi 10.1038/s42256-022-00472-w.
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 1, depth: int = 4, filters: int = 16
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        widths = [filters * 2**level for level in range(depth)]
        steps = list(zip(widths, widths[1:], strict=False))
        self.firstConvolution = _double(in_channels, filters)
        self.contractingPath = nn.ModuleList(
            _named(nn.Sequential(nn.MaxPool2d(2), _double(above, below))) for above, below in steps
        )
        self.expandingPath = nn.ModuleList(
            nn.ModuleDict({"expand": nn.ConvTranspose2d(below, above, 2, stride=2),
                           "conv": _double(below, above)})
            for above, below in reversed(steps)
        )  # fmt: skip
        self.lastConv = nn.Conv2d(filters, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (B, num_classes, H, W) of the pixels of images (B, in_channels, H, W).

        H and W are multiples of 2^(depth - 1); a pixel belongs to a class where its logit is above
        0. Raises TypeError or ValueError if dtype or shape do not fit.
        """
        check_images(images, self, 2 ** len(self.contractingPath))
        levels = [self.firstConvolution(images)]
        for contract in self.contractingPath:
            levels.append(contract(levels[-1]))
        x = levels.pop()
        for step in self.expandingPath:
            x = step["conv"](torch.cat([step["expand"](x), levels.pop()], 1))
        return self.lastConv(x)


class FalkUNet(nn.Module):
    """The U-Net that MICRA-Net was compared with for cells of the Cell Tracking Challenge.

    Five levels of two convolutions with LeakyReLU and without batch norm, 2×2 max pools between
    them; on the way up 2×2 transposed convolutions, with no activation, and two convolutions of
    the same level of the way down and of the result. The last convolution is 3×3 with padding as
    the others. Parameters carry the names of the published checkpoints, which have 64 ``filters``.

    In published checkpoints class 0 is the background: the softmax over the classes gives
    probabilities, and a pixel is of the class of its highest logit. Trained by
    :func:`micranet_helpers.train.run.fit`, no class is the background, and each is a yes or no of
    its own: our choice, so that both U-Nets learn alike. Ours, too: the first weights are drawn as
    He et al. advise, as without batch norm hardly any gradient reaches the lower levels with
    torch's.

    Falk et al. 2019, doi 10.1038/s41592-018-0261-2; padding and names as in Bilodeau et al. 2022,
    doi 10.1038/s42256-022-00472-w. Weights: He et al. 2015, doi 10.1109/ICCV.2015.123.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 2, filters: int = 64) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        widths = [filters * 2**level for level in range(len(_DOWN))]
        n = in_channels
        for names, width in zip(_DOWN, widths, strict=True):
            n = self._add(names, n, width)
        for (expand, *names), skip in zip(_UP, widths[-2::-1], strict=True):
            width = max(skip, 2 * filters)  # the last step does not halve
            self.add_module(expand, nn.ConvTranspose2d(n, width, 2, stride=2))
            n = self._add(names, skip + width, width)
        self.conv_u0dscore = nn.Conv2d(n, num_classes, 3, padding=1)
        for layer in self.children():
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (B, num_classes, H, W) of the pixels of images (B, in_channels, H, W).

        H and W are multiples of 16. Raises TypeError or ValueError if dtype or shape do not fit.
        """
        check_images(images, self, 2 ** len(_UP))
        levels = [self._convolve(_DOWN[0], images)]
        for names in _DOWN[1:]:
            levels.append(self._convolve(names, F.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for expand, *names in _UP:
            x = torch.cat([levels.pop(), self.get_submodule(expand)(x)], 1)
            x = self._convolve(names, x)
        return self.conv_u0dscore(x)

    def _add(self, names: Sequence[str], n_in: int, n_out: int) -> int:
        for name, n in zip(names, (n_in, n_out), strict=True):
            self.add_module(name, nn.Conv2d(n, n_out, 3, padding=1))
        return n_out

    def _convolve(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names:
            x = F.leaky_relu(self.get_submodule(name)(x), SLOPE)
        return x


def _double(n_in: int, n_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [nn.Conv2d(n, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]
    return _named(nn.Sequential(*layers))


def _named(layers: nn.Sequential) -> nn.Sequential:
    """Put ``conv`` before the names of the parameters, as in the published checkpoints."""
    return nn.Sequential(OrderedDict(conv=layers))
