"""Write the multi-layer Grad-CAM as a plain forward computation, which ONNX can hold.

The gradient is written out, as in :mod:`micranet_helpers.maps.cam`, but for all classes of all
images and with elementary operations only: convolutions, comparisons, sums.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from micranet_helpers.maps.cam import SHIFTS
from micranet_helpers.networks.micranet import LAYERS, STRIDES, MICRANet

POOLED = tuple(layer for layer in range(1, len(LAYERS)) if STRIDES[layer] != STRIDES[layer - 1])


class Maps(nn.Module):
    """Compute logits, maps and evidence of all classes: a float32 copy in evaluation mode.

    ``logits`` (B, K) and ``maps`` (B, K, 8, H, W) are those of
    :func:`micranet_helpers.maps.cam.grad_cam`, ``evidence`` (B, K, H, W) that of
    :func:`micranet_helpers.maps.cam.evidence`.
    """

    def __init__(self, model: MICRANet) -> None:
        super().__init__()
        model = copy.deepcopy(model).cpu().float().eval()
        self.convs = nn.ModuleList(
            fuse_conv_bn_eval(
                model.get_submodule(f"conv{name}"), model.get_submodule(f"bnorm{name}")
            )
            for name in LAYERS
        )
        self.linear = model.linear1
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute all outputs of a batch, float32, (B, C, H, W), H and W at least 16 px."""
        activations, switches = self._forward(image)
        logits = self.linear(activations[-1].amax((2, 3)))
        alphas = self._alphas(activations, switches)
        maps = [_map(*each) for each in zip(alphas, activations, range(len(LAYERS)), strict=True)]
        return logits, torch.stack(maps, 2), self._evidence(image)

    def _forward(self, x: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Compute the activations of each layer, and which pixel of four each max pool took."""
        activations, switches = [], {}
        for layer, conv in enumerate(self.convs):
            if layer in POOLED:
                fours = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4))  # (B, C, 4, h, w)
                x = F.max_pool2d(x, 2)
                switches[layer] = _first(fours, x)
            x = conv(x).relu()
            activations.append(x)
        return activations, switches

    def _alphas(self, activations: list[Tensor], switches: dict[int, Tensor]) -> list[Tensor]:
        """Average the gradient of each channel, (B, K, C) for each layer."""
        top, classes = activations[-1], self.linear.out_features
        height, width = top.shape[2:]
        slopes = self.linear.weight  # (K, 256)
        alphas = [(slopes / (height * width)).expand(top.shape[0], -1, -1)]
        # The global max pool sends each channel's gradient to the first of its highest pixels.
        flat = top.flatten(2)
        peak = flat.argmax(2, keepdim=True) == torch.arange(height * width)
        peak = (peak & (flat > 0)).float()[:, None]
        grad = (slopes[:, :, None] * peak).reshape(-1, slopes.shape[1], height, width)
        for layer in range(len(LAYERS) - 1, 1, -1):
            # From before the ReLU of this layer to before the ReLU of the layer below.
            grad = F.conv_transpose2d(grad, self.convs[layer].weight, padding=1)
            grad = grad.unflatten(0, (-1, classes))
            alphas.append(grad.mean((3, 4)))
            if layer in POOLED:
                fours = grad[:, :, :, None] * switches[layer][:, None]
                grad = F.pixel_shuffle(fours.flatten(0, 1).flatten(1, 2), 2)
            else:
                grad = (grad * (activations[layer - 1] > 0)[:, None]).flatten(0, 1)
        alphas.append(_mean_transposed(grad, self.convs[1].weight).unflatten(0, (-1, classes)))
        return alphas[::-1]

    def _evidence(self, image: Tensor) -> Tensor:
        """Average the class logits of each position over shifted images."""
        height, width = image.shape[2:]
        around = F.pad(image, (8, 8, 8, 8), mode="reflect")
        shifts = [(down, right) for down in SHIFTS for right in SHIFTS]
        x = torch.cat(
            [
                around[..., 8 - down : 16 - down + height, 8 - right : 16 - right + width]
                for down, right in shifts
            ]
        )
        for layer, conv in enumerate(self.convs):
            x = conv(F.max_pool2d(x, 2) if layer in POOLED else x).relu()
        coarse = F.conv2d(x, self.linear.weight[:, :, None, None], self.linear.bias)
        fine = F.interpolate(coarse, scale_factor=STRIDES[-1], mode="nearest")
        parts = zip(fine.unflatten(0, (len(shifts), -1)), shifts, strict=True)
        return sum(
            part[..., down : down + height, right : right + width] for part, (down, right) in parts
        ) / len(shifts)


def _first(fours: Tensor, highest: Tensor) -> Tensor:
    """Mark the first of the positive maxima of four pixels, 1.0 or 0.0: (B, C, 4, h, w)."""
    equal = (fours == highest[:, :, None]) & (fours > 0)
    return (equal & (equal.cumsum(2) == 1)).float()


def _mean_transposed(grad: Tensor, weight: Tensor) -> Tensor:
    """Average ``conv_transpose2d(grad, weight, padding=1)`` over pixels, without computing it.

    A position of the kernel sees ``grad`` without the row and the column that its shift pushes
    over the border.
    """
    sums = _without_ends(_without_ends(grad, 2), 2).flatten(1)  # (P, k·3·3)
    return sums @ weight.permute(0, 2, 3, 1).flatten(0, 2) / (grad.shape[2] * grad.shape[3])


def _without_ends(values: Tensor, dim: int) -> Tensor:
    """Sum without the first, with all, and without the last; a last axis of three."""
    total = values.sum(dim)
    ends = values.select(dim, 0), values.select(dim, -1)
    return torch.stack([total - ends[0], total, total - ends[1]], -1)


def _map(alpha: Tensor, activation: Tensor, layer: int) -> Tensor:
    """Add up weighted channels, scale to [0, 1] and enlarge to the image: (B, K, H, W)."""
    height, width = activation.shape[2:]
    cam = (alpha @ activation.flatten(2)).unflatten(2, (height, width))
    if layer == len(LAYERS) - 1:
        cam = cam.relu()
    lowest, highest = cam.amin((2, 3), keepdim=True), cam.amax((2, 3), keepdim=True)
    span = highest - lowest
    varies = span > 1e-5 * torch.maximum(highest.abs(), lowest.abs())
    cam = torch.where(varies, (cam - lowest) / (span + 1e-12), 0)
    return F.interpolate(cam, scale_factor=STRIDES[layer], mode="nearest")
