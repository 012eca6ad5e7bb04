"""Segment images of any size by a recipe: network, scores, masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from micranet_helpers.maps.cam import MARGIN, evidence, grad_cam
from micranet_helpers.maps.tiles import over_tiles, padded
from micranet_helpers.networks.micranet import LAYERS, MICRANet, check_finite
from micranet_helpers.networks.precision import best_device
from micranet_helpers.networks.wrapped import unwrapped

TILE = 512  # px
STRIDE = (TILE - 2 * MARGIN) // 16 * 16  # of the tiles of pixel_scores, px
AT_ONCE = 4  # tiles, for the memory of a laptop

Decide = Callable[[Tensor], Tensor]
"""Function that decides which classes are predicted: logits (B, K) -> bool (B, K)."""


@dataclass(frozen=True)
class Recipe:
    """Hold the steps between a network and its masks.

    Attributes
    ----------
    name : str
        Name in tables and figures.
    score : function of model, images (B, C, H, W), decide -> scores (B, K, H, W), logits (B, K)
        Scores of each pixel for each class, e.g. :func:`from_maps` of a few steps or
        :func:`~micranet_helpers.maps.cam.evidence`. Those of overlapping tiles, and of several
        models, are averaged.
    mask : function of scores (B, K, H, W) and images (B, C, H, W) -> bool (B, K, H, W)
        Pixels that belong to each class.
    margin : int
        Width of the border of a tile, px, whose scores depend on what lies outside it.
    """

    name: str
    score: Callable[[nn.Module, Tensor, Decide], tuple[Tensor, Tensor]]
    mask: Callable[[Tensor, Tensor], Tensor]
    margin: int = 0


def from_maps(
    step: Callable[[Tensor, Tensor], Tensor], layers: Sequence[str] = LAYERS,
    normalize: bool = True,
) -> Callable[[nn.Module, Tensor, Decide], tuple[Tensor, Tensor]]:  # fmt: skip
    """Make the score of a :class:`Recipe` from its step on the Grad-CAM maps.

    ``step`` is a function of maps (B, K, L, H, W), 0 for classes that are not predicted, and images
    (B, C, H, W); it returns scores (B, K, H, W). ``layers`` and ``normalize`` are as for
    :func:`~micranet_helpers.maps.cam.grad_cam`.
    """

    def score(model: nn.Module, images: Tensor, decide: Decide) -> tuple[Tensor, Tensor]:
        cams = grad_cam(model, images, decide, normalize, layers)
        with _exact(images):
            return step(cams.maps.float(), images), cams.logits

    return score


def _exact(images: Tensor) -> torch.autocast:
    """Switch half precision off, which would spoil a principal component or a Gaussian."""
    return torch.autocast(images.device.type, enabled=False)


def predicted(logits: Tensor, thresholds: Sequence[float] | None = None) -> Tensor:
    """Decide which classes logits (..., K) predict: above 0, or from least probabilities on."""
    if thresholds is None:
        return logits > 0
    return logits.sigmoid() >= torch.as_tensor(thresholds).to(logits)


class Segments(NamedTuple):
    """Hold what :func:`segment` returns.

    ``masks``, bool (B, K, H, W), are empty for classes that are not predicted. ``scores``, float32
    (B, K, H, W), are the recipe's behind the masks. ``probabilities``, float32 (B, K), say how
    probable it is that the image shows the class (the highest of its tiles).
    """

    masks: Tensor
    scores: Tensor
    probabilities: Tensor


@torch.no_grad()
def segment(
    model: nn.Module | Sequence[nn.Module],
    images: Tensor,
    recipe: Recipe,
    side: int | None = None,
    stride: int | None = None,
    thresholds: Sequence[float] | None = None,
) -> Segments:
    """Segment images of any size by a recipe.

    Images much larger than those of the training need tiles of about that size: the global max
    pool accepts any side, but a network that saw three objects at a time has not learnt to see
    sixty. Under ``torch.autocast`` only the network runs in half precision.

    Parameters
    ----------
    model : MICRANet or another network that the recipe is for, or several of them
        The classifier. Scores and logits of several are averaged; one that does not predict a
        class adds 0 to its scores.
    images : Tensor, float, (B, C, H, W)
        Finite values. Sides that are no multiples of 8 are padded by reflection, and cropped back.
    recipe : Recipe
        The dataset's steps.
    side : int, optional
        Side of the square tiles, px, a multiple of 8. Default: no tiles.
    stride : int, optional
        Distance between tiles, px; at most ``side``. Default: a third of ``side``; for a recipe
        with a margin, the largest multiple of 8 that its margins allow.
    thresholds : sequence of float, (K,), optional
        Least probability of each class that counts as predicted; by default above 0.5.

    Returns
    -------
    Segments
        Masks, scores and probabilities.

    Raises
    ------
    TypeError, ValueError
        If the images do not fit the model or the tiles make no sense.
    """
    if isinstance(images, Tensor) and not images.is_floating_point():
        raise TypeError(f"Images are {images.dtype}: scale them to float32 first, e.g. / 255.")
    models = [unwrapped(each) for each in ([model] if isinstance(model, nn.Module) else model)]
    if not models:
        raise ValueError("Give at least one model.")
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"Images must have the shape (batch, channels, height, width), not "
            f"{tuple(images.shape)}: the batch is empty or of another rank."
        )

    decide = partial(predicted, thresholds=thresholds)

    def score(part: Tensor) -> tuple[Tensor, Tensor]:
        parts = [recipe.score(each, part, decide) for each in models]
        scores, logits = (torch.stack(both).mean(0) for both in zip(*parts, strict=True))
        return scores, logits

    if side is None:
        height, width = images.shape[-2:]
        scores, logits = score(padded(images, 8))
        scores = scores[..., :height, :width]
    else:
        if stride is None:
            stride = (side - 2 * recipe.margin) // 8 * 8 if recipe.margin else side // 3
        scores, logits = over_tiles(images, score, side, stride, recipe.margin)
    check_finite(logits)
    with _exact(images):
        masks = recipe.mask(scores.float(), images) & decide(logits)[:, :, None, None]
    return Segments(masks, scores, logits.sigmoid())


def magnified_side(length: int, times: float) -> int:
    """Return the side, px, that a side of an image has once it is magnified."""
    return max(round(length * times), 1)


def magnified(images: Tensor, times: float) -> Tensor:
    """Enlarge or shrink images, (B, C, H, W), to what a network sees of them."""
    size = [magnified_side(length, times) for length in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=times < 1)


@torch.no_grad()
def pixel_scores(
    models: Sequence[nn.Module], image: NDArray[np.float32], magnification: float = 1.0
) -> NDArray[np.float32]:
    """Score the pixels of an image: by evidence of MICRANets, or the logits of U-Nets.

    The image, (C, H, W), of any size, is as the networks see it, but for the magnification. Large
    ones are worked through in tiles of :data:`TILE` px, on a GPU if torch can use one. The scores,
    (K, H, W), are the means over the networks. Raises TypeError or ValueError if the image does not
    fit the networks.
    """
    device, layout = best_device(), torch.channels_last  # a U-Net takes two thirds of the time
    models = [unwrapped(model).to(device, memory_format=layout) for model in models]

    def score(part: Tensor) -> tuple[Tensor, Tensor]:
        found = [evidence(model, few) if isinstance(model, MICRANet) else model(few).float()
                 for model in models for few in part.split(AT_ONCE)]  # fmt: skip
        scores = torch.cat(found).unflatten(0, (len(models), -1)).mean(0)
        return scores, scores.amax((2, 3))

    seen = magnified(torch.from_numpy(image)[None].to(device), magnification)
    seen = seen.contiguous(memory_format=layout)
    height, width = seen.shape[2:]
    if min(height, width) > TILE // 2 and max(height, width) > TILE:
        scores, _ = over_tiles(seen, score, TILE, STRIDE, MARGIN)
    else:
        step = max(16, 2 ** len(getattr(models[0], "contractingPath", ())))
        scores = score(padded(seen, step))[0][..., :height, :width]
    if magnification != 1:
        scores = F.interpolate(scores, image.shape[1:], mode="bilinear")
    check_finite(scores)
    return scores[0].float().cpu().numpy()


def crop_by_crop(
    model: nn.Module | Sequence[nn.Module], image: Tensor, recipe: Recipe, side: int,
    thresholds: Sequence[float] | None = None,
) -> Tensor:  # fmt: skip
    """Segment an image as crops that lie side by side, each for itself: a mask, bool (K, H, W).

    This suits recipes that find one object a crop, or mark a share of it. For others the
    overlapping tiles of :func:`segment`, which explains model, recipe and thresholds, give better
    masks. The image, float (C, H, W), is larger than half a crop; ``side`` is the side of a crop,
    px, a multiple of 8. At the far borders crops are filled by reflection.
    """

    def masks(crops: Tensor) -> tuple[Tensor, Tensor]:
        done = segment(model, crops, recipe, thresholds=thresholds)
        return done.masks.float(), done.probabilities

    return over_tiles(image[None], masks, side, side)[0][0] > 0.5
