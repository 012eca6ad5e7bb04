"""Turn scores into masks by thresholds that each image sets itself, or that labels of crops set.

Those of an image work on tensors of any leading shape, on the tensor's own device.
"""

from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from micranet_helpers import metrics
from micranet_helpers.data.crops import CropDataset
from micranet_helpers.maps.cam import evidence
from micranet_helpers.networks.micranet import check_evaluating

BINS = 256  # of the histograms behind Otsu and triangle, as in scikit-image


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
    """Mark the pixels above the triangle threshold, as :func:`otsu` does.

    Equal to ``image > threshold_triangle(image)`` of scikit-image (Zack, Rogers & Latt 1977, doi
    10.1177/25.7.70454). Nothing is marked in a constant image.
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


RIM = 8
"""Border of a crop that is left out, px: without an object, it is high there beside one."""


@torch.no_grad()
def from_labels(
    model: nn.Module,
    crops: CropDataset,
    score: Callable[[nn.Module, Tensor, None], tuple[Tensor, Tensor]] = evidence,
) -> Tensor:
    """Choose the thresholds of a score by labels of crops, not masks.

    Each crop is seen alone, as in training, and has the highest score off its rim of :data:`RIM`
    px. The threshold of a class is that of highest F1 for "this reaches it" against the labels.
    Only images that show the class somewhere count: in others it may be impossible.

    Parameters
    ----------
    model : MICRANet, or the network that the score is for
        In evaluation mode, on any device.
    crops : CropDataset
        Validation crops, of more than 24 px.
    score : function of model, images, None -> scores (B, K, H, W), anything
        That of the :class:`~micranet_helpers.maps.segmentation.Recipe` that uses the thresholds.

    Returns
    -------
    Tensor, float32, (K,)
        In the unit of the score; 0 for a class that all of these crops show, or none.

    Raises
    ------
    ValueError
        If the model is in training mode or its score is not finite.
    """
    check_evaluating(model)
    image, present = torch.from_numpy(crops.positions[:, 0]), crops.labels > 0
    thresholds, scores = torch.zeros(present.shape[1]), highest(model, crops, score)
    for k, (reached, shown) in enumerate(zip(scores.T, present.T, strict=True)):
        where = torch.isin(image, image[shown]) & ~crops.labels[:, k].isnan()
        if not shown[where].all():
            thresholds[k] = metrics.best_threshold(reached[where], shown[where])
    return thresholds


@torch.no_grad()
def highest(
    model: nn.Module, crops: Dataset,
    score: Callable[[nn.Module, Tensor, None], tuple[Tensor, Tensor]] = evidence,
) -> Tensor:  # fmt: skip
    """Find the highest score of each crop, seen alone, off its rim of :data:`RIM` px: (N, K)."""
    device = next(model.parameters()).device
    off_rim = ..., slice(RIM, -RIM), slice(RIM, -RIM)
    return torch.cat([score(model, images.to(device), None)[0][off_rim].amax((-2, -1)).cpu()
                      for images, _ in DataLoader(crops, 16)])  # fmt: skip


def f1_and_best(scores: ArrayLike, mask: ArrayLike, threshold: float) -> tuple[float, float]:
    """Compute the pixel F1 of "score >= threshold", and the highest of any threshold.

    The gap is to be reported, not to choose by: this needs masks. Scores and bool masks of one
    class have any equal shape; a ValueError is raised if all pixels are in the mask, or none.
    """
    scores, mask = (torch.as_tensor(values).flatten() for values in (scores, mask))
    best = metrics.best_threshold(scores, mask)
    return tuple(metrics.dice(scores >= each, mask) for each in (threshold, best))


def _histogram(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Count values in 256 bins between each image's extremes: counts, centres, (..., 256)."""
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
