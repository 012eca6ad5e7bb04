"""How much each position of an image speaks for each class, in logits: one forward pass."""

import torch
from torch import Tensor
from torch.nn import functional as F

from micranet_helpers.networks.micranet import (
    STRIDES,
    MICRANet,
    check_evaluating,
    check_finite,
    check_images,
)

MARGIN = 40
"""What the network sees around a position reaches no further, px, rounded up to a multiple of 8."""

SHIFTS = (0, 4)
"""Shifts of the image, px, over which evidence is averaged in both directions."""


@torch.no_grad()
def evidence(
    model: MICRANet, images: Tensor, decide: object = None, shifts: tuple[int, ...] = SHIFTS
) -> tuple[Tensor, Tensor]:
    r"""Compute the logits that each position would give alone.

    Map 4b without its cut at 0, in the unit of the logits: with the activations A of layer 4b,
    weights w and bias b of the linear layer,

    .. math:: E_c = b_c + \sum_k w_{ck} A^k.

    The global max pool takes each channel where it is highest; a crop that holds one position
    only would have the logit E. So an evidence above 0 is a "yes" of the classifier itself. As E
    depends on the surroundings only (34 px), not on the crop, it is the same in small and large
    images, and needs no backward pass. The network sees an image in steps of 8 px; means over
    shifted images give finer maps.

    Parameters
    ----------
    model : MICRANet
        The classifier, in evaluation mode.
    images : Tensor, float, (B, C, H, W)
        Finite values; H and W multiples of 8, at least 16.
    decide : ignored
        So that this can be the score of a :class:`~micranet_helpers.segment.Recipe`.
    shifts : tuple of int
        From 0 to 7, px; all pairs are used. Costs one forward pass a pair.

    Returns
    -------
    evidence : Tensor, float32, (B, K, H, W)
        Unbounded.
    logits : Tensor, float32, (B, K)
        What the classifier says of each image.

    Raises
    ------
    TypeError, ValueError
        If the images do not fit the model, hold NaN or infinity or are too small, or the model is
        in training mode.

    References
    ----------
    Zhou et al. 2016 (class activation maps), doi 10.1109/CVPR.2016.319. Where it exceeds b, and
    off the far borders, unshifted evidence equals b plus H·W / 64 times map 4b of
    :func:`~micranet_helpers.cam.grad_cam`.
    """
    check_images(images, model)
    check_evaluating(model)
    if min(images.shape[2:]) < 16:
        height, width = images.shape[2:]
        raise ValueError(f"Images must be at least 16 px, not {height}×{width}: pad them.")
    check_finite(images)
    # One image at a time stays in a processor's cache.
    parts = images.split(len(images) if images.is_cuda else 1)
    both = zip(*(_averaged(model, part, shifts) for part in parts), strict=True)
    maps, logits = (torch.cat(values) for values in both)
    return maps, logits


def _averaged(model: MICRANet, images: Tensor, shifts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    height, width = images.shape[2:]
    around = F.pad(images, (8, 8, 8, 8), mode="reflect")
    total = 0
    for down in shifts:
        for right in shifts:
            moved = around[..., 8 - down :, 8 - right :][..., : height + 8, : width + 8]
            coarse = _of_positions(model, _activations(model, moved))
            fine = F.interpolate(coarse, scale_factor=STRIDES[-1], mode="nearest")
            total = total + fine[..., down : down + height, right : right + width]
    pooled = F.adaptive_max_pool2d(_activations(model, images), 1)
    return total / len(shifts) ** 2, _of_positions(model, pooled).flatten(1)


def _activations(model: MICRANet, images: Tensor) -> Tensor:
    return model.features(images.contiguous(memory_format=torch.channels_last)).float()


def _of_positions(model: MICRANet, activations: Tensor) -> Tensor:
    """The linear layer at each position of layer 4b: (B, K, H / 8, W / 8)."""
    weights = model.linear1.weight.float()[:, :, None, None]
    with torch.autocast(activations.device.type, enabled=False):  # logits keep all their digits
        return F.conv2d(activations, weights, model.linear1.bias.float())
