"""Look at a folder of one's own images and their labels, before anything is made of them.

Folders of any size are worked through with one image in memory at a time.
"""

import filecmp
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from micranet_helpers.data.content import digest
from micranet_helpers.data.own.annotations import Annotations, image_key, of_image, planes_of
from micranet_helpers.files.images import SUFFIXES
from micranet_helpers.files.microscopes import READERS
from micranet_helpers.files.series import file_of, pixel_size, read_plane
from micranet_helpers.files.tables import visible

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
    said: tuple[str, ...]  # by the file of its pixels, and applied or ignored
    pixel_size_um: float | None
    key: str | None  # of its label
    objects: tuple[int, ...] | None  # of each class; or labels 0, 1, -1: unknown; None: no label


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
        """Counts of objects, or image-level labels, of the labelled images: (N, K); -1: unknown."""
        rows = [item.objects for item in self.labelled]
        return np.asarray(rows, np.int64).reshape(len(rows), len(self.annotations.classes))

    @property
    def pos_weight(self) -> NDArray[np.float64]:
        """Images without each class for one with it, (K,): the weight of positives in the loss.

        Infinite for a class that no image shows.
        """
        positive, negative = (self.objects > 0).sum(0), (self.objects == 0).sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(positive, negative / positive, np.inf)

    @property
    def pixel_sizes_um(self) -> list[float]:
        """Sides of pixels, µm, that the files of labelled images name, without those alike."""
        known = sorted(item.pixel_size_um for item in self.labelled if item.pixel_size_um)
        return [size for before, size in zip([0.0, *known], known, strict=False)
                if size > 1.01 * before]

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
        if not self.annotations.images:
            found.append("There are no labels yet: survey again with them.")
        elif not self.labelled:
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
        turned = [item for item in self.labelled if "turned" in " ".join(item.said)]
        checks = [
            (saturated, "More than 1 % of the values are at the end of the range: {}. Bright parts "
                        "are cut off; export the raw data, with 12 or 16 bits if possible."),
            (colour, "RGB, but only one grey picture in it: {}. Save one grey channel, or the "
                     "network gets three channels to learn from for nothing."),
            (empty, "All pixels have the same value: {}. Look whether the export went wrong."),
            (turned, "Turned, as the files say: {}. Look whether the labels were made of the "
                     "turned pictures, too."),
            (self.unlabelled if self.annotations.images else (),
             "No label: {}. They are left out; add them to the labels."),
        ]
        found = [text.format(images(items)) for items, text in checks if items]
        if self.missing:
            found.append(f"Labels without an image ({len(self.missing)}): {_names(self.missing)}. "
                         "Look for typing errors in the names.")
        if len(self.pixel_sizes_um) > 1:
            sizes = ", ".join(map(_micrometres, self.pixel_sizes_um))
            found.append(f"The files name pixels of different sizes: {sizes}. Objects then differ "
                         "in size, too: scale the images alike.")
        found += [f"{_names(group)} are the same picture: keep one. They go into one split."
                  for group in self.duplicates]
        for name, column in zip(self.annotations.classes, self.objects.T, strict=True):
            counts = int((column > 0).sum()), int((column == 0).sum())
            if len(column) and min(counts) < max(3, sum(counts) / 20):
                found.append(f"{counts[0]} of {sum(counts)} images show {name}: to learn, choose "
                             "and test it, each of three splits needs images with it and images "
                             "without it; add the rarer kind.")
        return found


NO_LABELS = Annotations((), {})


def survey(folder: str | Path, annotations: Annotations = NO_LABELS) -> Survey:
    """Read all images of a folder and their labels; nothing is changed or written.

    Parameters
    ----------
    folder : path
        Images, also in sub-folders, of the kinds that :mod:`micranet_helpers.files.series` reads.
        The planes of a stack are images: ``film.tif/t02``. Masks among them are left out.
    annotations : Annotations, optional
        From a reader of :mod:`micranet_helpers.data.own`; by default only the images are looked at,
        as before the labelling. A label belongs to the image whose name
        within the folder it has, with or without the ending; or to the only one of that name, if
        either names more of the folders.

    Returns
    -------
    Survey
        Facts, errors and warnings. Show them with :func:`report`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    folder = Path(folder).expanduser()
    images, unreadable, contradictory = [], {}, {}
    masks = {path.resolve() for path in annotations.files}
    named = defaultdict(list)
    for mask in masks:
        named[of_image(mask.stem)].append(mask)
    planes = planes_of(folder)
    files = [path for path in planes if path.resolve() not in masks]
    names = {path.relative_to(folder).as_posix(): path for path in files or planes}
    keys = _keys(names, annotations)
    times = Counter(keys.values())
    for name, path in tqdm(names.items(), "Looking at", unit=" images"):
        try:
            (_, image, said), size_um = read_plane(path), pixel_size(path)
        except (ValueError, OSError) as error:
            unreadable[name] = str(error)
            continue
        objects, key = None, keys[name]
        try:
            if key is not None:
                _check_own(path, named[path.stem])
                if times[key] > 1:
                    raise ValueError("other files have this name, too, but for the ending or the "
                                     "spelling of accents: rename them.")
                objects = _count(annotations.images[key](*image.shape[1:])[0])
        except (ValueError, OSError) as error:
            contradictory[name] = str(error)
        images.append(_facts(name, image, (said, size_um, key, objects)))
    unlabelled = tuple(name for name, key in keys.items() if key is None)
    missing = tuple(sorted(annotations.images.keys() - keys.values()))
    return Survey(folder, annotations, tuple(images), unreadable, contradictory, unlabelled,
                  missing)


def _keys(names: Iterable[str], annotations: Annotations) -> dict[str, str | None]:
    """Find the label of each image: of the same name, or of one that ends, or goes on, alike.

    Labels know other folders than the survey if they were made elsewhere; the ending may lack.
    """
    keys = {name: next(filter(annotations.images.__contains__, _spellings(name)), None)
            for name in names}  # fmt: skip
    left = defaultdict(list)
    for key in annotations.images.keys() - keys.values():
        for parts in {_parts(key), _parts(key.removesuffix("-objects").removesuffix("-rois"))}:
            left[parts[-1]].append((parts, key))  # `predict` calls its files NAME-objects
    near = {name: [key for parts, key in left[_parts(name)[-1]] if all(
                map(str.__eq__, reversed(_parts(name)), reversed(parts)))]
            for name, key in keys.items() if key is None}  # fmt: skip
    wanted = Counter(key for found in near.values() for key in found)
    clear = {name: found[0] for name, found in near.items()
             if len(found) == 1 and wanted[found[0]] == 1}  # fmt: skip
    return keys | clear


def _spellings(name: str) -> list[str]:
    stem = str(PurePosixPath(name).with_suffix(""))
    return [image_key(each) for each in (name, stem, stem.removesuffix(".ome"))]


def _parts(name: str) -> tuple[str, ...]:
    """Split a name into folders and file, without its ending."""
    path = PurePosixPath(image_key(name))
    path = path.with_suffix("") if path.suffix.lower() in (*SUFFIXES, *READERS) else path
    return path.parts or ("",)


def _check_own(path: Path, masks: Iterable[Path]) -> None:
    """Refuse a mask that is the image itself, or a copy of it."""
    for mask in masks:
        if mask.resolve() == path.resolve() or filecmp.cmp(mask, file_of(path), shallow=False):
            raise ValueError(f"its mask {mask} is the image: keep masks in a folder of their own, "
                             "or name them NAME_masks.")


def _count(label: NDArray[Any]) -> tuple[int, ...]:
    if label.ndim == 1:
        return tuple(np.nan_to_num(label, nan=-1).astype(int).tolist())
    return tuple(np.unique(plane[plane > 0]).size for plane in label)


def _facts(name: str, image: NDArray[Any], rest: tuple) -> Facts:
    low, high = image.min(), image.max()
    full = image.dtype != np.float32 and high in FULL and low < high
    constant = image.min((1, 2)) == image.max((1, 2))
    return Facts(
        name, image.shape, str(image.dtype), float(low), float(high),
        float((image == high).mean()) if full else 0.0,
        len(image) == 3 and bool(constant.sum() == 2 or (image == image[0]).all()),
        digest([image]), *rest,
    )


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
            ("pixel", _listed(_micrometres(item.pixel_size_um) for item in images)),
            ("files say", _listed(words for item in images for words in item.said) or "nothing"),
        ]
        lines += [f"{name:<10} {text}" for name, text in rows] + [""]
    width = max(len(name) for name in ("class", *found.annotations.classes))
    if found.annotations.classes:
        lines.append(f"{'class':<{width}}  with  without  objects  pos_weight")
    columns = zip(found.annotations.classes, found.objects.T, found.pos_weight, strict=True)
    for name, column, weight in columns:
        shown = f"{weight:.2f}" if 0 < weight < np.inf else "-"
        lines.append(f"{name:<{width}}  {(column > 0).sum():4}  {(column == 0).sum():7}  "
                     f"{column.clip(0).sum():7}  {shown:>10}")
    for title, texts in (("To be put right", found.errors), ("To be looked at", found.warnings)):
        lines += ["", f"{title}: {len(texts) or 'nothing'}"]
        lines += [textwrap.fill(
            text, 76, initial_indent="- ", subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,  # they may be file names
        ) for text in texts]  # fmt: skip
    return visible("\n".join(lines))


def _micrometres(size: float | None) -> str:
    return "of unknown size" if size is None else f"{size:.3g} µm"


def _span(values: NDArray[Any]) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _listed(values: Iterable[Any]) -> str:
    counts = Counter(values).items()
    return ", ".join(f"{value} ({count} image{'s' * (count > 1)})" for value, count in counts)
