"""F-actin in dendrites, seen by STED: periodic rings and longitudinal fibres.

Pixels are counts of photons, divided by :data:`FULL` and clipped to [0, 1], as in the MICRA-Net
paper. Its data come with its archive. The open images are too few to train on: they are for
looking. :func:`simulate` needs no download.
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon
from skimage.measure import label as components

from micranet_helpers.data import dataset, sources
from micranet_helpers.data.crops import Rule
from micranet_helpers.data.dataset import Sample
from micranet_helpers.data.fetch.download import fetch
from micranet_helpers.data.simulated import dendrites
from micranet_helpers.files.images import read_image

CLASSES = ("rings", "fibres", "dendrite")

PIXEL_SIZE = 0.02
"""Side of a pixel, µm, of simulated images: that of the dendrites of STEDActinFCN, whose files
say 50 px per µm. The other open files and the original do not say theirs."""

FULL = 0.8 * 574.3677  # photons that become 1; the open images reach 0.7 of it

RULE = Rule(("rings", "fibres"), 0.05, foreground="dendrite", foreground_share=0.1)
"""The original's, for crops of 256 px every 192 px."""

SPLITS = {
    "training": {"actin_1.tiff", "actin_3.tiff", "train", "train_fixed"},
    "validation": {"actin_2.tiff", "valid", "valid_fixed"},
    "testing": {"test"},
}
"""Files, or folders of files, of each split of the open images."""

CHANNELS = {
    "DendriticFActinDataset": (1, {0: 2, 1: 3}),
    "FixedLiveDataset": (0, {0: 1, 1: 2}),
    "AxonalRingsDataset": (1, {0: 2}),
}
"""Folders of TA-GAN: channel of the STED image, channels of the masks by plane of the label."""

POLYGONS = {0: 0, 2: 2, 3: 1}  # STEDActinFCN: from number to plane; 1, unclear rings, has none


def build(
    path: str | Path, source: str = "simulated", *, subset: str | None = None,
    num_images: int = 100, size: int = 512, seed: int = 0,
) -> Path:  # fmt: skip
    """Write a dataset with the splits training, validation and testing, and return its path.

    The original keeps its splits. Of the open images, TA-GAN keeps its own too; the axons of
    STEDActinFCN are split so that ``actin_1`` and ``actin_3``, the same field twice, stay
    together. Other images of one experiment may be in two splits, in both.

    ``source`` is ``"simulated"``; ``"open"``, STEDActinFCN and TA-GAN, ten images of 224 to 256 px
    for looking, of which the subset ``"small"`` has a part of TA-GAN, ``"axons"`` none of it; or
    ``"original"``, the data of the MICRA-Net paper. The rest, and the errors, are as for
    :func:`micranet_helpers.data.em.build`.
    """
    return sources.write(path, source, {
        "simulated": lambda: sources.simulated(
            num_images, partial(_draw, size, seed), CLASSES, __name__, PIXEL_SIZE
        ),
        "open": partial(_open, subset),
        "original": lambda: (
            _original(*fetch("micranet", "archive")), sources.cited(CLASSES, "micranet")
        ),
    })  # fmt: skip


def _open(subset: str | None) -> sources.Made:
    """Split the open images by the names of their files or folders; no split is empty."""
    names = ["actin"] if subset == "axons" else ["actin", "tagan-actin"]
    files = [*fetch("actin"), *(fetch("tagan-actin", subset) if len(names) > 1 else ())]
    found = {split: [file for file in files if {file.name, file.parent.name} & parts]
             for split, parts in SPLITS.items()}  # fmt: skip
    splits = {split: read(each) for split, each in found.items() if each}
    return splits, sources.cited(CLASSES, *names)


def _original(folder: Path) -> dict[str, Iterator[Sample]]:
    """Find the splits of the original in its archive."""
    splits = {}
    for split in SPLITS:
        name = f"{split}_01-04-19.hdf5"
        file = next(folder.rglob(name), None)
        if file is None:
            raise FileNotFoundError(f"There is no {name} in {folder}: use the source 'simulated'.")
        splits[split] = read([file])
    return splits


def normalized(counts: NDArray[Any]) -> NDArray[np.float32]:
    """Divide counts of photons by :data:`FULL`, and clip to [0, 1], as the MICRA-Net paper.

    Signed 16-bit images saved by ImageJ, such as the dendrites of STEDActinFCN, are known by their
    values, 32,768 and more, which is subtracted.
    """
    offset = 2**15 if counts.dtype == np.uint16 and counts.min() >= 2**15 else 0
    return ((counts - np.float32(offset)) / np.float32(FULL)).clip(0, 1).astype(np.float32)


def read(files: Iterable[str | Path]) -> Iterator[Sample]:
    """Read labelled images: those of the original, of STEDActinFCN and of TA-GAN.

    ``files`` are ``*.hdf5`` of the original; ``NAME.tiff`` of STEDActinFCN (Lavoie-Cardinal et al.
    2020, doi 10.1038/s41598-020-68180-2), beside ``NAME.polys.txt``; or stacks of TA-GAN (Bouchard
    et al. 2023, doi 10.1038/s42256-023-00689-3) in their folders, ``DATASET/SPLIT/NAME.tif``.
    Images are float32 (1, H, W), normalised; labels uint16 (3, H, W): rings, fibres, dendrite.
    Marks are coarse, and what is not marked may still be there. Unclear rings (polygons of the
    number 1) are left out, as in the original. The plane ``dendrite`` is empty in open images:
    STEDActinFCN's are of axons, TA-GAN's have no mark of it. Raises FileNotFoundError if an image
    or its polygons are missing, ValueError if a file is damaged, or is not what it should be.
    """
    for file in map(Path, files):
        if file.suffix == ".hdf5":
            yield from _normalized(file)
        elif file.parent.parent.name in CHANNELS:
            yield _masked(file)
        else:
            yield _outlined(file)


def _normalized(file: Path) -> Iterator[Sample]:
    """Read a file of the original, whose images are normalised."""
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
    """Read a stack of TA-GAN."""
    sted, masks = CHANNELS[file.parent.parent.name]
    planes = read_image(file)
    label = np.zeros((len(CLASSES), *planes.shape[1:]), np.uint16)
    for number, channel in masks.items():
        label[number] = components(planes[channel] > 0)
    return Sample("/".join(file.parts[-3:]), normalized(planes[sted])[None], label)


def _outlined(file: Path) -> Sample:
    """Read an image of STEDActinFCN."""
    image = read_image(file)
    label = np.zeros((len(CLASSES), *image.shape[1:]), np.uint16)
    for number, corners in _polygons(file.with_name(f"{file.stem}.polys.txt")):
        if number in POLYGONS:
            plane = label[POLYGONS[number]]
            # Coordinates are those of edges: the pixel in the corner covers 0 to 1.
            plane[polygon(*(corners.T - 0.5 - 1e-6), shape=plane.shape)] = plane.max() + 1
    return Sample(file.name, normalized(image), label)


def _polygons(path: Path) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Read lines ``number (x, y), (x, y), …``: the number and the corners (P, 2), row, column."""
    number = r"(-?\d{1,5}(?:\.\d*)?)"
    point = rf"\({number}, *{number}\)"
    for place, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if re.fullmatch(rf"[0-3] {point}(, *{point}){{2,}},?\s*", line):
            yield int(line[0]), np.array(re.findall(point, line), float)[:, ::-1]
        elif line.strip():
            raise ValueError(
                f"Line {place} of {path} is not of the form 0 (x, y), (x, y), (x, y) with a number "
                "from 0 to 3: download it again."
            )


def simulate(n: int, size: int, seed: int = 0) -> list[Sample]:
    """Draw n STED images of dendrites: see :mod:`micranet_helpers.data.simulated.dendrites`.

    Images are float32 (1, size, size), normalised, of 64 px of 20 nm or more; labels uint16 (3,
    size, size): stretches with rings, with fibres, and dendrites, each numbered from 1 as connected
    components. An image depends on ``size``, ``seed`` and its number only.
    """
    return [_draw(size, seed, number) for number in range(n)]


def _draw(size: int, seed: int, number: int) -> Sample:
    counts, label = dendrites.draw(np.random.default_rng([seed, number]), size)
    return Sample(f"simulated-{seed}-{number}", normalized(counts)[None], label)
