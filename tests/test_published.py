"""The published recipes against their steps written out with scikit-image, on networks' own maps.

The networks are trained for a few steps on simulated crops, so that their maps look like real ones.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import filters, measure, morphology
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from micranet_helpers.data import actin, ctc, em, mnist, pvivax
from micranet_helpers.maps import recipes
from micranet_helpers.maps.cam import grad_cam
from micranet_helpers.maps.segmentation import segment
from micranet_helpers.networks.micranet import MICRANet

SIDE = 64  # of the crops that networks learn from
DATA = {"mnist": (mnist, 10), "ctc": (ctc, 6), "pvivax": (pvivax, 1), "em": (em, 1),
        "actin": (actin, 2)}  # fmt: skip


@cache
def simulated(dataset: str) -> tuple[Tensor, Tensor]:
    """Images (2, C, 256, 256), and where each of K classes is, (2, K, 256, 256)."""
    module, count = DATA[dataset]
    samples = module.simulate(2, 256)
    images = torch.stack([torch.from_numpy(np.float32(each.pixels)) for each in samples])
    return images, torch.stack([torch.from_numpy(each.label[:count] > 0) for each in samples])


def crops(planes: Tensor) -> Tensor:
    return planes.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).movedim(1, 3).flatten(0, 2)


@cache
def trained(dataset: str, seed: int = 0) -> MICRANet:
    torch.manual_seed(seed)
    images, labels = map(crops, simulated(dataset))
    present = (labels.float().mean((2, 3)) > 0.02).float()
    model = MICRANet(images.shape[1], present.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for rows in torch.randint(len(images), (8, 8)):
        loss = F.binary_cross_entropy_with_logits(model(images[rows]), present[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        # A few steps leave 4b positive everywhere or nowhere: after this, on part of an image.
        mean = model.eval().features(images).mean((0, 2, 3))
        weights = model.linear1.weight
        weights -= (weights @ mean)[:, None] * mean / (mean @ mean)
    return model


# The steps: maps (K, 8, H, W) of one crop -> masks (K, H, W)


def principal(maps: NDArray) -> NDArray:
    """First component of 1a … 4a, its sign from 4b."""
    points = maps[:7].reshape(7, -1).T
    scores = PCA(1, svd_solver="full").fit_transform(points).reshape(maps.shape[1:])
    return scores * np.sign((scores * maps[7]).sum())


def ranged(scores: NDArray, region: NDArray) -> NDArray:
    if not region.any():
        return np.zeros_like(scores)
    low, high = scores[region].min(), scores[region].max()
    return (scores - low) / (high - low)


def mnist_masks(maps: NDArray, _: NDArray) -> NDArray:
    planes = np.zeros((len(maps) + 1, *maps.shape[2:]))
    for k, layers in enumerate(maps):
        scores = principal(layers)
        for region in measure.regionprops(measure.label(layers[7] > 0, connectivity=1)):
            if layers[7][region.slice].max() < 0.3:
                continue
            inside = np.where(region.image, scores[region.slice], 0)
            rows, columns = (range(0, length, 8) for length in inside.shape)
            corners = [(y, x) for y in rows for x in columns]
            tiles = [inside[y : y + 8, x : x + 8] for y, x in corners]
            ranges = np.array([np.ptp(tile) for tile in tiles])
            found = np.zeros(inside.shape)
            for (y, x), tile in zip(corners, tiles, strict=True):
                if np.ptp(tile) > filters.threshold_otsu(ranges):
                    found[y : y + 8, x : x + 8] = tile > filters.threshold_otsu(tile)
            planes[k + 1][region.slice] = found * (k + 1)
    winner = planes.max(0)
    return np.stack([winner == k + 1 for k in range(len(maps))])


def actin_masks(maps: NDArray, image: NDArray) -> NDArray:
    bins = measure.block_reduce(image[0], 8, np.mean)
    bright = np.kron(bins > np.median(bins), np.ones((8, 8))) > 0
    raw = [ranged(principal(each), (each[7] > 0) & bright) for each in maps]
    smooth = [filters.gaussian(each, 1) for each in raw]
    return np.stack([each > np.quantile(each, 0.8) for each in smooth])


def ctc_masks(maps: NDArray, _: NDArray) -> NDArray:
    smooth = [filters.gaussian(ranged(principal(each), each[7] > 0), 3) for each in maps]
    masks = np.zeros((len(maps), *maps.shape[2:]), bool)
    for cell in range(0, len(maps), 2):
        d = smooth[cell] - smooth[cell + 1]
        masks[cell] = d >= filters.threshold_otsu(d[d != 0])
    return masks


def with_the_maximum(bordered: NDArray, raw: NDArray) -> NDArray:
    filled = morphology.remove_small_holes(bordered, max_size=2499)
    objects = measure.label(filled, connectivity=2)[1:-1, 1:-1]
    return objects == objects[np.unravel_index(raw.argmax(), raw.shape)]


def em_masks(maps: NDArray, _: NDArray) -> NDArray:
    raw = filters.gaussian(ranged(principal(maps[0]), maps[0, 7] > 0), 1)
    smooth = filters.gaussian(np.pad(raw, 1), 5)
    return with_the_maximum(smooth > np.quantile(smooth, 0.9), raw)[None]


def pvivax_masks(folds: NDArray, _: NDArray) -> NDArray:
    raw = np.mean([filters.gaussian(principal(maps[0]), 3) for maps in folds], 0)
    smooth = filters.gaussian(np.pad(raw, 1), 10)
    return with_the_maximum(smooth >= filters.threshold_otsu(smooth), raw)[None]


STEPS: dict[str, Callable[[NDArray, NDArray], NDArray]] = {
    "mnist": mnist_masks, "actin": actin_masks, "ctc": ctc_masks, "em": em_masks,
    "pvivax": pvivax_masks,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATA)
def test_published_masks_are_those_of_the_written_out_steps(dataset: str) -> None:
    models = [trained(dataset, seed) for seed in range(2 if dataset == "pvivax" else 1)]
    images = simulated(dataset)[0][:1]
    every = [0.0] * models[0].num_classes  # a probability that each class reaches
    found = segment(models, images, recipes.recipe(dataset, "published"), thresholds=every).masks
    normalize = dataset not in ("em", "pvivax")
    folds = [grad_cam(model, images, normalize=normalize).maps[0].numpy() for model in models]
    maps = np.stack(folds) if dataset == "pvivax" else folds[0]
    expected = STEPS[dataset](maps, images[0].numpy())
    assert (found[0].numpy() != expected).mean() < 1e-3, "equal up to rounding"
    assert 0.01 < expected.mean() < 0.9
