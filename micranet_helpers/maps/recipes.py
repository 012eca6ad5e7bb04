"""Define the recipes of each dataset: the steps between maps and masks.

The published recipes are those of the code of Bilodeau et al. 2022,
doi 10.1038/s42256-022-00472-w, written anew from their description. They deviate on purpose
where the original fails: the sign of the PCA is always fixed by map 4b (the original does so for
F-actin and EM only), a class without a region of 4b > 0 or with constant scores gets an empty mask,
where no object holds the maximum the nearest is kept, and masks have the size of the image.
"""

from collections.abc import Callable, Sequence
from itertools import compress, product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from skimage import filters
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes
from torch import Tensor, nn
from torch.nn import functional as F

from micranet_helpers.maps.cam import MARGIN, STEP, evidence, presence
from micranet_helpers.maps.combination import combine, gaussian
from micranet_helpers.maps.segmentation import Decide, Recipe, from_maps
from micranet_helpers.maps.thresholds import otsu, percentile

FOREGROUND = 6
"""Standard deviation of the Gaussian that leaves dendrites and fades axons, px of 20 nm."""

# Steps that several recipes share


def _each(maps: Tensor, mask: Callable[[NDArray], NDArray]) -> Tensor:
    """Mask each map (H, W) of (B, K, H, W) by a function of arrays; constant maps stay empty."""
    values = maps.cpu().numpy()
    masks = np.zeros(values.shape, bool)
    for place in np.ndindex(values.shape[:2]):
        if np.ptp(values[place]) > 0:
            masks[place] = mask(values[place])
    return torch.from_numpy(masks).to(maps.device)


def _ranged_pca(maps: Tensor, inside: Tensor | bool = True) -> Tensor:
    """Scale the PCA score to [0, 1] in the region of 4b > 0; 0 where it is empty or constant."""
    scores, region = combine(maps), (maps[:, :, -1] > 0) & inside
    lowest = scores.where(region, torch.inf).amin((-2, -1), keepdim=True)
    highest = scores.where(region, -torch.inf).amax((-2, -1), keepdim=True)
    rounding = 1e-6 * scores.abs().amax((-2, -1), keepdim=True)
    span = highest - lowest
    return torch.where(span > rounding, (scores - lowest) / span, 0)


def _object_at_peak(
    sigma: float, mark: Callable[[NDArray], NDArray]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the mask of a Recipe: of what the smoothed score marks, the object at its maximum."""

    def of_class(score: NDArray) -> NDArray:
        filled = remove_small_holes(mark(filters.gaussian(np.pad(score, 1), sigma)), max_size=2499)
        objects = label(filled, np.ones((3, 3)))[0][1:-1, 1:-1]
        pixels = np.argwhere(objects)
        if not len(pixels):
            return objects > 0
        peak = np.unravel_index(score.argmax(), score.shape)
        nearest = pixels[((pixels - peak) ** 2).sum(1).argmin()]
        return objects == objects[tuple(nearest)]

    return lambda scores, _: _each(scores, of_class)


# Any dataset


def _above_zero(scores: Tensor, _: Tensor) -> Tensor:
    return scores > 0


def by_evidence(step: int = STEP) -> Callable[[nn.Module, Tensor, Decide], tuple[Tensor, Tensor]]:
    """Make the score of a Recipe: evidence in steps of 4 or 8 px, whatever is predicted."""
    return lambda model, images, _: (evidence(model, images, step), presence(model, images))


EVIDENCE = Recipe("evidence", by_evidence(), _above_zero, MARGIN)
"""Pixels of evidence above 0; see :func:`~micranet_helpers.maps.cam.evidence`."""


def _pixel_logits(model: nn.Module, images: Tensor, _: Decide) -> tuple[Tensor, Tensor]:
    logits = model(images).float()
    return logits, logits.amax((-2, -1))


SELF_TRAINED = Recipe("default", _pixel_logits, _above_zero, MARGIN)
"""For a U-Net trained on :mod:`~micranet_helpers.maps.selftraining` masks: logits above 0."""


# Modified MNIST


def _winner_in_foreground(scores: Tensor, images: Tensor) -> Tensor:
    """Give bright pixels (Otsu, after some sharpening) to the class of highest score."""
    grey = images.mean(1, keepdim=True)
    sharp = grey + 0.5 * (grey - gaussian(grey, sigma=2))
    classes = torch.arange(scores.shape[1], device=scores.device)
    winner = scores.argmax(1, keepdim=True) == classes[:, None, None]
    return winner & (scores > 0.05) & otsu(sharp)


DIGITS = Recipe(
    "default",
    from_maps(lambda maps, _: gaussian(maps[:, :, -1], sigma=3), ("4b",)),
    _winner_in_foreground,
)
"""Our recipe for digits: map 4b gives the digit, the image shows where the ink is.

Steps and constants (3 px, 2 px, 0.5, 0.05) were chosen by the masks of *validation* digits; no
mask of a test digit was looked at.
"""


def _sure_regions(last: NDArray) -> NDArray:
    """Mark 4-connected regions of 4b > 0 in whose bounding box 4b reaches 0.3."""
    regions, _ = label(last > 0)
    boxes = enumerate(find_objects(regions), 1)
    return np.isin(regions, [region for region, box in boxes if last[box].max() >= 0.3])


def _otsu_of_tiles(scores: Tensor, _: Tensor) -> Tensor:
    """Apply Otsu's threshold in each 8×8 tile that varies; where classes meet, the last wins."""
    masks = _each(scores, _otsu_of_tiles_in_regions)
    later = masks.flip(1).cumsum(1).flip(1) - masks.long()
    return masks & (later == 0)


def _otsu_of_tiles_in_regions(score: NDArray) -> NDArray:
    mask = np.zeros(score.shape, bool)
    regions, _ = label(score != 0)
    for region, box in enumerate(find_objects(regions), 1):
        # Boxes overwrite each other, as in the original.
        mask[box] = _otsu_of_tiles_in_box(np.where(regions[box] == region, score[box], 0))
    return mask


def _otsu_of_tiles_in_box(score: NDArray) -> NDArray:
    corners = product(range(0, len(score), 8), range(0, score.shape[1], 8))
    tiles = [(slice(y, y + 8), slice(x, x + 8)) for y, x in corners]
    ranges = np.array([np.ptp(score[tile]) for tile in tiles])
    # Otsu cannot split equal numbers, e.g. a single tile: then every tile counts that varies.
    least = threshold_otsu(ranges) if np.ptp(ranges) else 0
    mask = np.zeros(score.shape, bool)
    for tile in compress(tiles, ranges > least):
        mask[tile] = score[tile] > threshold_otsu(score[tile])
    return mask


PUBLISHED_MNIST = Recipe(
    "published",
    from_maps(lambda maps, _: combine(maps) * _each(maps[:, :, -1], _sure_regions)),
    _otsu_of_tiles,
)
"""The published recipe for modified MNIST: PCA in the regions of 4b, Otsu in tiles of 8 px.

A region whose tiles all vary alike, e.g. of one tile, is segmented, where the original drops it.
"""


# F-actin


def _foreground(images: Tensor) -> Tensor:
    """Mark bins of 8×8 px brighter than the median bin of their image, (B, 1, H, W)."""
    bins = F.avg_pool2d(images.mean(1, keepdim=True), 8)
    bright = bins > bins.flatten(1).median(1).values[:, None, None, None]
    return bright.repeat_interleave(8, -2).repeat_interleave(8, -1)


PUBLISHED_ACTIN = Recipe(
    "published",
    from_maps(lambda maps, images: gaussian(_ranged_pca(maps, _foreground(images)), sigma=1)),
    lambda scores, _: percentile(scores, 80),
)
"""The published recipe for F-actin: the PCA, scaled in the foreground, above its 80th percentile.

A predicted class always covers about 20 % of the image, whatever its true area.
"""


def in_foreground(width: float = 32, levels: Sequence[float] = (0,)) -> Recipe:
    """Make our recipe for F-actin: evidence, averaged over neighbours in the dendrite.

    The foreground is what is above Otsu's threshold of the smoothed image; thin axons fade in it.
    Its one constant, 6 px, was chosen on dendrite masks of simulated images of the same kind.
    ``width`` is the standard deviation of the Gaussian weights of neighbours, px; ``levels``, (1,)
    or (K,), are the least mean evidence of each class, in logits. Both can be chosen on labels of
    crops. The masks may overlap.
    """

    def mask(scores: Tensor, images: Tensor) -> Tensor:
        inside = otsu(gaussian(images.mean(1, keepdim=True), FOREGROUND))
        share = gaussian(inside.float(), width).clamp(min=1e-6)
        least = torch.as_tensor(levels).to(scores)[:, None, None]
        return inside & (gaussian(scores * inside, width) / share >= least)

    return Recipe("default", by_evidence(), mask, MARGIN)


# Cell Tracking Challenge


def _cell_less_contact(scores: Tensor, _: Tensor) -> Tensor:
    """Mark cells where cell − contact reaches Otsu's threshold of its nonzero values."""
    if scores.shape[1] % 2:
        raise ValueError(
            f"This recipe needs two classes a cell line, cell and contact in turn, so an even "
            f"number, not {scores.shape[1]}: use a network with these classes."
        )
    cells, contacts = scores[:, ::2], scores[:, 1::2]
    masks = torch.zeros_like(scores, dtype=torch.bool)
    masks[:, ::2] = _each(cells - contacts, lambda d: d >= threshold_otsu(d[d != 0]))
    masks[:, ::2] &= (cells != 0).any((-2, -1), keepdim=True)
    return masks


PUBLISHED_CTC = Recipe(
    "published",
    from_maps(lambda maps, _: gaussian(_ranged_pca(maps), sigma=3)),
    _cell_less_contact,
)
"""The published recipe for the Cell Tracking Challenge: "cell" less "contact between cells".

Classes come in pairs, one a cell line: cell (even) and contact (odd). The mask is that of the
cell; contacts have none. Where only the contact is predicted the mask is empty, where the original
marks weak contact as cell.
"""


# Electron microscopy

PUBLISHED_EM = Recipe(
    "published",
    from_maps(lambda maps, _: gaussian(_ranged_pca(maps), sigma=1), normalize=False),
    _object_at_peak(5, lambda smooth: smooth > np.quantile(smooth, 0.9)),
)
"""The published recipe for axons: the smoothed PCA above its 90th percentile, one object.

Holes below 2500 px are filled, so an image must be much larger. Only the object with the highest
score, or nearest to it, is kept: a second axon in the image can never be found.
"""


# P. vivax

PUBLISHED_PVIVAX = Recipe(
    "published",
    from_maps(lambda maps, _: gaussian(combine(maps), sigma=3), normalize=False),
    _object_at_peak(10, lambda smooth: smooth >= threshold_otsu(smooth)),
)
"""The published recipe for P. vivax: the smoothed PCA from Otsu's threshold on, one object.

Meant for the mean of several fold models, which never cancel each other, as 4b fixes their signs.
Holes are filled and one object is kept as for :data:`PUBLISHED_EM`.
"""


RECIPES = {
    "mnist": {"default": DIGITS, "published": PUBLISHED_MNIST},
    "ctc": {"default": SELF_TRAINED, "evidence": EVIDENCE, "published": PUBLISHED_CTC},
    "pvivax": {"default": SELF_TRAINED, "evidence": EVIDENCE, "published": PUBLISHED_PVIVAX},
    "em": {"default": SELF_TRAINED, "evidence": EVIDENCE, "published": PUBLISHED_EM},
    "actin": {"default": in_foreground(), "evidence": EVIDENCE, "published": PUBLISHED_ACTIN},
}
"""All recipes: name of the dataset -> name of the recipe -> recipe."""


def recipe(dataset: str, name: str = "default") -> Recipe:
    """Look up a recipe of the dataset that a network was trained on.

    The dataset is "mnist", "ctc", "pvivax", "em" or "actin". ``name`` is "default" (ours),
    "published" (that of the paper's code) or, except for "mnist", "evidence" (:data:`EVIDENCE`
    alone). The recipe is for :func:`~micranet_helpers.maps.segmentation.segment`. Raises ValueError
    if there is no such dataset, or it has no such recipe.
    """
    if name not in RECIPES.get(dataset, {}):
        choice = "; ".join(f"{each}: {', '.join(of_it)}" for each, of_it in RECIPES.items())
        raise ValueError(f'No recipe "{name}" for "{dataset}": choose among {choice}.')
    return RECIPES[dataset][name]
