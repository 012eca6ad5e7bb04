"""What each dataset does between the maps and the masks."""

import numpy as np
import torch
from scipy.ndimage import find_objects, label
from skimage.filters import threshold_otsu
from torch import Tensor

from micranet_helpers.model import LAYERS
from micranet_helpers.segment import Recipe, combine, gaussian, otsu


def _smooth_4b(maps: Tensor) -> Tensor:
    return gaussian(maps[:, :, -1], sigma=3)


def _winner_in_foreground(scores: Tensor, images: Tensor) -> Tensor:
    """Bright pixels (Otsu, after some sharpening), each given to the class of highest score."""
    grey = images.mean(1, keepdim=True)
    sharp = grey + 0.5 * (grey - gaussian(grey, sigma=2))
    classes = torch.arange(scores.shape[1], device=scores.device)
    winner = scores.argmax(1, keepdim=True) == classes[:, None, None]
    return winner & (scores > 0.05) & otsu(sharp)


DIGITS = Recipe("default", ("4b",), _smooth_4b, _winner_in_foreground)
"""Ours for digits: map 4b says which digit, the image says where the ink is.

Steps and constants (3 px, 2 px, 0.5, 0.05) were chosen by the masks of *validation* digits; no
mask of a test digit was looked at.
"""


def _pca_in_regions(maps: Tensor) -> Tensor:
    """PCA score in the 4-connected regions of 4b > 0 whose 4b reaches 0.3; 0 elsewhere."""
    scores, last = combine(maps), maps[:, :, -1].cpu().numpy()
    keep = np.zeros(last.shape, bool)
    for place in np.ndindex(last.shape[:2]):
        regions, _ = label(last[place] > 0)
        for region, box in enumerate(find_objects(regions), 1):
            if last[place][box].max() >= 0.3:
                keep[place] |= regions == region
    return scores * torch.from_numpy(keep).to(scores.device)


def _otsu_of_tiles(scores: Tensor, images: Tensor) -> Tensor:
    """Otsu's threshold in each 8×8 tile that varies; where classes meet, the last one wins."""
    values = scores.cpu().numpy()
    masks = np.zeros(values.shape, bool)
    for place in np.ndindex(values.shape[:2]):
        regions, _ = label(values[place] != 0)
        for region, box in enumerate(find_objects(regions), 1):
            inside = np.where(regions[box] == region, values[place][box], 0)
            masks[place][box] = _otsu_of_tiles_in_box(inside)
    later = np.flip(np.cumsum(np.flip(masks, 1), 1), 1) - masks
    return torch.from_numpy(masks & (later == 0)).to(scores.device)


def _otsu_of_tiles_in_box(score: np.ndarray) -> np.ndarray:
    corners = [(y, x) for y in range(0, len(score), 8) for x in range(0, score.shape[1], 8)]
    tiles = [score[y : y + 8, x : x + 8] for y, x in corners]
    ranges = np.array([np.ptp(tile) for tile in tiles])
    mask = np.zeros(score.shape, bool)
    for (y, x), tile, varies in zip(corners, tiles, ranges > threshold_otsu(ranges), strict=True):
        if varies:
            mask[y : y + 8, x : x + 8] = tile > threshold_otsu(tile)
    return mask


PUBLISHED_MNIST = Recipe("published", LAYERS, _pca_in_regions, _otsu_of_tiles)
"""The recipe of the paper's code for modified MNIST (Bilodeau et al. 2022,
doi 10.1038/s42256-022-00472-w), with one deviation: the sign of the PCA is fixed by 4b, where the
original leaves it to the solver.
"""
