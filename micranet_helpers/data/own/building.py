"""Make a dataset of one's own images, in the memory of one image, and check its splits."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from micranet_helpers.data import dataset
from micranet_helpers.data.content import digest
from micranet_helpers.data.own.survey import Facts, Survey
from micranet_helpers.data.scaling import between, scale_of
from micranet_helpers.files.series import file_of, read_plane


def build(
    path: str | Path, found: Survey, *, source: str, licence: str,
    pixel_size_um: float | None = None,
    normalisation: Literal["minmax", "standard", "range"] = "range",
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    group: Callable[[str], str] | None = None,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Write the labelled images of a survey as a dataset, in the memory of one image.

    Its path is returned; :mod:`micranet_helpers.data.dataset` reads it.

    Parameters
    ----------
    path : path
        The new file, usually ``*.hdf5``.
    found : Survey
        Without errors.
    source, licence : str
        Where the images come from, and under which terms they may be used.
    pixel_size_um : float, optional
        Side of a pixel, µm; by default the one that all files name that name any.
    normalisation : str
        What the network sees as 0 and 1: the smallest and largest value of each image
        (``"minmax"``) or of all training images (``"range"``), or mean and mean plus standard
        deviation of each image (``"standard"``); channel by channel except for ``"range"``.
    shares : three floats
        Shares of training, validation and testing; of 0, the split is left out.
    group : function
        From the name of an image to that of its specimen. A specimen stays in one split, as do
        files with the same pixels. By default each file is a specimen.
    seed : int
        Which split.

    Raises
    ------
    ValueError
        If the survey has errors, all of which are listed, there are too few specimens, or the
        files name another size of pixels.
    OSError
        If a file has gone or the disk is full.
    """
    if found.errors:
        raise ValueError("Put this right, then survey again:\n- " + "\n- ".join(found.errors))
    if len(shares) != 3 or min(shares) < 0 or shares[0] == 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"Give three shares that add up to 1, the first above 0, not {shares}.")
    if normalisation not in ("minmax", "standard", "range"):
        raise ValueError(f"normalisation is 'minmax', 'standard' or 'range', not {normalisation}.")
    sizes = found.pixel_sizes_um
    if pixel_size_um and any(abs(size / pixel_size_um - 1) > 0.01 for size in sizes):
        raise ValueError(f"The files name pixels of {sizes} µm, not {pixel_size_um}: correct one.")
    pixel_size_um = pixel_size_um or (sizes[0] if len(sizes) == 1 else None)
    split = _split(found, shares, group, seed)
    training = [item for item, where in zip(found.labelled, split, strict=True) if where == 0]
    span = min(item.low for item in training), max(item.high for item in training)

    def samples(where: int) -> Iterator[dataset.Sample]:
        for item, place in zip(found.labelled, split, strict=True):
            if place == where:
                yield _sample(found, item, normalisation, span)

    own = None if normalisation == "range" else normalisation
    about = dataset.About(found.annotations.classes, source, licence, pixel_size_um, own)
    wanted = {name: samples(i) for i, name in enumerate(dataset.SPLITS) if shares[i]}
    return dataset.write(path, wanted, about)


def _split(
    found: Survey, shares: Sequence[float], group: Callable[[str], str] | None, seed: int
) -> NDArray[np.int64]:
    """Choose the split of each image: specimens whole, classes shared out evenly, none empty."""
    items = found.labelled
    group = group or (lambda name: str(file_of(found.folder / name).with_suffix("")))
    _, groups = np.unique([group(item.name) for item in items], return_inverse=True)
    _, pixels = np.unique([item.digest for item in items], return_inverse=True)
    size = len(items)
    links = coo_array((np.ones(size), (groups, pixels + size)), shape=(2 * size, 2 * size))
    _, unit = np.unique(connected_components(links)[1][groups], return_inverse=True)
    held = np.column_stack([np.ones(size), found.objects > 0])
    units = np.zeros((unit.max() + 1, held.shape[1]))
    np.add.at(units, unit, held)
    open_ = np.flatnonzero(shares)
    if len(units) < len(open_):
        raise ValueError(
            f"There are {len(units)} specimens for {len(open_)} splits: add images, or leave out "
            "splits by shares of 0."
        )
    # Sechidis et al. 2011: specimens of the rarest class first, chance among equals; each goes
    # where most of that class is lacking.
    total = units.sum(0)
    rarest = np.where(units > 0, total, np.inf).argmin(1)
    order = np.lexsort((np.random.default_rng(seed).random(len(units)), total[rarest]))
    lack, chosen = np.outer(shares, total), np.full(len(units), -1)
    for left, number in zip(range(len(order), 0, -1), order, strict=True):
        empty = [place for place in open_ if lack[place, 0] == shares[place] * total[0]]
        chosen[number] = max(
            empty if left == len(empty) else open_,
            key=lambda place, column=rarest[number]: (lack[place, column], lack[place, 0]),
        )
        lack[chosen[number]] -= units[number]
    return chosen[unit]


def _sample(
    found: Survey, item: Facts, normalisation: str, span: tuple[float, float]
) -> dataset.Sample:
    image = read_plane(found.folder / item.name).image
    if digest([image]) != item.digest:
        raise ValueError(f"{item.name} has changed since the survey: survey again.")
    label, boxes = found.annotations.images[item.key](*image.shape[1:])
    scale = between(*span) if normalisation == "range" else scale_of(image, normalisation)
    crops = found.annotations.crops.get(item.key)
    return dataset.Sample(item.name, image, label, *scale, boxes, crops)


def check_split(path: str | Path) -> list[str]:
    """Look for images of a dataset that are in two splits.

    Gives one sentence for each pair of the same pixels or the same name; none if all is well.
    Images that are merely alike, such as neighbouring sections, are not found. Raises
    FileNotFoundError or ValueError if there is no such file, or it is damaged or no dataset.
    """
    first: dict[tuple[str, str], tuple[str, str]] = {}
    found = []
    for split in dataset.describe(path)[1]:
        for sample in dataset.read(path, split):
            for what, value in (("pixels", digest([sample.image])), ("name", sample.name)):
                place, name = first.setdefault((what, value), (split, sample.name))
                if place != split:
                    found.append(f"{sample.name} ({split}) and {name} ({place}): same {what}.")
    return found
