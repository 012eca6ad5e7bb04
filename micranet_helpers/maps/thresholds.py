"""Turn scores into masks by thresholds that each image sets itself, or that labels of crops set.

Those of an image work on tensors of any leading shape, on the tensor's own device.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import threshold_otsu, threshold_triangle
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from micranet_helpers import metrics
from micranet_helpers.data.crops import CropDataset
from micranet_helpers.maps.cam import evidence


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
    return _above(maps, threshold_otsu)


def triangle(maps: Tensor) -> Tensor:
    """Mark the pixels above the triangle threshold, as :func:`otsu` does.

    Equal to ``image > threshold_triangle(image)`` of scikit-image (Zack, Rogers & Latt 1977, doi
    10.1177/25.7.70454). Nothing is marked in a constant image.
    """
    return _above(maps, threshold_triangle)


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
def from_labels(model: nn.Module, crops: CropDataset) -> Tensor:
    """Choose the thresholds of evidence, float32 (K,), by labels of crops, not masks.

    Each crop is seen alone, as in training, and has the :func:`highest` evidence of its pixels. The
    threshold of a class is that of highest F1 for "this reaches it" against the labels. Only images
    that show the class somewhere count: in others it may be impossible. It is 0 for a class that
    all of these crops show, or none.

    The model is in evaluation mode, on any device; crops are for validation, of more than 24 px.
    Raises ValueError if the model is in training mode or its evidence is not finite.
    """
    image, present = torch.from_numpy(crops.positions[:, 0]), crops.labels > 0
    thresholds, scores = torch.zeros(present.shape[1]), highest(model, crops)
    for k, (reached, shown) in enumerate(zip(scores.T, present.T, strict=True)):
        where = torch.isin(image, image[shown]) & ~crops.labels[:, k].isnan()
        if not shown[where].all():
            thresholds[k] = metrics.best_threshold(reached[where], shown[where])
    return thresholds


@torch.no_grad()
def highest(model: nn.Module, crops: Dataset) -> Tensor:
    """Find the highest evidence of each crop, seen alone, off its rim of :data:`RIM` px: (N, K)."""
    device = next(model.parameters()).device
    off_rim = ..., slice(RIM, -RIM), slice(RIM, -RIM)
    return torch.cat([evidence(model, images.to(device))[off_rim].amax((-2, -1)).cpu()
                      for images, _ in DataLoader(crops, 16)])  # fmt: skip


def _above(maps: Tensor, threshold: Callable[[NDArray], float]) -> Tensor:
    images = maps.detach().cpu().numpy().reshape(-1, *maps.shape[-2:])
    levels = np.array([threshold(image) if np.ptp(image) else image.max() for image in images])
    return maps > torch.from_numpy(levels).to(maps.device).reshape(*maps.shape[:-2], 1, 1)
