"""F-actin in dendrites, seen by STED: periodic rings and longitudinal fibres.

Pixels are counts of photons, divided by :data:`FULL` and clipped to [0, 1], as in the MICRA-Net
paper. Its data come with its archive. The open images are too few to train on: they are for
looking. :func:`simulate` needs no download.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as components

from micranet_helpers.data import dataset
from micranet_helpers.data.crops import Rule
from micranet_helpers.data.dataset import About, Sample
from micranet_helpers.data.fetch.download import fetch
from micranet_helpers.data.fetch.registry import items
from micranet_helpers.data.own.annotations import filled, read_polygons
from micranet_helpers.data.simulated import dendrites
from micranet_helpers.data.simulated.splits import LICENCE, share_out
from micranet_helpers.files.images import read_image

CLASSES = ("rings", "fibres", "dendrite")

PIXEL_SIZE = 0.02
"""Side of a pixel, µm, of simulated images: that of the dendrites of STEDActinFCN, whose files
say 50 px per µm. The other open files and the original do not say theirs."""

FULL = 0.8 * 574.3677
"""Count of photons that becomes 1. The open images reach 0.7 of it in their brightest pixel."""

RULE = Rule(("rings", "fibres"), 0.05, foreground="dendrite", foreground_share=0.1)
"""The original's, for crops of 256 px every 192 px."""

OPEN_RULE = Rule(("rings", "fibres"), 0.05)
"""For the open images: nobody marked dendrites in them, and the crops of :data:`RULE` would be
none."""

SPLITS = {
    "training": {"actin_1.tiff", "actin_3.tiff", "train", "train_fixed"},
    "validation": {"actin_2.tiff", "valid", "valid_fixed"},
    "testing": {"test"},
}
"""Files, or folders of files, of each split of the open images."""

CHANNELS = {
    "DendriticFActinDataset": (4, 1, {0: 2, 1: 3}),
    "FixedLiveDataset": (3, 0, {0: 1, 1: 2}),
    "AxonalRingsDataset": (3, 1, {0: 2}),
}
"""Folders of TA-GAN: number of channels, channel of the STED image, channels of the masks."""


def build(
    path: str | Path, source: str = "simulated", *, subset: str | None = None,
    num_images: int = 100, size: int = 512, seed: int = 0,
) -> Path:  # fmt: skip
    """Write a dataset with the splits training, validation and testing.

    The original keeps its splits. Of the open images, TA-GAN keeps its own too; the axons of
    STEDActinFCN are split so that ``actin_1`` and ``actin_3``, the same field twice, stay
    together. Other images of one experiment may be in two splits, in both.

    Parameters
    ----------
    path : path
        The new file.
    source : str
        ``"simulated"``; ``"open"`` (STEDActinFCN and TA-GAN, ten images of 224 to 256 px, for
        looking); or ``"original"`` (the data of the MICRA-Net paper).
    subset : str, optional
        A part of the download: for ``"open"``, ``"small"`` is a part of TA-GAN.
    num_images, size, seed : int
        Number of simulated images, at least 3, split 70, 15, 15 %; their side, px; which ones.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If there is no such source or subset, or a file is damaged.
    FileNotFoundError
        If the archive does not hold the original data.
    OSError
        If the download fails or the disk is full.
    """
    known, size_um = items(), None
    if source == "simulated":
        splits = share_out(num_images, lambda number: _draw(size, seed, number))
        size_um, text = PIXEL_SIZE, "simulated by micranet_helpers.data.actin"
        licence = LICENCE
    elif source == "open":
        files = fetch("actin") + fetch("tagan-actin", subset)
        splits = {
            name: read([file for file in files if {file.name, file.parent.name} & parts])
            for name, parts in SPLITS.items()
        }
        text = f"{known['actin'].citation}; {known['tagan-actin'].citation}"
        licence = f"{known['actin'].licence} (the former), {known['tagan-actin'].licence} (TA-GAN)"
    elif source == "original":
        (folder,) = fetch("micranet", "archive")
        splits = {name: read([_find(folder, f"{name}_01-04-19.hdf5")]) for name in SPLITS}
        text, licence = known["micranet"].citation, known["micranet"].licence
    else:
        raise ValueError(
            f"There is no source {source!r}: take 'simulated', 'open' (a few images to look at) "
            "or 'original' (from the archive of the MICRA-Net paper)."
        )
    return dataset.write(path, splits, About(CLASSES, text, licence, size_um))


def _find(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise FileNotFoundError(
            f"There is no {name} in {folder}: the archive is not the one that is known; take the "
            "source 'simulated'."
        )
    return found[0]


# --- real images ---------------------------------------------------------------------------------


def normalized(counts: NDArray[Any]) -> NDArray[np.float32]:
    """Divide counts of photons by :data:`FULL`, and clip to [0, 1], as the MICRA-Net paper.

    Parameters
    ----------
    counts : ndarray, uint8, uint16 or float32, any shape
        Counts. Signed 16-bit images saved by ImageJ, such as the dendrites of STEDActinFCN, are
        known by their values, 32,768 and more, which is taken off.

    Returns
    -------
    ndarray, float32, of the same shape
        What the network sees.
    """
    offset = 2**15 if counts.dtype == np.uint16 and counts.min() >= 2**15 else 0
    return ((counts - np.float32(offset)) / np.float32(FULL)).clip(0, 1).astype(np.float32)


def read(files: Iterable[str | Path]) -> Iterator[Sample]:
    """Read labelled images: those of the original, of STEDActinFCN and of TA-GAN.

    Marks are coarse, and what is not marked may still be there. Unclear rings (polygons of the
    number 1) are left out, as in the original. The plane ``dendrite`` is empty in open images:
    STEDActinFCN's are of axons, TA-GAN's have no mark of it. STEDActinFCN also has polygons of
    four dendrites, whose images were not published, and unlabelled images.

    Parameters
    ----------
    files : iterable of path
        ``*.hdf5`` of the original; ``NAME.tiff`` of STEDActinFCN, beside ``NAME.polys.txt``; or
        stacks of TA-GAN in their folders, ``DATASET/SPLIT/NAME.tif``.

    Yields
    ------
    Sample
        Image float32 (1, H, W), normalised; label uint16 (3, H, W): rings, fibres, dendrite.

    Raises
    ------
    FileNotFoundError
        If an image or its polygons are missing.
    ValueError
        If a file is damaged, or is not what it should be.

    References
    ----------
    Lavoie-Cardinal et al. 2020, doi 10.1038/s41598-020-68180-2; Bouchard et al. 2023, doi
    10.1038/s42256-023-00689-3; Bilodeau et al. 2022, doi 10.1038/s42256-022-00472-w.
    """
    for file in map(Path, files):
        if file.suffix == ".hdf5":
            yield from _original(file)
        elif file.parent.parent.name in CHANNELS:
            yield _masked(file)
        else:
            yield _outlined(file)


def _original(file: Path) -> Iterator[Sample]:
    groups = dataset.describe(file)[1]
    for sample in chain.from_iterable(dataset.read(file, group) for group in groups):
        image, label = sample.image, sample.label
        shapes = image.shape[0], label.ndim, label.shape[0]
        if shapes != (1, 3, 3) or image.min() < 0 or image.max() > 1:
            raise ValueError(
                f"{sample.name} of {file} is no image of F-actin from 0 to 1 with three planes of "
                f"labels: image {image.shape} from {image.min()} to {image.max()}, label "
                f"{label.shape}; unpack the archive again."
            )
        yield Sample(sample.name, image.astype(np.float32), label.astype(np.uint16))


def _masked(file: Path) -> Sample:
    dataset = file.parent.parent.name
    count, sted, masks = CHANNELS[dataset]
    planes = read_image(file)
    values = [np.unique(planes[channel]) for channel in masks.values() if channel < len(planes)]
    if len(planes) != count or any(len(found) > 2 or found[0] != 0 for found in values):
        raise ValueError(
            f"{file} is no labelled stack of {dataset}: of its {len(planes)} channels, {count} "
            "are expected, with masks of two values at the end; download it again."
        )
    label = np.zeros((len(CLASSES), *planes.shape[1:]), np.uint16)
    for number, channel in masks.items():
        label[number] = components(planes[channel] > 0)
    return Sample("/".join(file.parts[-3:]), normalized(planes[sted])[None], label)


def _outlined(file: Path) -> Sample:
    image = read_image(file)
    if len(image) != 1:
        raise ValueError(f"{file} has {len(image)} channels: give an image of STEDActinFCN.")
    outlines = file.with_name(f"{file.stem}.polys.txt")
    planes = {0: 0, 3: 1, 2: 2}  # number of the polygon: plane of the label
    label = np.zeros((len(CLASSES), *image.shape[1:]), np.uint16)
    for number, corners in read_polygons(outlines):
        if number not in (0, 1, 2, 3):
            raise ValueError(f"{outlines} has a polygon of the number {number}, not 0 to 3.")
        if number in planes:
            plane = label[planes[number]]
            plane[filled(corners, plane.shape)] = plane.max() + 1
    return Sample(file.name, normalized(image), label)


# --- simulated images ----------------------------------------------------------------------------


def simulate(n: int, size: int, seed: int = 0) -> list[Sample]:
    """Draw STED images of dendrites: see :mod:`micranet_helpers.data.simulated.dendrites`.

    Parameters
    ----------
    n : int
        Number of images. Each depends on ``size``, ``seed`` and its number only.
    size : int
        Side, px of 20 nm, at least 64.
    seed : int
        Which images.

    Returns
    -------
    list of Sample
        Image float32 (1, size, size), normalised; label uint16 (3, size, size): stretches with
        rings, with fibres, and dendrites, each numbered from 1 as connected components.

    Raises
    ------
    ValueError
        If the size is below 64 px.
    """
    return [_draw(size, seed, number) for number in range(n)]


def _draw(size: int, seed: int, number: int) -> Sample:
    counts, label = dendrites.draw(np.random.default_rng([seed, number]), size)
    return Sample(f"simulated-{seed}-{number}", normalized(counts)[None], label)
