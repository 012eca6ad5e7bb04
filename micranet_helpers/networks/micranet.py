"""The network: eight convolutions, one linear layer, one pool over all positions."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS = ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b")
"""Names of the eight layers, in the order of their maps."""

STRIDES = (1, 1, 2, 2, 4, 4, 8, 8)
"""Side of the image divided by the side of each layer's map."""

WIDTHS = (32, 32, 64, 64, 128, 128, 256, 256)
"""Number of channels of each layer."""


class MICRANet(nn.Module):
    """The MICRA-Net classifier of Bilodeau et al. 2022, doi 10.1038/s42256-022-00472-w.

    Four blocks of two [3×3 convolution → batch norm → ReLU], a 2×2 max pool after the first three,
    a global pool, dropout 0.5 and a linear layer. Parameters carry the names of the published
    checkpoints. The global pool takes any image side that is a multiple of 8. Raises ValueError if
    ``in_channels`` or ``num_classes`` is less than 1, or a pool does not exist.

    Parameters
    ----------
    in_channels : int
        Channels of the images, 1 for grey, 3 for RGB.
    num_classes : int
        Image-level labels to predict; each is a yes or no of its own.
    pool : {"channel", "top", "lse"}
        "channel", as published: the maximum of each channel, wherever it is, then the linear
        layer. Else first the linear layer, at each of the n positions of layer 4b, then a pool of
        the logits E: "top", the mean of the highest ones (Durand et al., CVPR 2017, pp. 5957–5966);
        "lse", log(mean(exp(r E))) / r (Pinheiro & Collobert 2015, doi 10.1109/CVPR.2015.7298780).
    share : float
        For "top": which share of the positions is averaged, in (0, 1], at least one. Take the share
        of a crop that an object must fill for the label yes.
    sharpness : float
        For "lse": r, above 0, from the mean (0) to the maximum of E.
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 10, pool: str = "channel",
        share: float = 0.05, sharpness: float = 4.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if in_channels < 1 or num_classes < 1:
            raise ValueError(
                f"MICRANet needs at least one input channel and one class, "
                f"not in_channels={in_channels}, num_classes={num_classes}."
            )
        numbers = isinstance(share, Real) and isinstance(sharpness, Real)
        if pool not in ("channel", "top", "lse") or not (
            numbers and 0 < share <= 1 and 0 < sharpness < math.inf
        ):
            raise ValueError(
                'The pool is "channel", "top" with a share in (0, 1] or "lse" with a sharpness '
                f"above 0, not {pool!r}, {share!r}, {sharpness!r}."
            )
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.pool, self.share, self.sharpness = pool, float(share), float(sharpness)
        inputs = (in_channels, *WIDTHS)
        for layer, n_in, n_out in zip(LAYERS, inputs, WIDTHS, strict=False):
            self.add_module(f"conv{layer}", nn.Conv2d(n_in, n_out, 3, padding=1))
            self.add_module(f"bnorm{layer}", nn.BatchNorm2d(n_out))
            # Modules, not functions: other tools can hook "the activation of layer 2b".
            self.add_module(f"relu{layer}", nn.ReLU())
        self.dropout = nn.Dropout2d(0.5)  # of whole channels
        self.linear1 = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (B, num_classes) of images (B, in_channels, H, W).

        A class is predicted where its logit is above 0 (probability above 0.5). Images have the
        weights' dtype; H and W are multiples of 8. Raises TypeError or ValueError if dtype or shape
        do not fit.
        """
        check_images(images, self)
        return self.pooled(self.dropout(self.features(images)))

    def pooled(self, activations: Tensor) -> Tensor:
        """Compute the logits (B, num_classes) of activations of layer 4b, (B, 256, h, w)."""
        if self.pool == "channel":
            return self.linear1(F.adaptive_max_pool2d(activations, 1).flatten(1))
        each = self.positions(activations).flatten(2)
        if self.pool == "top":
            return each.topk(math.ceil(self.share * each.shape[2])).values.mean(2)
        scaled = self.sharpness * each
        # The second term is the logarithm of n, also in a graph for images of any size.
        return (scaled.logsumexp(2) - torch.zeros_like(scaled).logsumexp(2)) / self.sharpness

    def positions(self, activations: Tensor) -> Tensor:
        """Compute the logits (B, num_classes, h, w) that each position of 4b would give alone."""
        weights, bias = (x.to(activations.dtype) for x in self.linear1.parameters())
        return F.conv2d(activations, weights[..., None, None], bias)

    @property
    def pooling(self) -> dict[str, Any]:
        """List the arguments that define the pool; none for the published one."""
        if self.pool == "channel":
            return {}
        name = "share" if self.pool == "top" else "sharpness"
        return {"pool": self.pool, name: getattr(self, name)}

    def features(self, images: Tensor, layers: Sequence[str] = LAYERS) -> Tensor:
        """Compute the activations of layer 4b, (B, 256, H / 8, W / 8), of checked images.

        Of some layers that follow each other: those of the last, from those before the first.
        """
        x = images
        for layer, stride, above in zip(LAYERS, STRIDES, (1, *STRIDES), strict=False):
            if layer not in layers:
                continue
            if stride != above:
                x = F.max_pool2d(x, 2)
            for step in ("conv", "bnorm", "relu"):
                x = self.get_submodule(step + layer)(x)
        return x


def check_images(images: Tensor, model: nn.Module, step: int = STRIDES[-1]) -> None:
    """Refuse a batch (B, C, H, W) that does not fit the network, in one clear sentence.

    The sides must be multiples of ``step`` px. Under autocast, any float dtype fits.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"Images must be a torch tensor, not {type(images).__name__}.")
    if not images.is_floating_point():
        raise TypeError(f"Images are {images.dtype}: scale them to float32 first, e.g. / 255.")
    weights = next(model.parameters()).dtype
    if images.dtype != weights and not torch.is_autocast_enabled(images.device.type):
        raise TypeError(f"Images are {images.dtype}, the weights {weights}: convert one.")
    if images.ndim != 4 or images.shape[1] != model.in_channels:
        raise ValueError(
            f"Images must have the shape (batch, {model.in_channels}, height, width), "
            f"not {tuple(images.shape)}."
        )
    if images.shape[0] == 0:  # not len(images): torch.export would fix the number of images
        raise ValueError("The batch is empty: give at least one image.")
    if any(side == 0 or side % step for side in images.shape[2:]):
        raise ValueError(
            f"Image sides must be multiples of {step}, not {tuple(images.shape[2:])}: "
            "crop or pad them."
        )


def check_evaluating(model: nn.Module) -> None:
    """Refuse a network in training mode: dropout and batch norm would change its output."""
    if model.training:
        raise ValueError("The network is in training mode: call model.eval() first.")


def check_finite(images: Tensor) -> None:
    """Refuse images, or what came of them, of any shape, that hold NaN or infinity."""
    if not images.isfinite().all():
        raise ValueError(
            "Images, or the answers to them, are NaN or infinite: replace such values, and scale "
            "the images as those of the training."
        )
