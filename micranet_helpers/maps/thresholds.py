"""Turn scores into masks by thresholds that each image sets itself.

Every step works on tensors of any leading shape, on the tensor's own device.
"""

import torch
from torch import Tensor

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
