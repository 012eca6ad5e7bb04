"""The U-Net: a network that learns masks, to compare with, or to train on MICRA-Net's own masks."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from micranet_helpers.model import check_images


class UNet(nn.Module):
    """The U-Net that MICRA-Net was compared with for MNIST and F-actin.

    A contracting path of [2×2 max pool → two convolutions], an expanding path of [2×2 transposed
    convolution → two convolutions of the result and of the same level of the contracting path],
    each convolution 3×3 with batch norm and ReLU, and a last convolution 1×1. Parameters carry
    the names of the published checkpoints, whose ``number_filter`` f means ``filters`` = 2^f.

    Parameters
    ----------
    in_channels : int
        Channels of the images, 1 for grey, 3 for RGB.
    num_classes : int
        Masks to predict; each pixel is a yes or no of its own for each class.
    depth : int
        Levels; the sides of images must be multiples of 2^(depth - 1).
    filters : int
        Channels of the first level; each level has twice as many as the one above.

    Raises
    ------
    ValueError
        If one of them is less than 1.

    References
    ----------
    Ronneberger et al. 2015, doi 10.1007/978-3-319-24574-4_28; sizes and names as in Bilodeau et
    al. 2022, doi 10.1038/s42256-022-00472-w.

    Examples
    --------
    >>> UNet(in_channels=1, num_classes=2)(torch.rand(3, 1, 64, 48)).shape
    torch.Size([3, 2, 64, 48])
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 1, depth: int = 4, filters: int = 16
    ) -> None:
        super().__init__()
        if min(in_channels, num_classes, depth, filters) < 1:
            raise ValueError(
                f"UNet needs numbers of at least 1, not in_channels={in_channels}, "
                f"num_classes={num_classes}, depth={depth}, filters={filters}."
            )
        self.in_channels, self.num_classes = in_channels, num_classes
        widths = [filters * 2**level for level in range(depth)]
        steps = list(zip(widths, widths[1:], strict=False))
        self.firstConvolution = _double(in_channels, filters)
        self.contractingPath = nn.ModuleList(
            _named(nn.Sequential(nn.MaxPool2d(2), _double(above, below))) for above, below in steps
        )
        self.expandingPath = nn.ModuleList(
            nn.ModuleDict(
                {
                    "expand": nn.ConvTranspose2d(below, above, 2, stride=2),
                    "conv": _double(below, above),
                }
            )
            for above, below in reversed(steps)
        )
        self.lastConv = nn.Conv2d(filters, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of each pixel of a batch.

        Parameters
        ----------
        images : Tensor, float, (B, in_channels, H, W)
            H and W multiples of 2^(depth - 1).

        Returns
        -------
        Tensor, float, (B, num_classes, H, W)
            Logits: a pixel belongs to a class where its logit is above 0.

        Raises
        ------
        TypeError
            If the images are no floating-point tensor of the weights' dtype.
        ValueError
            If the batch is empty or its shape does not fit the network.
        """
        check_images(images, self, 2 ** len(self.contractingPath))
        levels = [self.firstConvolution(images)]
        for contract in self.contractingPath:
            levels.append(contract(levels[-1]))
        x = levels.pop()
        for step in self.expandingPath:
            x = step["conv"](torch.cat([step["expand"](x), levels.pop()], 1))
        return self.lastConv(x)


def _double(n_in: int, n_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [nn.Conv2d(n, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]
    return _named(nn.Sequential(*layers))


def _named(layers: nn.Sequential) -> nn.Sequential:
    """Put ``conv`` before the names of the parameters, as in the published checkpoints."""
    return nn.Sequential(OrderedDict(conv=layers))
