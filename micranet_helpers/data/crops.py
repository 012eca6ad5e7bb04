"""Crops of the images of an HDF5 dataset, with the labels that MICRA-Net is trained on.

Labels of crops are worked out once; pixels are read when a crop is asked for, so a dataset may be
much larger than the memory.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from torch import Tensor
from torch.utils.data import Dataset

from micranet_helpers.data.dataset import Split, describe
from micranet_helpers.files.hdf5 import explaining, member, reading

STEP = 8  # the network halves an image three times: the side of a crop is a multiple of this, px
CACHE = 64 * 2**20  # bytes of unpacked tiles that each process keeps
CACHE_SLOTS = 400_009  # prime, and about 100 times the tiles that fit, as HDF5 advises


@dataclass(frozen=True)
class Rule:
    """When a crop is used, and which classes are present in it.

    A share of a crop is a share of side × side pixels; what lies outside the image is empty.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes to learn, in the order of the network's outputs.
    positive_share : float
        A class is present if it covers more than this share of the crop.
    visible_share : float
        If above 0, a class is present only if at least this share of one of its objects lies in
        the crop, which must have room for it. A crop that holds only smaller parts of objects of a
        class is ambiguous, and dropped.
    foreground, foreground_share : str or None, and float
        Plane of the label that must cover this share of the crop.
    ignore : str or None
        A crop that touches this plane of the label and shows no class is dropped.
    """

    classes: tuple[str, ...]
    positive_share: float = 0.0
    visible_share: float = 0.0
    foreground: str | None = None
    foreground_share: float = 0.0
    ignore: str | None = None


def crop_grid(length: int, side: int, stride: int) -> NDArray[np.int64]:
    """Find where crops begin in one direction; the last may reach over the far edge."""
    return np.arange(0, max(length - side, 0) + stride, stride)


def label_crops(
    label: NDArray[Any], tops: NDArray[np.int64], lefts: NDArray[np.int64], side: int, rule: Rule,
    names: Sequence[str],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:  # fmt: skip
    """Apply a rule to the crops at each top (T,) and left (L,) of a label (P, H, W).

    Returns which classes of the rule are present, (T, L, K), and which crops are kept, (T, L).
    """
    rows, columns = _inside(tops, side, label.shape[1]), _inside(lefts, side, label.shape[2])

    def area(name: str) -> NDArray[np.float64]:
        return _sums(label[names.index(name)] > 0, rows, columns)

    areas = np.stack([area(name) for name in rule.classes], -1)
    present = areas > rule.positive_share * side**2
    kept = np.ones(present.shape[:2], bool)
    if rule.visible_share > 0:
        planes = [label[names.index(name)] for name in rule.classes]
        visible = np.stack([_most_visible(plane, rows, columns) for plane in planes], -1)
        present &= visible >= rule.visible_share
        kept &= ((areas == 0) | (visible >= rule.visible_share)).all(-1)
    if rule.foreground is not None:
        kept &= area(rule.foreground) >= rule.foreground_share * side**2
    if rule.ignore is not None:
        kept &= present.any(-1) | (area(rule.ignore) == 0)
    return present, kept


def _inside(starts: NDArray[np.int64], side: int, length: int) -> NDArray[np.float32]:
    """Mark the rows (or columns) in each crop: 0 or 1, (T, length)."""
    places = np.arange(length)
    return ((places >= starts[:, None]) & (places < starts[:, None] + side)).astype(np.float32)


def _sums(
    mask: NDArray[np.bool_], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Count the pixels of a mask in each crop, (T, L): two matrix products, no loop."""
    # Sums of up to 2**24 ones are exact in float32; the second product may exceed that.
    return (rows @ mask.astype(np.float32)) @ columns.T.astype(np.float64)


def _most_visible(
    plane: NDArray[Any], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Find the largest share of one object that lies in each crop, (T, L)."""
    most = np.zeros((len(rows), len(columns)))
    for number, box in enumerate(find_objects(plane), 1):
        if box is not None:  # not every number is used
            mask = plane[box] == number
            seen = _sums(mask, rows[:, box[0]], columns[:, box[1]]) / np.count_nonzero(mask)
            np.maximum(most, seen, out=most)
    return most


class CropDataset(Dataset):
    """Crops of a split of an HDF5 dataset, on a grid that covers each image.

    The last crops reach over the far edges of an image and hold zeros there, after normalisation,
    as in the original. An image smaller than a crop gives one crop. Where the dataset holds
    image-level labels, there is one item an image, padded to the side; where it holds labels of
    crops, these are the items. Of the rule only the classes apply then. A crop takes some 30 bytes
    of memory until it is read. Raises FileNotFoundError or ValueError if the file is missing or
    damaged, or lacks the split or a plane that the rule names; the side or the stride is out of
    range; no crop is left; or an image with image-level labels is larger than a crop.

    Parameters
    ----------
    path, split : path and str
        A dataset in the layout of :mod:`micranet_helpers.data.dataset`, and e.g. ``training``.
    side, stride : int
        Side of a crop, a multiple of 8, and step from crop to crop, from 1 to ``side``; px.
    rule : Rule
        What is present in a crop, and which crops are dropped.
    ratio : (int, int), optional
        Numbers of crops with any class : crops without. As many crops as can be are drawn in
        exactly this ratio, from ``seed``. By default all crops are used.
    redraw : bool
        Draw anew for each epoch of a training: where one kind is rare, the network still sees
        most crops of the other.
    augment : bool
        Change each crop at random, see :func:`augmented`.
    seed : int
        Seed of ``ratio`` and of ``augment``, 0 or more.

    Attributes
    ----------
    labels : Tensor, float32, (N, K)
        1 where a class of the rule is present, NaN where that is unknown.
    positions : ndarray, int64, (N, 3)
        Number of the image, top and left of each crop, px.
    every : (ndarray, Tensor)
        Positions and labels of all crops, those that ``ratio`` leaves out too.
    """

    def __init__(
        self, path: str | Path, split: str, side: int, stride: int, rule: Rule, *,
        ratio: tuple[int, int] | None = None, redraw: bool = False, augment: bool = False,
        seed: int = 0,
    ) -> None:  # fmt: skip
        if side < STEP or side % STEP:
            raise ValueError(f"The side of a crop must be a multiple of {STEP} px, not {side}.")
        if not 1 <= stride <= side:
            raise ValueError(f"The stride must be 1 to {side} px, the crop's side, not {stride}.")
        shares = rule.positive_share, rule.visible_share, rule.foreground_share
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"The shares of a rule are from 0 to 1 (5 % is 0.05), not {shares}.")
        self._path, self.split, self.side = Path(path), split, side
        self._augment, self._seed, self._epoch = augment, seed, 0
        self._opened: tuple[int, h5py.File, Split] | None = None
        names = _names(path, rule)
        self._state = _state(path)
        with reading(path, f"the split {split!r}") as file:
            parts = _index(Split(member(file, split)), side, stride, rule, names)
        self.positions, labels = (np.concatenate(part) for part in parts)
        if len(labels) == 0:
            raise ValueError(
                f"No crop of {split!r} in {path} is left by {rule}: ask for a smaller share."
            )
        self.labels = torch.from_numpy(labels.astype(np.float32))
        self._ratio, self._redraw = ratio, redraw
        self.every = self.positions, self.labels
        self._choose()

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """Read a crop, float32 (C, side, side), and its labels, float32 (K,)."""
        i = range(len(self))[i]
        with explaining(self._path, f"crop {i} of {self.split!r}"):
            pixels = self._images().crop(*self.positions[i].tolist(), self.side)
        if self._augment:
            # From seed, epoch and crop alone: the same for any number of workers.
            pixels = augmented(pixels, np.random.default_rng([self._seed, self._epoch, i]))
        return torch.from_numpy(pixels), self.labels[i]

    def content(self) -> Iterator[NDArray[Any]]:
        """Yield what defines the crops: positions, labels, settings, and images and their scale.

        :func:`micranet_helpers.train.run.fit` knows a run by it. Images that cannot be read, or are
        not finite, raise a ValueError that names them.
        """
        positions, labels = self.every
        settings = self._ratio or (), self._redraw, self._augment, self._seed
        yield from (positions, labels.numpy(), str((self.side, *settings)))
        with explaining(self._path, f"the images of {self.split!r}"):
            images = self._images()
            for number in np.unique(positions[:, 0]).tolist():
                yield from (images.image_of(number), images.scale[number])

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations, and other crops if asked to, from now on.

        :func:`micranet_helpers.train.run.fit` calls this before each epoch.
        """
        self._epoch = epoch
        if self._redraw:
            self._choose()

    def _choose(self) -> None:
        if self._ratio is not None:
            positions, labels = self.every
            chosen = _draw((labels > 0).any(1).numpy(), self._ratio, [self._seed, self._epoch])
            self.positions, self.labels = positions[chosen], labels[chosen]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _images(self) -> Split:
        # A worker that was forked must not share the file of its parent.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = None
            file = h5py.File(self._path, "r", rdcc_nbytes=CACHE, rdcc_nslots=CACHE_SLOTS)
            if _state(self._path) != self._state:
                raise ValueError("the file was replaced meanwhile: make the CropDataset anew.")
            self._opened = os.getpid(), file, Split(member(file, self.split))
        return self._opened[2]


def _state(path: str | Path) -> tuple[int, int, int]:
    """Read what changes when another file takes this one's place."""
    found = Path(path).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _names(path: str | Path, rule: Rule) -> tuple[str, ...]:
    """Read the names of the planes of the label, among them all that the rule names."""
    known = describe(path)[0].classes
    wanted = {*rule.classes, rule.foreground, rule.ignore} - {None}
    if not rule.classes or not wanted <= {*known}:
        raise ValueError(
            f"The rule asks for {', '.join(sorted(wanted - {*known})) or 'no class'}, "
            f"but {path} labels: {', '.join(known)}."
        )
    return known


def _index(
    images: Split, side: int, stride: int, rule: Rule, names: tuple[str, ...]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.bool_]]]:
    """Find positions (n, 3) and labels (n, K) of the crops that are kept, image by image."""
    positions, labels = [], []
    planes = [names.index(name) for name in rule.classes]
    if images.crops is not None:
        return _labelled(images.crops, side, planes)
    for number, shape in enumerate(images.shapes):
        label = images.label_of(number)
        if label.ndim == 1:
            if (shape > side).any():
                raise ValueError(
                    f"{images.names[number]} ({shape[0]} × {shape[1]} px) has a label for the "
                    f"whole image, which a crop of {side} px does not show: take a larger side."
                )
            positions.append(np.array([[number, 0, 0]]))
            labels.append(np.where(np.isnan(label), np.nan, label > 0)[None, planes])
            continue
        tops, lefts = (crop_grid(length, side, stride) for length in shape)
        present, kept = label_crops(label, tops, lefts, side, rule, names)
        rows, columns = kept.nonzero()
        positions.append(np.stack([np.full(len(rows), number), tops[rows], lefts[columns]], 1))
        labels.append(present[kept])
    return positions, labels


def _labelled(
    crops: NDArray[np.float32], side: int, planes: list[int]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
    """Take positions and labels of the crops that a dataset lists, but for those of unknown."""
    sides, labels = np.unique(crops[:, 3]), crops[:, 4:][:, planes]
    if (sides != side).any():
        listed = ", ".join(f"{each:g}" for each in sides)
        raise ValueError(f"its labels are of crops of {listed} px: take one side, not {side}.")
    some = ~np.isnan(labels).all(1)
    return [crops[some, :3].astype(np.int64)], [labels[some]]


def _draw(
    positive: NDArray[np.bool_], ratio: tuple[int, int], seed: list[int]
) -> NDArray[np.int64]:
    """Choose crops in the ratio positive : negative, in the order of the file."""
    if min(ratio) < 1:
        raise ValueError(f"Both numbers of the ratio must be 1 or more, not {ratio}.")
    shown, absent = np.flatnonzero(positive), np.flatnonzero(~positive)
    times = min(len(shown) // ratio[0], len(absent) // ratio[1])
    if times == 0:
        raise ValueError(
            f"There are {len(shown)} crops with a class and {len(absent)} without, too few "
            f"for the ratio {ratio[0]}:{ratio[1]}."
        )
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(group, times * part, replace=False)
              for group, part in ((shown, ratio[0]), (absent, ratio[1]))]  # fmt: skip
    return np.sort(np.concatenate(chosen))


def augmented(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Change an image at random, in ways that do not change what is present.

    One of the eight flips and quarter turns, all equally likely. Then, each with probability
    0.5 and a value from a log-normal law around 1 (sigma 0.1): gamma, a power of the grey levels
    between the image's own least and greatest value; and intensity, a factor on all values.
    Both also suit standardised images, which hold negative values. Image and result are float32
    (C, S, S).

    This follows the code of Bilodeau et al. 2022, doi 10.1038/s42256-022-00472-w, for F-actin,
    whose tone changes go one way only; quarter turns are those of their other datasets.
    """
    # torchvision and kornia draw from global generators, so what they give depends on workers.
    return toned(turned(image, rng), rng)


def turned(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Flip and turn an image (C, S, S) at random; a mask can be turned along as more channels."""
    turn, flip = rng.integers(4), rng.integers(2)
    return np.ascontiguousarray(np.rot90(image[..., :: 1 - 2 * flip], turn, (1, 2)))


def toned(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Change gamma and intensity of an image (C, H, W) at random."""
    gamma, factor = np.where(rng.random(2) < 0.5, rng.lognormal(0, 0.1, 2), 1).tolist()
    low, high = image.min(), image.max()
    if high > low:
        image = low + (high - low) * ((image - low) / (high - low)) ** gamma
    return image * np.float32(factor)
