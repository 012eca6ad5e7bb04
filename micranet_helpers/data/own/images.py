"""Make a dataset of one's own images: first look at everything, then write it.

Folders of any size are worked through with one image in memory at a time.
"""

import hashlib
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from micranet_helpers.data import dataset
from micranet_helpers.data.own.annotations import Annotations, image_files, image_key
from micranet_helpers.data.scaling import between, scale_of
from micranet_helpers.files.images import read_image

FULL = (2**8 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1)  # of cameras with 8, 12, 14 and 16 bits


@dataclass(frozen=True)
class Facts:
    """Facts about one image."""

    name: str  # file name within the folder, with "/"
    shape: tuple[int, ...]  # channels, height, width
    dtype: str
    low: float  # smallest value
    high: float  # largest value
    saturated: float  # share of values at the largest one, if it ends a camera's range, else 0
    false_colour: bool  # RGB with one grey picture: equal channels, or only one not constant
    digest: str  # the same for the same pixels
    objects: tuple[int, ...] | None  # of each class, or labels 0 and 1; None: no usable label


@dataclass(frozen=True)
class Survey:
    """Result of :func:`survey`.

    Attributes
    ----------
    folder : Path
    annotations : Annotations
    images : tuple of Facts
        All images that can be read.
    unreadable, contradictory : dict of str to str
        Images that cannot be read, and labels that do not fit their image, with the reason.
    unlabelled : tuple of str
        Images without a label; they are left out of the dataset.
    missing : tuple of str
        Labels without an image.
    """

    folder: Path
    annotations: Annotations
    images: tuple[Facts, ...]
    unreadable: dict[str, str]
    contradictory: dict[str, str]
    unlabelled: tuple[str, ...]
    missing: tuple[str, ...]

    @cached_property
    def labelled(self) -> tuple[Facts, ...]:
        """Images that go into the dataset."""
        return tuple(item for item in self.images if item.objects is not None)

    @property
    def objects(self) -> NDArray[np.int64]:
        """Counts of objects, or image-level labels, of the labelled images: (N, K)."""
        rows = [item.objects for item in self.labelled]
        return np.asarray(rows, np.int64).reshape(-1, len(self.annotations.classes))

    @property
    def pos_weight(self) -> NDArray[np.float64]:
        """Images without each class for one with it, (K,): the weight of positives in the loss.

        Infinite for a class that no image shows.
        """
        positive = (self.objects > 0).sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(positive, (len(self.objects) - positive) / positive, np.inf)

    @property
    def duplicates(self) -> list[list[Facts]]:
        """Groups of files with the same pixels."""
        groups = defaultdict(list)
        for item in self.images:
            groups[item.digest].append(item)
        return [group for group in groups.values() if len(group) > 1]

    @property
    def errors(self) -> list[str]:
        """Sentences about what must be corrected before a dataset can be written."""
        found = _first(f"{why} Or move it out of the folder." for why in self.unreadable.values())
        found += _first(f"The label of {name}: {why}" for name, why in self.contradictory.items())
        for group in self.duplicates:
            if len({item.objects for item in group} - {None}) > 1:
                found.append(f"{_names(group)} are the same picture with different labels: keep "
                             "one of them, with the right label.")
        for what, kinds in (
            ("numbers of channels", [item.shape[0] for item in self.labelled]),
            ("types of numbers", [item.dtype for item in self.labelled]),
        ):
            if len(set(kinds)) > 1:
                found.append(f"The images have different {what}: {_listed(kinds)}. Save all alike.")
        if not self.labelled:
            found.append("No image has a label: the names in the labels must be those of the "
                         "files, with their sub-folders.")
        return found

    @property
    def warnings(self) -> list[str]:
        """Sentences about what may spoil the training."""
        def images(found: Sequence[Any]) -> str:
            return f"{_names(found)} ({len(found)} of {len(self.images)} images)"

        saturated = [item for item in self.images if item.saturated > 0.01]
        colour = [item for item in self.images if item.false_colour]
        empty = [item for item in self.images if item.low == item.high]
        checks = [
            (saturated, "More than 1 % of the values are at the end of the range: {}. Bright parts "
                        "are cut off; export the raw data, with 12 or 16 bits if possible."),
            (colour, "RGB, but only one grey picture in it: {}. Save one grey channel, or the "
                     "network gets three channels to learn from for nothing."),
            (empty, "All pixels have the same value: {}. Look whether the export went wrong."),
            (self.unlabelled, "No label: {}. They are left out; add them to the labels."),
        ]
        found = [text.format(images(items)) for items, text in checks if items]
        if self.missing:
            found.append(f"Labels without an image ({len(self.missing)}): {_names(self.missing)}. "
                         "Look for typing errors in the names.")
        found += [f"{_names(group)} are the same picture: keep one. They go into one split."
                  for group in self.duplicates]
        for name, count in zip(self.annotations.classes, (self.objects > 0).sum(0), strict=True):
            share = count / max(1, len(self.objects))
            if len(self.objects) and not 0.05 <= share <= 0.95:
                found.append(f"{count} of {len(self.objects)} images show {name}: a class is "
                             "learned from images with and images without it; add the rarer kind.")
        return found


def survey(folder: str | Path, annotations: Annotations) -> Survey:
    """Read all images of a folder and their labels; nothing is changed or written.

    Parameters
    ----------
    folder : path
        Images, also in sub-folders. Keep masks elsewhere.
    annotations : Annotations
        From a reader of :mod:`micranet_helpers.data.own.annotations`. A label belongs to the image
        whose name within the folder it has, with or without the ending.

    Returns
    -------
    Survey
        Facts, errors and warnings. Show them with :func:`report`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    images, unreadable, contradictory, unlabelled, used = [], {}, {}, [], set()
    for path in tqdm(image_files(folder), "Looking at", unit=" images"):
        name = path.relative_to(folder).as_posix()
        key = _key(name, annotations)
        used.add(key)
        if key is None:
            unlabelled.append(name)
        try:
            image = read_image(path)
        except (ValueError, OSError) as error:
            unreadable[name] = str(error)
            continue
        objects = None
        try:
            if key is not None:
                objects = _count(annotations.images[key](*image.shape[1:])[0])
        except (ValueError, OSError) as error:
            contradictory[name] = str(error)
        images.append(_facts(name, image, objects))
    missing = tuple(sorted(annotations.images.keys() - used))
    return Survey(Path(folder), annotations, tuple(images), unreadable, contradictory,
                  tuple(unlabelled), missing)


def _key(name: str, annotations: Annotations) -> str | None:
    """Find the label of an image, with or without its ending."""
    stem = str(PurePosixPath(name).with_suffix(""))
    keys = map(image_key, (name, stem, stem.removesuffix(".ome")))
    return next((key for key in keys if key in annotations.images), None)


def _count(label: NDArray[Any]) -> tuple[int, ...]:
    if label.ndim == 1:
        return tuple(label.tolist())
    return tuple(np.unique(plane[plane > 0]).size for plane in label)


def _facts(name: str, image: NDArray[Any], objects: tuple[int, ...] | None) -> Facts:
    low, high = image.min(), image.max()
    full = image.dtype != np.float32 and high in FULL and low < high
    constant = image.min((1, 2)) == image.max((1, 2))
    return Facts(
        name, image.shape, str(image.dtype), float(low), float(high),
        float((image == high).mean()) if full else 0.0,
        len(image) == 3 and bool(constant.sum() == 2 or (image == image[0]).all()),
        _digest(image), objects,
    )


def _digest(image: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{image.dtype} {image.shape}".encode())
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


def _first(sentences: Iterable[str]) -> list[str]:
    few = list(sentences)
    return few if len(few) <= 5 else [*few[:5], f"… and {len(few) - 5} more of this kind."]


def _names(items: Sequence[Any]) -> str:
    names = [item if isinstance(item, str) else item.name for item in items[:5]]
    return ", ".join(names) + (", …" if len(items) > 5 else "")


def report(found: Survey) -> str:
    """Write a survey as text of lines up to 76 characters: images, classes, errors, warnings."""
    images = found.images
    lines = [f"{found.folder}: {len(images) + len(found.unreadable)} images, "
             f"{len(found.labelled)} of them with a label", ""]
    if images:
        shapes = np.asarray([item.shape for item in images])
        rows = [
            ("channels", _listed(item.shape[0] for item in images)),
            ("height", f"{_span(shapes[:, 1])} px"), ("width", f"{_span(shapes[:, 2])} px"),
            ("type", _listed(item.dtype for item in images)),
            ("values", f"{min(item.low for item in images):g} to "
                       f"{max(item.high for item in images):g}"),
            ("saturated", f"{np.mean([item.saturated for item in images]):.2%} of the values"),
        ]
        lines += [f"{name:<10} {text}" for name, text in rows] + [""]
    width = max(len(name) for name in ("class", *found.annotations.classes))
    lines.append(f"{'class':<{width}}  with  without  objects  pos_weight")
    columns = zip(found.annotations.classes, found.objects.T, found.pos_weight, strict=True)
    for name, column, weight in columns:
        shown = f"{weight:.2f}" if 0 < weight < np.inf else "-"
        lines.append(f"{name:<{width}}  {(column > 0).sum():4}  {(column == 0).sum():7}  "
                     f"{column.sum():7}  {shown:>10}")
    for title, texts in (("To be put right", found.errors), ("To be looked at", found.warnings)):
        lines += ["", f"{title}: {len(texts) or 'nothing'}"]
        lines += [textwrap.fill(
            text, 76, initial_indent="- ", subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,  # they may be file names
        ) for text in texts]  # fmt: skip
    return "\n".join(lines)


def _span(values: NDArray[Any]) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _listed(values: Iterable[Any]) -> str:
    counts = Counter(values).items()
    return ", ".join(f"{value} ({count} image{'s' * (count > 1)})" for value, count in counts)


def build(
    path: str | Path, found: Survey, *, source: str, licence: str,
    pixel_size_um: float | None = None,
    normalisation: Literal["minmax", "standard", "range"] = "range",
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    group: Callable[[str], str] = lambda name: str(PurePosixPath(name).with_suffix("")),
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
        Side of a pixel, µm.
    normalisation : str
        What the network sees as 0 and 1: the smallest and largest value of each image
        (``"minmax"``) or of all training images (``"range"``), or mean and mean plus standard
        deviation of each image (``"standard"``); channel by channel except for ``"range"``.
    shares : three floats
        Shares of training, validation and testing; of 0, the split is left out.
    group : function
        From the name of an image to that of its specimen. A specimen stays in one split, as do
        files with the same pixels. By default each image is a specimen.
    seed : int
        Which split.

    Raises
    ------
    ValueError
        If the survey has errors, all of which are listed, or there are too few specimens.
    OSError
        If a file has gone or the disk is full.
    """
    if found.errors:
        raise ValueError("Put this right, then survey again:\n- " + "\n- ".join(found.errors))
    if len(shares) != 3 or min(shares) < 0 or shares[0] == 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"Give three shares that add up to 1, the first above 0, not {shares}.")
    if normalisation not in ("minmax", "standard", "range"):
        raise ValueError(f"normalisation is 'minmax', 'standard' or 'range', not {normalisation}.")
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
    found: Survey, shares: Sequence[float], group: Callable[[str], str], seed: int
) -> NDArray[np.int64]:
    """Choose the split of each image: specimens whole, classes shared out evenly, none empty."""
    items = found.labelled
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
    image = read_image(found.folder / item.name)
    if _digest(image) != item.digest:
        raise ValueError(f"{item.name} has changed since the survey: survey again.")
    label, boxes = found.annotations.images[_key(item.name, found.annotations)](*image.shape[1:])
    scale = between(*span) if normalisation == "range" else scale_of(image, normalisation)
    return dataset.Sample(item.name, image, label, *scale, boxes)


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
            for what, value in (("pixels", _digest(sample.image)), ("name", sample.name)):
                place, name = first.setdefault((what, value), (split, sample.name))
                if place != split:
                    found.append(f"{sample.name} ({split}) and {name} ({place}): same {what}.")
    return found
