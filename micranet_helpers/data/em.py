"""Electron micrographs of neuropil with their mitochondria, membranes and synapses.

The open data are 20 serial sections of the *Drosophila* ventral nerve cord (Gerhard et al. 2013,
doi 10.6084/m9.figshare.856713; ssTEM, 1024² px of 4.6 nm, sections of 50 nm). The labelled crops
of the MICRA-Net paper were never published. :func:`simulate` needs no download.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as components

from micranet_helpers.data import dataset
from micranet_helpers.data.crops import Rule
from micranet_helpers.data.dataset import About, Sample
from micranet_helpers.data.fetch.download import fetch
from micranet_helpers.data.fetch.registry import items
from micranet_helpers.data.simulated import neuropil
from micranet_helpers.data.simulated.splits import LICENCE, share_out
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
    num_images: int = 40, size: int = 512, seed: int = 0,
) -> Path:  # fmt: skip
    """Write a dataset with the splits training, validation and testing.

    The splits of the open data are blocks of sections: 00–07, 10–11 and 14–19, whichever of them
    are there. Between two blocks, two sections (100 nm of tissue) are left out. This keeps out
    near copies, yet the stack is only 1 µm thick: of the 18 mitochondria of section 07, 61 % are
    at least half covered by mitochondria of section 10, and 22 % by those of section 14, where
    testing begins. A test on this stack says nothing of other tissue.

    Parameters
    ----------
    path : path
        The new file.
    source : str
        ``"simulated"`` or ``"open"`` (the *Drosophila* sections). There is no ``"original"``.
    subset : str, optional
        A part of the download, e.g. ``"small"`` (sections 00–15); by default everything.
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
    OSError
        If the download fails or the disk is full.
    """
    if source == "simulated":
        splits = share_out(num_images, lambda number: _draw(size, seed, number))
        text, licence = "simulated by micranet_helpers.data.em", LICENCE
    elif source == "open":
        sections = {int(file.stem): file for file in fetch("em", subset) if file.suffix == ".tif"}
        splits = {
            name: read([sections[number] for number in block if number in sections])
            for name, block in BLOCKS.items()
        }
        text, licence = items()["em"].citation, items()["em"].licence
    else:
        raise ValueError(
            f"There is no source {source!r}: take 'simulated' or 'open'; the labelled micrographs "
            "of the MICRA-Net paper were never published."
        )
    return dataset.write(path, splits, About(CLASSES, text, licence, PIXEL_SIZE))


# --- open data ---------------------------------------------------------------------------------


def read(files: Iterable[str | Path]) -> Iterator[Sample]:
    """Read sections of the *Drosophila* stack with their masks.

    Parameters
    ----------
    files : iterable of path
        Micrographs ``stack1/raw/NN.tif``. The masks are looked for beside the folder ``raw``, as
        ``stack1/mitochondria/NN.png``, ``membranes`` and ``synapses``.

    Yields
    ------
    Sample
        Image uint8 (1, H, W) and label uint16 (3, H, W): mitochondria and synapses numbered as
        connected components, so that two that touch count as one; membranes 0 and 1, together
        with the glia and the spaces between cells, as published.

    Raises
    ------
    FileNotFoundError
        If a micrograph or mask is missing.
    ValueError
        If one is damaged, or is not what it should be.

    References
    ----------
    Gerhard et al. 2013, doi 10.6084/m9.figshare.856713.
    """
    for file in map(Path, files):
        image = read_image(file)
        if image.dtype != np.uint8 or len(image) != 1:
            raise ValueError(
                f"{file} is no micrograph of the stack: it holds {len(image)} planes of "
                f"{image.dtype}, not one of uint8; download it again."
            )
        mitochondria, membranes, synapses = (
            _mask(file.parents[1] / name / f"{file.stem}.png", image.shape[1:]) for name in CLASSES
        )
        label = np.stack([components(mitochondria), membranes, components(synapses)])
        yield Sample(file.name, image, label.astype(np.uint16), factor=1 / 255)


def _mask(file: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    values = read_mask(file)
    # Some masks are of 0 and 1, some of 0 to 255 with smooth edges.
    mask = values > values.max() // 2
    if mask.shape != shape or mask.mean() > 0.5:
        raise ValueError(
            f"{file} is no mask of its section: it is of {mask.shape} px, the section of {shape}, "
            f"and marks {mask.mean():.0%} of the pixels (at most half is expected); download it "
            "again."
        )
    return mask


# --- simulated data ------------------------------------------------------------------------------


def simulate(n: int, size: int, seed: int = 0) -> list[Sample]:
    """Draw sections of neuropil: see :mod:`micranet_helpers.data.simulated.neuropil`.

    Parameters
    ----------
    n : int
        Number of sections. Each depends on ``size``, ``seed`` and its number only.
    size : int
        Side, px of 4.6 nm, at least 64. Of 256 px, about one in three shows no mitochondrion.
    seed : int
        Which sections.

    Returns
    -------
    list of Sample
        Image uint8 (1, size, size), label uint16 (3, size, size): mitochondria and synapses
        numbered from 1; membranes, with the glia, 0 and 1.

    Raises
    ------
    ValueError
        If the size is below 64 px.
    """
    return [_draw(size, seed, number) for number in range(n)]


def _draw(size: int, seed: int, number: int) -> Sample:
    image, label = neuropil.draw(np.random.default_rng([seed, number]), size)
    return Sample(f"simulated-{seed}-{number}", image[None], label, factor=1 / 255)
