"""Electron micrographs of neuropil with their mitochondria, membranes and synapses.

The open data are 20 serial sections of the *Drosophila* ventral nerve cord (Gerhard et al. 2013,
doi 10.6084/m9.figshare.856713; ssTEM, 1024² px of 4.6 nm, sections of 50 nm). The labelled crops
of the MICRA-Net paper were never published. :func:`simulate` needs no download.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as components
from skimage.transform import downscale_local_mean

from micranet_helpers.data import sources
from micranet_helpers.data.crops import Rule
from micranet_helpers.data.dataset import Sample
from micranet_helpers.data.fetch.download import fetch
from micranet_helpers.data.simulated import neuropil
from micranet_helpers.files.images import read_image, read_mask

CLASSES = ("mitochondria", "membranes", "synapses")

PIXEL_SIZE = 0.0046
"""Side of a pixel, µm, of the open and of the simulated sections."""

RULE = Rule(classes=("mitochondria",), visible_share=0.25)
"""A crop is positive if it shows at least a quarter of a mitochondrion: about 500 px of the median
one, enough to see its membranes and cristae. If it shows only smaller parts, it is ambiguous and
dropped (13 % of the crops of 128 px). No share of the crop is asked for, as a mitochondrion is
small: a crop with a single one would else be negative. Take crops of 128 px (32 % positive, 55 %
negative) to 256 px (74 and 16 %); of 512 px, none is negative."""

BLOCKS = {"training": range(8), "validation": range(10, 12), "testing": range(14, 20)}
"""Sections of each split of the open data; those between the blocks are left out."""


def build(
    path: str | Path, source: str = "simulated", *, subset: str | None = None,
    shrink: int = 1, num_images: int = 40, size: int = 512, seed: int = 0,
) -> Path:  # fmt: skip
    """Write a dataset with the splits training, validation and testing, and return its path.

    The splits of the open data are blocks of sections: 00–07, 10–11 and 14–19, whichever of them
    are there. Between two blocks, two sections (100 nm of tissue) are left out. This keeps out
    near copies, yet the stack is only 1 µm thick: of the 18 mitochondria of section 07, 61 % are
    at least half covered by mitochondria of section 10, and 22 % by those of section 14, where
    testing begins. A test on this stack says nothing of other tissue.

    ``path`` is the new file; ``source`` ``"simulated"`` or ``"open"``, the *Drosophila* sections
    (there is no ``"original"``); ``subset`` a part of the download, e.g. ``"small"`` (sections
    00–15), by default everything; ``shrink``, 1, 2 or 4, is how many px of an open section, each
    way, become one, their mean, with the label of the middle: 2 makes px of 9.2 nm. ``num_images``,
    at least 3, are simulated and split 70, 15, 15 %, each ``size`` px wide; ``seed`` says which
    ones. Raises ValueError or OSError if there is no such source, subset or ``shrink``, a file is
    damaged or missing, a download fails or the disk is full.
    """
    return sources.write(path, source, {
        "simulated": lambda: sources.simulated(
            num_images, partial(_draw, size, seed), CLASSES, __name__, PIXEL_SIZE
        ),
        "open": lambda: (
            _blocks(fetch("em", subset), shrink),
            sources.cited(CLASSES, "em", pixel_size_um=PIXEL_SIZE * shrink),
        ),
    }, "; the labelled micrographs of the MICRA-Net paper were never published")  # fmt: skip


def _blocks(files: list[Path], shrink: int) -> dict[str, Iterator[Sample]]:
    """Split the sections into the blocks."""
    sections = {int(file.stem): file for file in files if file.suffix == ".tif"}
    return {
        split: map(partial(_shrunk, shrink),
                   read([sections[number] for number in block if number in sections]))
        for split, block in BLOCKS.items()
    }  # fmt: skip


def _shrunk(shrink: int, section: Sample) -> Sample:
    """Shrink a section and its label."""
    if shrink not in (1, 2, 4):
        raise ValueError(f"shrink must be 1, 2 or 4, not {shrink!r}.")
    image = downscale_local_mean(section.image, (1, shrink, shrink)).round().astype(np.uint8)
    middles = slice(shrink // 2, None, shrink)
    return replace(section, image=image, label=section.label[:, middles, middles])


def read(files: Iterable[str | Path]) -> Iterator[Sample]:
    """Read sections ``stack1/raw/NN.tif`` with their masks.

    The masks are ``stack1/mitochondria/NN.png``, ``membranes`` and ``synapses``. Mitochondria and
    synapses are numbered as connected components, so that two that touch count as one; membranes
    are 0 and 1, together with the glia and the spaces between cells, as published.
    """
    for file in map(Path, files):
        mitochondria, membranes, synapses = (
            _mask(file.parents[1] / name / f"{file.stem}.png") for name in CLASSES
        )
        label = np.stack([components(mitochondria), membranes, components(synapses)])
        yield Sample(file.name, read_image(file), label.astype(np.uint16), factor=1 / 255)


def _mask(file: Path) -> NDArray[np.bool_]:
    """Read a mask, cut at half of its maximum: some are of 0 and 1, some have smooth edges."""
    values = read_mask(file)
    return values > values.max() // 2


def simulate(n: int, size: int, seed: int = 0) -> list[Sample]:
    """Draw n sections of neuropil: see :mod:`micranet_helpers.data.simulated.neuropil`.

    Images are uint8 (1, size, size), of 64 px of 4.6 nm or more; labels uint16 (3, size, size):
    mitochondria and synapses numbered from 1; membranes, with the glia, 0 and 1. A section depends
    on ``size``, ``seed`` and its number only; of 256 px, about one in three shows no mitochondrion.
    """
    return [_draw(size, seed, number) for number in range(n)]


def _draw(size: int, seed: int, number: int) -> Sample:
    image, label = neuropil.draw(np.random.default_rng([seed, number]), size)
    return Sample(f"simulated-{seed}-{number}", image[None], label, factor=1 / 255)
