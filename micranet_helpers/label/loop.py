"""Train on all answers so far, judge by images that were left out, and say what to ask next."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from micranet_helpers import metrics, zoo
from micranet_helpers.data.crops import augmented, crop_grid
from micranet_helpers.data.own.annotations import image_key, planes_of
from micranet_helpers.files.series import read_plane
from micranet_helpers.maps import recipes
from micranet_helpers.maps.segmentation import magnified, pixel_scores
from micranet_helpers.maps.thresholds import highest
from micranet_helpers.networks import MICRANet
from micranet_helpers.train import fit, logits_of

POOL = {"pool": "lse", "sharpness": 4.0}


class Trained(NamedTuple):
    """Hold the networks, one a fold; how to use them; the area under the ROC curve of each class,
    of crops in images not seen; how probably each crop, (rows, columns, K), shows each class."""

    models: list[MICRANet]
    usage: zoo.Usage
    auc: list[float]
    chance: dict[str, NDArray[np.float32]]


class _Augmented(TensorDataset):
    """Crops and labels, so many times each; the crops are turned and toned anew each time."""

    times = 1

    def __len__(self) -> int:
        return self.times * super().__len__()

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        crop, label = super().__getitem__(i % super().__len__())
        return torch.from_numpy(augmented(crop.numpy(), np.random.default_rng(i))), label


def paths_of(folder: str | Path) -> dict[str, Path]:
    """Find the images of a folder, planes of stacks among them, by the names that answers use."""
    folder = Path(folder).expanduser()
    return {image_key(path.relative_to(folder).as_posix()): path for path in planes_of(folder)}


def train_now(
    paths: Mapping[str, Path], labels: Mapping[str, NDArray[np.float32]], usage: zoo.Usage,
    file: str | Path, epochs: int = 40, folds: int = 3,
) -> Trained:  # fmt: skip
    """Train on the known labels of crops; store the networks in the group ``MICRANet`` of a zoo.

    ``paths`` are those of all images, by name; ``labels``, float32 (rows, columns, K), hold 1, 0 or
    NaN for each crop of some of them. ``usage`` says classes, scaling of whole images,
    magnification, and ``side`` of a crop, px of the network. Each crop is seen ``epochs`` times;
    each of ``folds`` parts of the images is left out once; by its answers the level is chosen above
    which evidence marks a pixel. Raises ValueError if a class lacks a yes or a no in two images.
    """
    for k, cls in enumerate(usage.classes):
        for value, word in ((1, "yes"), (0, "no")):
            if sum((grid[..., k] == value).any() for grid in labels.values()) < 2:
                raise ValueError(f"Answer {word} about crops with {cls} in two images or more.")
    data = []
    # In the order of the share of yes: each part of the images has some of all kinds.
    for name, grid in sorted(labels.items(), key=lambda item: np.nan_to_num(item[1]).mean()):
        if (some := ~np.isnan(grid).all(-1)).any():
            data.append((_crops(paths[name], usage)[some], torch.from_numpy(grid[some])))
    models, found = [], []
    for n in range(min(folds, len(data))):
        out = TensorDataset(*map(torch.cat, zip(*data[n::folds], strict=True)))
        rest = [each for i, each in enumerate(data) if i % folds != n]
        models.append(_fit(_Augmented(*map(torch.cat, zip(*rest, strict=True))), out, n, epochs))
        found.append((logits_of(models[-1], out), highest(models[-1], out), out.tensors[1]))
    auc, levels, columns = [], [], (torch.cat(each).T for each in zip(*found, strict=True))
    for logits, reached, truth in zip(*columns, strict=True):
        known = ~truth.isnan()
        auc += metrics.roc_areas(logits[known, None], truth[known, None])
        levels.append(metrics.best_threshold(reached[known], truth[known]))
    usage = replace(usage, recipe="evidence", levels=levels)
    zoo.save(file, "MICRANet", models, {"size": usage.side}, usage=usage)
    chance = {name: _chance(models, path, usage) for name, path in paths.items()}
    return Trained(models, usage, auc, chance)


def masks_of(trained: Trained, path: Path) -> NDArray[np.bool_]:
    """Mark the classes of an image by evidence from its level on: bool (K, H, W)."""
    usage = trained.usage
    seen = usage.scaled(read_plane(path).image)
    scores = pixel_scores(trained.models, seen, recipes.EVIDENCE, usage.magnification)
    return scores >= np.float32(usage.levels)[:, None, None]


def _crops(path: Path, usage: zoo.Usage) -> Tensor:
    """Scale, magnify and cut an image, 0 outside of it: (rows, columns, C, side, side)."""
    image, side = read_plane(path).image, usage.side
    px, size = round(side / usage.magnification), image.shape[1:]
    rows, columns = (len(crop_grid(length, px, px)) for length in size)
    seen = magnified(torch.from_numpy(usage.scaled(image))[None], usage.magnification)[0]
    seen = F.pad(seen, (0, columns * side - seen.shape[2], 0, rows * side - seen.shape[1]))
    return seen.unflatten(1, (rows, side)).unflatten(3, (columns, side)).permute(1, 3, 0, 2, 4)


def _fit(train: _Augmented, left_out: TensorDataset, seed: int, epochs: int) -> MICRANet:
    """Train, yes weighing as much as no; all epochs are one of ``fit``: checkpoints take long."""
    train.times, labels = epochs, train.tensors[1]
    weight = ((labels == 0).sum(0) / (labels == 1).sum(0)).clamp(0.1, 10)
    with tempfile.TemporaryDirectory() as folder:
        return fit(train, left_out, folder, 1, batch_size=16, learning_rate=2e-3,
                   pos_weight=weight.tolist(), seed=seed, **POOL)  # fmt: skip


def _chance(models: Sequence[MICRANet], path: Path, usage: zoo.Usage) -> NDArray[np.float32]:
    crops = _crops(path, usage)
    flat = TensorDataset(crops.flatten(0, 1), torch.zeros(crops.shape[:2].numel()))
    chance = torch.stack([logits_of(model, flat) for model in models]).mean(0).sigmoid()
    return chance.unflatten(0, crops.shape[:2]).numpy()
