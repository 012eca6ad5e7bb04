"""From eight maps to one mask: combine, smooth, threshold; whole images by tiles.

Every step works on tensors of any leading shape, on the tensor's own device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from micranet_helpers.cam import grad_cam
from micranet_helpers.networks.micranet import LAYERS
from micranet_helpers.tiles import over_tiles, padded

BINS = 256  # of the histograms behind Otsu and triangle, as in scikit-image


def combine(maps: Tensor, how: str = "pca", layers: Sequence[int] | None = None) -> Tensor:
    """Combine the maps of several layers into one.

    Parameters
    ----------
    maps : Tensor, float, (..., L, H, W)
        Maps of L layers, as :func:`~micranet_helpers.cam.grad_cam` gives them (L = 8).
    how : {"pca", "mean", "sum", "prod"}
        "pca" projects each pixel's maps on their first principal component; see :func:`pca`.
    layers : sequence of int, optional
        Which layers to combine. Default: all, but for "pca" of eight maps 1a … 4a, since 4b says
        which sign is right.

    Returns
    -------
    Tensor, (..., H, W)
        The combined map.

    Raises
    ------
    ValueError
        If the way, or a layer, does not exist.
    """
    if maps.ndim < 3 or 0 in maps.shape[-3:]:
        raise ValueError(f"Maps must have the shape (..., layers, H, W), not {tuple(maps.shape)}.")
    num_layers = maps.shape[-3]
    if layers is None:
        without_4b = how == "pca" and num_layers == len(LAYERS)
        layers = range(num_layers - without_4b)
    if not layers or not all(-num_layers <= layer < num_layers for layer in layers):
        raise ValueError(f"Layers must be from 0 to {num_layers - 1}, at least one, not {layers}.")
    chosen = maps[..., list(layers), :, :]
    if how == "pca":
        return pca(chosen, reference=maps[..., -1, :, :])
    if how not in ("mean", "sum", "prod"):
        raise ValueError(f'Combine by "pca", "mean", "sum" or "prod", not "{how}".')
    return getattr(torch, how)(chosen, dim=-3)


def pca(maps: Tensor, reference: Tensor) -> Tensor:
    """Project the maps of each pixel on their first principal component.

    Each pixel is a point with L coordinates. The direction of largest variance comes from the
    eigenvectors of the L×L covariance, so the result is exact and repeatable. A principal
    component has no sign of its own: here the projection correlates positively with the
    reference map. Where that correlation is 0 (a constant reference), the layer of largest
    weight counts positively.

    Parameters
    ----------
    maps : Tensor, float, (..., L, H, W)
        Maps of L layers.
    reference : Tensor, float, (..., H, W)
        What is high on the objects: map 4b.

    Returns
    -------
    Tensor, (..., H, W)
        Centred scores (their mean is 0); 0 everywhere if all maps are constant.

    References
    ----------
    Bilodeau et al. 2022, doi 10.1038/s42256-022-00472-w; the sign rule is theirs for F-actin and
    EM (s = Σ P·M4b), used here for every dataset.
    """
    points = maps.flatten(-2)
    points = points - points[..., :1]  # a constant map becomes exactly 0
    points = points - points.mean(-1, keepdim=True)
    covariance = points @ points.mT / points.shape[-1]
    loadings = torch.linalg.eigh(covariance).eigenvectors[..., -1]
    scores = (loadings[..., None, :] @ points).squeeze(-2)
    reference = reference.flatten(-2)
    agreement = (scores * (reference - reference.mean(-1, keepdim=True))).sum(-1)
    tiny = 1e-6 * scores.norm(dim=-1) * reference.norm(dim=-1)
    largest = loadings.gather(-1, loadings.abs().argmax(-1, keepdim=True)).squeeze(-1)
    sign = torch.where(agreement.abs() > tiny, agreement, largest).sign()
    return (scores * sign[..., None]).unflatten(-1, maps.shape[-2:])


def gaussian(maps: Tensor, sigma: float) -> Tensor:
    """Smooth by a Gaussian filter of standard deviation ``sigma`` px, mirrored at the border.

    The same numbers as ``scipy.ndimage.gaussian_filter``, for tensors (..., H, W) of any device.
    """
    if sigma == 0:
        return maps
    rows, columns = (_gaussian_matrix(side, sigma).to(maps) for side in maps.shape[-2:])
    return rows @ maps @ columns.mT


@cache
def _gaussian_matrix(side: int, sigma: float) -> Tensor:
    """The filter along one axis as a matrix: filtering becomes two matrix products."""
    return torch.from_numpy(gaussian_filter1d(np.eye(side), sigma, axis=0)).float()


def otsu(maps: Tensor) -> Tensor:
    """Mark the pixels above Otsu's threshold, each image (..., H, W) by its own.

    Parameters
    ----------
    maps : Tensor, float, (..., H, W)
        Finite values.

    Returns
    -------
    Tensor, bool, (..., H, W)
        Nothing is marked in a constant image. Equal to ``image > threshold_otsu(image)`` of
        scikit-image.

    References
    ----------
    Otsu 1979, doi 10.1109/TSMC.1979.4310076.
    """
    counts, centres = _histogram(maps)
    below, above = counts.cumsum(-1), counts.flip(-1).cumsum(-1).flip(-1)
    weighted = counts * centres
    mean_below = weighted.cumsum(-1) / below
    mean_above = weighted.flip(-1).cumsum(-1).flip(-1) / above
    between = below[..., :-1] * above[..., 1:] * (mean_below[..., :-1] - mean_above[..., 1:]) ** 2
    return _above(maps, centres, between.argmax(-1, keepdim=True))


def triangle(maps: Tensor) -> Tensor:
    """Mark the pixels above the triangle threshold, each image (..., H, W) by its own.

    Parameters
    ----------
    maps : Tensor, float, (..., H, W)
        Finite values.

    Returns
    -------
    Tensor, bool, (..., H, W)
        Nothing is marked in a constant image. Equal to ``image > threshold_triangle(image)`` of
        scikit-image.

    References
    ----------
    Zack, Rogers & Latt 1977, doi 10.1177/25.7.70454.
    """
    counts, centres = _histogram(maps)
    bins = torch.arange(BINS, device=maps.device)
    high = torch.where(counts > 0, bins, 0).amax(-1, keepdim=True)
    low = torch.where(counts > 0, bins, BINS).amin(-1, keepdim=True)
    peak = counts.argmax(-1, keepdim=True)
    # The long tail of the histogram is put on the left of its peak.
    flipped = peak - low < high - peak
    counts = torch.where(flipped, counts.flip(-1), counts)
    low = torch.where(flipped, BINS - 1 - high, low)
    peak = torch.where(flipped, BINS - 1 - peak, peak)
    distance = counts.gather(-1, peak) * (bins - low) - (peak - low) * counts
    distance = distance.masked_fill((bins < low) | (bins >= peak), -torch.inf)
    level = distance.argmax(-1, keepdim=True)
    return _above(maps, centres, torch.where(flipped, BINS - 1 - level, level))


def percentile(maps: Tensor, q: float) -> Tensor:
    """Mark the pixels above the q-th percentile of each image (..., H, W).

    Parameters
    ----------
    maps : Tensor, float, (..., H, W)
        Values.
    q : float
        0 to 100; about 100 − q percent of the pixels are marked.

    Returns
    -------
    Tensor, bool, (..., H, W)
        Nothing is marked in a constant image.

    Raises
    ------
    ValueError
        If ``q`` is outside [0, 100].
    """
    if not 0 <= q <= 100:
        raise ValueError(f"The percentile must be from 0 to 100, not {q}.")
    values = maps.flatten(-2)
    rank = int(q / 100 * (values.shape[-1] - 1))
    return maps > values.kthvalue(rank + 1, keepdim=True).values[..., None]


def _histogram(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and centres of 256 bins between each image's minimum and maximum: (..., 256)."""
    values = maps.flatten(-2)
    values = values.reshape(-1, values.shape[-1])
    lowest, highest = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    width = (highest - lowest) / BINS
    bins = ((values - lowest) / width.clamp(min=torch.finfo(values.dtype).tiny)).long()
    bins = bins.clamp(max=BINS - 1) + BINS * torch.arange(len(values), device=maps.device)[:, None]
    counts = torch.bincount(bins.flatten(), minlength=BINS * len(values)).to(values.dtype)
    centres = lowest + width * (torch.arange(BINS, device=maps.device) + 0.5)
    shape = (*maps.shape[:-2], BINS)
    return counts.reshape(shape), centres.reshape(shape)


def _above(maps: Tensor, centres: Tensor, level: Tensor) -> Tensor:
    return maps > centres.gather(-1, level)[..., None]


Decide = Callable[[Tensor], Tensor]
"""Which classes are predicted: logits (B, K) -> bool (B, K)."""


@dataclass(frozen=True)
class Recipe:
    """What a dataset does between the network and the masks.

    Attributes
    ----------
    name : str
        How tables and figures call it.
    score : function of model, images (B, C, H, W), decide -> scores (B, K, H, W), logits (B, K)
        How strongly each pixel speaks for each class, e.g. :func:`from_maps` of a few steps or
        :func:`~micranet_helpers.evidence.evidence`. Scores of overlapping tiles, and of several
        models, are averaged.
    mask : function of scores (B, K, H, W) and images (B, C, H, W) -> bool (B, K, H, W)
        Which pixels belong to each class.
    margin : int
        Width of the border of a tile, px, where scores suffer from what lies outside it.
    """

    name: str
    score: Callable[[nn.Module, Tensor, Decide], tuple[Tensor, Tensor]]
    mask: Callable[[Tensor, Tensor], Tensor]
    margin: int = 0


def from_maps(
    step: Callable[[Tensor, Tensor], Tensor],
    layers: Sequence[str] = LAYERS,
    normalize: bool = True,
) -> Callable[[nn.Module, Tensor, Decide], tuple[Tensor, Tensor]]:
    """Make the score of a recipe from its step on the Grad-CAM maps.

    Parameters
    ----------
    step : function of maps (B, K, L, H, W) and images (B, C, H, W) -> scores (B, K, H, W)
        Maps of classes that are not predicted are 0.
    layers : sequence of str
        The maps it needs.
    normalize : bool
        Whether each map is scaled to [0, 1] first.

    Returns
    -------
    function
        For :class:`Recipe`.
    """

    def score(model: nn.Module, images: Tensor, decide: Decide) -> tuple[Tensor, Tensor]:
        cams = grad_cam(model, images, decide, normalize, layers)
        with _exact(images):
            return step(cams.maps.float(), images), cams.logits

    return score


def _exact(images: Tensor) -> torch.autocast:
    """No half precision after the network: a principal component or a Gaussian would suffer."""
    return torch.autocast(images.device.type, enabled=False)


def predicted(logits: Tensor, thresholds: Sequence[float] | None = None) -> Tensor:
    """Decide which classes an image is taken to show.

    Parameters
    ----------
    logits : Tensor, float, (..., K)
        What a classifier says.
    thresholds : sequence of K floats, optional
        Least probability of each class; by default the logit must be above 0.

    Returns
    -------
    Tensor, bool, (..., K)
        The decisions.
    """
    if thresholds is None:
        return logits > 0
    return logits.sigmoid() >= torch.as_tensor(thresholds).to(logits)


class Segments(NamedTuple):
    """What :func:`segment` returns.

    Attributes
    ----------
    masks : Tensor, bool, (B, K, H, W)
        Pixels of each class; empty for classes that are not predicted.
    scores : Tensor, float32, (B, K, H, W)
        The recipe's scores behind the masks.
    probabilities : Tensor, float32, (B, K)
        Probability that the image shows the class (the highest of its tiles).
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

    Only predicted classes are explained. Under ``torch.autocast`` only the network runs in half
    precision. Images larger than what the network was trained on must be cut into tiles of about
    that size: the global max pool accepts any side, but a network that saw three objects at a time
    has not learnt to see sixty.

    Parameters
    ----------
    model : MICRANet or another network that the recipe is for, or several of them
        The classifier. Of several, scores and logits are averaged; one that does not predict a
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
        A class is predicted where its probability reaches its threshold. By default, where it is
        above 0.5.

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
    models = [model] if isinstance(model, nn.Module) else list(model)
    if not models:
        raise ValueError("Give at least one model.")

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
    with _exact(images):
        masks = recipe.mask(scores.float(), images) & decide(logits)[:, :, None, None]
    return Segments(masks, scores, logits.sigmoid())


def crop_by_crop(
    model: nn.Module | Sequence[nn.Module],
    image: Tensor,
    recipe: Recipe,
    side: int,
    thresholds: Sequence[float] | None = None,
) -> Tensor:
    """Segment an image as crops that lie side by side, each for itself.

    For recipes that look for one object a crop, or mark a share of it. Others give better masks
    by :func:`segment` with its overlapping tiles.

    Parameters
    ----------
    model, recipe, thresholds
        As for :func:`segment`.
    image : Tensor, float, (C, H, W)
        Larger than half a crop.
    side : int
        Side of a crop, px, a multiple of 8. At the far borders crops are filled by reflection.

    Returns
    -------
    Tensor, bool, (K, H, W)
        The masks of the crops, put together.

    Raises
    ------
    TypeError, ValueError
        As for :func:`segment`.
    """

    def masks(crops: Tensor) -> tuple[Tensor, Tensor]:
        done = segment(model, crops, recipe, thresholds=thresholds)
        return done.masks.float(), done.probabilities

    return over_tiles(image[None], masks, side, side)[0][0] > 0.5
