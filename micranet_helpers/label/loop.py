"""Train on all answers so far, judge by images that were left out, and say what to ask next.

A MICRANet learns whether a crop shows a class. A U-Net then learns pixels: of its evidence, where
the answers about boxes of all sizes agree.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from micranet_helpers import metrics, zoo
from micranet_helpers.data.crops import augmented, crop_grid
from micranet_helpers.data.own.annotations import image_key, planes_of
from micranet_helpers.data.own.answers import NO, YES, Question
from micranet_helpers.files.series import read_plane
from micranet_helpers.maps import selftraining
from micranet_helpers.maps.segmentation import magnified, pixel_scores
from micranet_helpers.maps.thresholds import highest
from micranet_helpers.predict import ways
from micranet_helpers.train import fit, logits_of

CROPS = 240  # that a U-Net sees in an epoch


class Trained(NamedTuple):
    """Hold networks, and how to use them."""

    models: list[nn.Module]  # one a fold
    usage: zoo.Usage
    auc: list[float]  # area under the ROC curve of each class, of crops in images not seen


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
    file: str | Path, epochs: int = 40, folds: int = 3, seed: int = 0,
) -> Trained:  # fmt: skip
    """Train on the known labels of crops; store the networks in the group ``MICRANet`` of a zoo.

    ``paths`` are those of the images, by name; ``labels``, float32 (rows, columns, K), hold 1, 0 or
    NaN for each crop of some of them. ``usage`` says classes, scaling of whole images,
    magnification, and ``side`` of a crop, px of the network. Each crop is seen ``epochs`` times;
    each of ``folds`` parts of the images is left out once; by its answers the level is chosen above
    which evidence marks a pixel. ``seed`` is that of the weights. Raises ValueError if a class
    lacks a yes or a no in two images.
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
        train = _Augmented(*map(torch.cat, zip(*rest, strict=True)))
        models.append(_fit(train, out, folds * seed + n, epochs))
        found.append((logits_of(models[-1], out), highest(models[-1], out), out.tensors[1]))
    auc, levels, columns = [], [], (torch.cat(each).T for each in zip(*found, strict=True))
    for logits, reached, truth in zip(*columns, strict=True):
        known = ~truth.isnan()
        auc += metrics.roc_areas(logits[known, None], truth[known, None])
        levels.append(metrics.best_threshold(reached[known], truth[known]))
    usage = replace(usage, recipe="evidence", levels=levels)
    zoo.save(file, "MICRANet", models, {"size": usage.side}, usage=usage)
    return Trained(models, usage, auc)


def chances(trained: Trained, paths: Mapping[str, Path]) -> dict[str, NDArray[np.float32]]:
    """Compute how probably each crop of the images shows each class: (rows, columns, K)."""
    found = {}
    for name, path in paths.items():
        crops = _crops(path, trained.usage)
        flat = TensorDataset(crops.flatten(0, 1), torch.zeros(crops.shape[:2].numel()))
        logits = torch.stack([logits_of(model, flat) for model in trained.models]).mean(0)
        found[name] = logits.sigmoid().unflatten(0, crops.shape[:2]).numpy()
    return found


def refine_now(
    trained: Trained, paths: Mapping[str, Path], given: Sequence[Mapping[Question, str]],
    file: str | Path, epochs: int = 40, rounds: int = 3, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """Train a U-Net on pixels that answers and scores agree on; store it in the same zoo.

    The first of the ``rounds`` learns from the evidence of ``trained`` and its levels, each later
    one from the scores of the U-Net before. In all of them no pixel of a box answered *no* shows
    the class, in a box answered *yes*, of a crop or smaller, the highest scores show it
    (:func:`~micranet_helpers.maps.selftraining.targets`), and outside of these boxes nothing is
    learnt. ``given`` are the answers about each class. A round begins anew, and sees 240 crops an
    epoch. If its masks agree at least as well with the answers as evidence does, "self-trained"
    becomes the recipe of the zoo. Raises ValueError if no answer is about one of these images.
    """
    usage = trained.usage
    names = [name for name in paths if any(box.file == name for each in given for box in each)]
    if not names:
        raise ValueError("No answer is about one of these images: check their folder.")
    images = [seen(read_plane(paths[name]).image, usage) for name in names]
    boxes = [_boxes(name, image.shape[1:], given, usage)
             for name, image in zip(names, images, strict=True)]  # fmt: skip
    scores = [pixel_scores(trained.models, image) for image in images]
    high, side = np.float64(usage.levels), -(-usage.side // 16) * 16
    before = _agreement(scores, high, boxes)
    for _ in range(rounds):
        painted = images, [_painted(*pair, high) for pair in zip(scores, boxes, strict=True)]
        with tempfile.TemporaryDirectory() as run:  # one epoch: there is no best to be chosen
            unet = selftraining.fit_student(painted, painted, side, CROPS * epochs, run, 1, seed,
                                            num_checked=16)  # fmt: skip
        scores = [pixel_scores([unet], image) for image in images]
        high = np.zeros(len(high))
    recipe = "self-trained" if _agreement(scores, high, boxes) >= before else "evidence"
    about, own = {"size": usage.side}, replace(usage, recipe="self-trained", levels=None)
    zoo.save(file, "MICRANet", trained.models, about, usage=replace(usage, recipe=recipe))
    zoo.save(file, "UNet", unet, about, usage=own)
    return unet


def _boxes(
    name: str, size: tuple[int, int], given: Sequence[Mapping[Question, str]], usage: zoo.Usage
) -> list[tuple[str, tuple[int, slice, slice]]]:
    """List answers and places, px of the network, of an image: all *no*, *yes* of small boxes."""
    found = []
    for k, each in enumerate(given):
        for box, answer in each.items():
            top, left, side = (round(px * usage.magnification) for px in box[1:])
            side = side or max(size)  # 0: the whole image
            if box.file != name or not (top < size[0] and left < size[1]):
                continue
            if answer == NO or (answer == YES and side <= usage.side):
                found.append((answer, (k, slice(top, top + side), slice(left, left + side))))
    return found


def _painted(
    scores: NDArray[np.float32], boxes: Sequence[tuple], high: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Make targets of answered boxes, and of the scores inside; all else is unknown."""
    asked, absent = np.zeros((2, *scores.shape), bool)
    for answer, place in boxes:
        asked[place] = True
        absent[place] |= answer == NO
    shown = [place for answer, place in boxes if answer == YES]
    made = selftraining.targets(scores, absent, np.minimum(high, 0), high, shown)
    return np.where(asked, made, np.float32(np.nan))


def _agreement(
    scores: Sequence[NDArray], high: NDArray[np.float64], boxes: Sequence[Sequence[tuple]]
) -> float:
    """Compute F1 of "more than a twentieth of the box is marked" against the answers."""
    pairs = [(np.mean(score[place] > high[place[0]]) > 0.05, answer == YES)
             for score, some in zip(scores, boxes, strict=True)
             for answer, place in some]  # fmt: skip
    return metrics.dice(*np.array(pairs).T)


def masks_of(trained: Trained, path: Path, unet: nn.Module | None = None) -> NDArray[np.bool_]:
    """Mark the classes of an image by evidence from its level on, or by a U-Net: bool (K, H, W)."""
    way = "evidence" if unet is None else "self-trained"
    entries = (zoo.ZooEntry(models, {}, None) for models in (trained.models, [unet]))
    networks = ways.Networks(*entries, trained.usage)
    return ways.find(networks, read_plane(path).image, [way])[way].masks


def seen(image: NDArray, usage: zoo.Usage) -> NDArray[np.float32]:
    """Scale and magnify an image, (C, H, W), as its file stores it: what the networks see of it."""
    scaled = torch.from_numpy(usage.scaled(image))
    return magnified(scaled[None], usage.magnification)[0].numpy()


def _crops(path: Path, usage: zoo.Usage) -> Tensor:
    """Scale, magnify and cut an image, 0 outside of it: (rows, columns, C, side, side)."""
    image, side = read_plane(path).image, usage.side
    px, pixels = round(side / usage.magnification), torch.from_numpy(seen(image, usage))
    rows, columns = (len(crop_grid(length, px, px)) for length in image.shape[1:])
    pixels = F.pad(pixels, (0, columns * side - pixels.shape[2], 0, rows * side - pixels.shape[1]))
    return pixels.unflatten(1, (rows, side)).unflatten(3, (columns, side)).permute(1, 3, 0, 2, 4)


def _fit(train: _Augmented, left_out: TensorDataset, seed: int, epochs: int) -> nn.Module:
    """Train, yes weighing as much as no; all epochs are one of ``fit``: checkpoints take long."""
    train.times, labels = epochs, train.tensors[1]
    weight = ((labels == 0).sum(0) / (labels == 1).sum(0)).clamp(0.1, 10)
    with tempfile.TemporaryDirectory() as folder:
        return fit(train, left_out, folder, 1, batch_size=16, learning_rate=2e-3,
                   pos_weight=weight.tolist(), seed=seed, pool="lse", sharpness=4.0)  # fmt: skip
