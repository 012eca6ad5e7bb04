"""Combine the maps of several layers into one, and smooth it.

Every step works on tensors of any leading shape, on the tensor's own device.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from micranet_helpers.networks.micranet import LAYERS


def combine(maps: Tensor, how: str = "pca", layers: Sequence[int] | None = None) -> Tensor:
    """Combine the maps of several layers into one.

    Parameters
    ----------
    maps : Tensor, float, (..., L, H, W)
        Maps of L layers, as :func:`~micranet_helpers.maps.cam.grad_cam` gives them (L = 8).
    how : {"pca", "mean", "sum", "prod"}
        "pca" projects each pixel's maps on their first principal component (:func:`pca`).
    layers : sequence of int, optional
        Layers to combine. Default: all, but for "pca" of eight maps 1a … 4a, as 4b decides the
        sign.

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

    The direction comes from the eigenvectors of the L×L covariance, so the result is exact and
    repeatable. A principal component has no sign of its own: here the projection correlates
    positively with the reference map. Where that correlation is 0 (a constant reference), the
    layer of largest weight counts positively.

    Parameters
    ----------
    maps : Tensor, float, (..., L, H, W)
        Maps of L layers.
    reference : Tensor, float, (..., H, W)
        A map that is high on the objects: 4b.

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
    """Smooth by a Gaussian filter of standard deviation ``sigma`` px.

    The same numbers as ``skimage.filters.gaussian``, for tensors (..., H, W) of any device: what
    lies beyond the border is like the nearest pixel.
    """
    if sigma == 0:
        return maps
    rows, columns = (_gaussian_matrix(side, sigma).to(maps) for side in maps.shape[-2:])
    return rows @ maps @ columns.mT


@lru_cache(4)  # of the size of an image each
def _gaussian_matrix(side: int, sigma: float) -> Tensor:
    """Write the filter along one axis as a matrix, so that filtering is two matrix products."""
    return torch.from_numpy(gaussian_filter1d(np.eye(side), sigma, 0, mode="nearest")).float()
