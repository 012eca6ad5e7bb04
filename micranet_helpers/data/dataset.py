"""The HDF5 layout of datasets: images with masks, objects or image-level labels.

The layout is that of the original MICRA-Net F-actin files, extended so that those still load:
each top-level group (a split: ``training``, ``validation``, ``testing``) holds

- ``data``, (N, H, W) or (N, C, H, W): images as published, padded with zeros to one size;
- ``label``, (N, K, H, W) or (N, K): object numbers (0: none), one plane for each class, or
  image-level labels 0 and 1, NaN where unknown; its attribute ``shapes``, (N, 2), holds the true
  height and width of each image;
- ``name``, (N,), optional: names of the images;
- ``normalization``, (N, C, 2), optional: offset o and factor f: the network sees (image - o) f;
- ``boxes``, (M, 6), optional: image, class, top, left, bottom, right, px;
- ``crops``, (M, 4 + K), optional: image, top, left, side of a crop, px; 0, 1 or, where unknown,
  NaN of each class.

The file's attributes say ``classes`` (names, JSON), ``pixel_size_um``, ``scaling`` (of each image
by its own numbers), ``source``, ``licence`` and ``version`` (of this package); the attribute
``split`` of a group repeats its name. Every chunk carries a checksum, and so do the file's own
tables: a damaged file gives an error, not a wrong image.
"""

import importlib.metadata
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from micranet_helpers.data.scaling import normalize
from micranet_helpers.files.atomic import remove_parts, replacing
from micranet_helpers.files.hdf5 import attribute, member, reading

SPLITS = ("training", "validation", "testing")
"""Usual names of the splits."""

CHUNK = 128  # side of the tiles in which images are packed, px: a crop reads few of them
MOST_PIXELS = 2**30  # values of an image or label


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its labels.

    Attributes
    ----------
    name : str
        File name, frame or section: what a reader looks for in the source.
    image : ndarray, uint8, uint16 or float32, (C, H, W)
        As published.
    label : ndarray, uint8 or uint16, (K, H, W) or (K,)
        For each class the objects, numbered from 1, or a mask of 0 and 1; or image-level labels,
        where some are unknown float32 with NaN.
    offset, factor : ndarray, float32, (C,)
        The network sees ``(image - offset) * factor``.
    boxes : ndarray, float32, (M, 5), or None
        Class, top, left, bottom, right of annotated boxes, px, the last two exclusive.
    crops : ndarray, float32, (M, 3 + K), or None
        Top, left and side of labelled crops, px; of each class 0, 1 or, where unknown, NaN.
    """

    name: str
    image: NDArray[Any]
    label: NDArray[Any]
    offset: Any = 0.0
    factor: Any = 1.0
    boxes: NDArray[np.float32] | None = None
    crops: NDArray[np.float32] | None = None

    @property
    def pixels(self) -> NDArray[np.float32]:
        """What the network sees: float32 (C, H, W)."""
        return normalize(self.image, self.offset, self.factor)

    @property
    def present(self) -> NDArray[np.uint8]:
        """Image-level labels: uint8 (K,), 1 where the class is known to be present."""
        return (self.label.reshape(len(self.label), -1) > 0).any(1).astype(np.uint8)


@dataclass(frozen=True)
class About:
    """Describe a dataset.

    ``classes`` name the K planes of the label; ``source`` says where the images come from, with the
    citation, ``licence`` under which terms they may be used. ``pixel_size_um`` is the side of a
    pixel, µm, where it is known; ``scaling`` how each image was scaled by its own numbers, "minmax"
    or "standard" of :data:`~micranet_helpers.data.scaling.SCALINGS`, None where all have one scale.
    """

    classes: tuple[str, ...]
    source: str
    licence: str
    pixel_size_um: float | None = None
    scaling: str | None = None


# --- writing -----------------------------------------------------------------------------------


def write(path: str | Path, splits: Mapping[str, Iterable[Sample]], about: About) -> Path:
    """Write a dataset, in the memory of one image, and return its path.

    The file gets its name only when it is complete; an old one is replaced, what a killed run left
    is removed. One writer at a time. ``splits`` are usually ``training``, ``validation`` and
    ``testing``; within one, all images have the same channels, dtype and kind of label; heights and
    widths may differ. Raises ValueError if a sample contradicts the others or ``about``, or holds
    NaN: nothing is written; OSError if the disk is full: the old file is then as before.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it, such as dataset.hdf5.")
    if not splits or any(split in ("", ".") or "/" in split for split in splits):
        raise ValueError(f"Name one split or more, such as 'training', not {list(splits)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_parts(path.parent, path.name)
    with replacing(path) as part, _PartFile(part, "w+b") as raw:
        # Tables of this version and later have checksums.
        with h5py.File(raw, "w", libver=("v110", "v110"), track_order=True) as file:
            _describe(file, about)
            for split, samples in splits.items():
                # A full disk ends the writing at the next image, not when all were read.
                shown = (raw.check() or sample for sample in tqdm(samples, split, unit=" images"))
                _write_split(file.create_group(split), shown, about)
        raw.check()
    return path


class _PartFile(io.FileIO):
    """Remember a failed write: if HDF5 knew of it, it would crash when Python ends."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        try:
            while len(rest) and not self.failure:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return self.tell() if size is None else size

    def check(self) -> None:
        if self.failure:
            raise OSError(
                self.failure.errno,
                f"Could not write {self.name} ({self.failure.strerror}): free some space and run "
                "again",
            ) from self.failure


def _describe(file: h5py.File, about: About) -> None:
    texts = {
        "classes": json.dumps(about.classes), "source": about.source, "licence": about.licence,
        "version": importlib.metadata.version("micranet-helpers"), "scaling": about.scaling,
    }  # fmt: skip
    for key, text in texts.items():
        if text is not None:
            # Text of fixed length is stored in the file's tables, which have checksums.
            file.attrs[key] = np.bytes_(text.encode())
    if about.pixel_size_um is not None:
        file.attrs["pixel_size_um"] = about.pixel_size_um


def _write_split(group: h5py.Group, samples: Iterable[Sample], about: About) -> None:
    group.attrs["split"] = np.bytes_(group.name.strip("/").encode())
    shapes, names, normalization, boxes, crops = [], [], [], [], []
    for number, sample in enumerate(samples):
        _check(sample, about)
        channels = len(sample.image)
        plane = sample.image if channels > 1 else sample.image[0]
        _append(group, "data", number, plane)
        _append(group, "label", number, sample.label)
        shapes.append(sample.image.shape[1:])
        names.append(sample.name.encode())
        scale = np.stack(np.broadcast_arrays(sample.offset, sample.factor), -1)
        normalization.append(np.broadcast_to(scale, (channels, 2)))
        boxes += [(number, *box) for box in (() if sample.boxes is None else sample.boxes)]
        crops += [(number, *crop) for crop in (() if sample.crops is None else sample.crops)]
    if not shapes:
        raise ValueError(f"The split {group.name!r} would hold no image: give at least one.")
    group["label"].attrs["shapes"] = np.asarray(shapes, np.int32)
    tables = {"normalization": normalization, "boxes": boxes, "crops": crops}
    small = {name: np.asarray(rows, np.float32) for name, rows in tables.items() if rows}
    for name, values in ({"name": np.asarray(names)} | small).items():
        group.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)


def _check(sample: Sample, about: About) -> None:
    image, label = sample.image, sample.label
    boxes = np.zeros((0, 5)) if sample.boxes is None else np.asarray(sample.boxes)
    wrong = None
    if image.ndim != 3 or image.dtype not in (np.uint8, np.uint16, np.float32):
        wrong = f"its image is {image.dtype} {image.shape}, not uint8, uint16 or float32 (C, H, W)"
    elif (
        label.dtype not in (np.uint8, np.uint16, *([np.float32] if label.ndim == 1 else []))
        or len(label) != len(about.classes)
    ):
        wrong = f"its label is {label.dtype} {label.shape} for {len(about.classes)} classes"
    elif label.shape[1:] not in ((), image.shape[1:]):
        wrong = f"its label {label.shape} is of another size than its image {image.shape}"
    elif 0 in image.shape + label.shape:
        wrong = f"its image {image.shape} or label {label.shape} is empty"
    elif boxes.shape[1:] != (5,):
        wrong = f"its boxes are {boxes.shape}, not (M, 5)"
    elif sample.crops is not None and sample.crops.shape[1:] != (3 + len(about.classes),):
        wrong = f"its crops are {sample.crops.shape} for {len(about.classes)} classes"
    elif not all(
        np.isfinite(np.asarray(values, np.float32)).all()
        for values in (image, sample.offset, sample.factor, boxes)
    ):
        wrong = "it holds NaN, infinite or too large numbers"
    elif (np.maximum(boxes[:, 1:3], 0) >= np.minimum(boxes[:, 3:], image.shape[1:])).any():
        wrong = "a box (class, top, left, bottom, right) is empty or lies outside the image"
    elif sample.crops is not None and not _begin_inside(sample.crops, image.shape[1:]):
        wrong = "a crop (top, left, side) is not of whole numbers or begins outside the image"
    if wrong:
        raise ValueError(f"{sample.name} cannot be stored: {wrong}.")


def _begin_inside(crops: NDArray[Any], shape: ArrayLike) -> bool:
    """Check top, left and side of crops, (M, 3 or more), in images of a shape, (2,) or (M, 2)."""
    places = np.asarray(crops)[:, :3]
    whole = (places == np.round(places)).all() and np.isfinite(places).all()
    return bool(whole and (places >= [0, 0, 1]).all() and (places[:, :2] < shape).all())


def _append(group: h5py.Group, name: str, number: int, value: NDArray[Any]) -> None:
    """Store ``value`` as member ``number`` of a stack that grows with its largest member."""
    if number == 0:
        # Later images may be larger than the first: tiles are at least half of the side.
        tile = (min(CHUNK, max(CHUNK // 2, side)) for side in value.shape[-2:])
        plane = tuple(tile) if value.ndim > 1 else ()
        chunks = (1, *value.shape[: value.ndim - len(plane)], *plane)
        group.create_dataset(
            name, (0, *value.shape), value.dtype, chunks=chunks, maxshape=(None,) * len(chunks),
            # Float images are mostly scaled photon counts: few values, packed best as they are.
            compression="gzip", shuffle=value.dtype.kind == "u", fletcher32=True,
        )
    stack = group[name]
    kind = value.dtype, value.ndim + 1, value.shape[:-2]
    if kind != (stack.dtype, stack.ndim, stack.shape[1:-2]):
        raise ValueError(f"All {name} of a split must be alike: {stack.dtype} {stack.shape[1:]}.")
    size = (*map(max, stack.shape[1:], value.shape),)
    if math.prod(size) > MOST_PIXELS:
        raise ValueError(
            f"Padded to one size, the {name} would be {size}: cut the images, or keep tall and "
            "wide ones in datasets of their own."
        )
    stack.resize((number + 1, *size))
    stack[(number, *map(slice, value.shape))] = value


# --- reading -----------------------------------------------------------------------------------


def describe(path: str | Path) -> tuple[About, dict[str, int]]:
    """Read the description of a dataset, and the sizes of its splits by name.

    Classes are ``"0"``, ``"1"``, … where the file does not name them. Raises FileNotFoundError or
    ValueError if there is no such file, or it is damaged or no dataset.
    """
    with reading(path, "the dataset") as file:
        splits = {name: Split(member(file, name)) for name in file}
        if not splits:
            raise ValueError("it holds no split.")
        count = next(iter(splits.values())).label.shape[1]
        text, size = attribute(file, "classes"), attribute(file, "pixel_size_um")
        classes = tuple(map(str, range(count))) if text is None else tuple(json.loads(text))
        if len(classes) != count or not all(isinstance(name, str) for name in classes):
            raise ValueError(
                f"its attribute classes does not name the {count} planes of the label."
            )
        origin = (str(attribute(file, key) or "unknown") for key in ("source", "licence"))
        size = None if size is None else float(size)
        about = About(classes, *origin, size, attribute(file, "scaling"))
        return about, {name: len(split) for name, split in splits.items()}


def read(path: str | Path, split: str) -> Iterator[Sample]:
    """Yield the images of a split with their labels, one after the other, at their true size.

    Raises FileNotFoundError or ValueError if there is no such file or split, or it is damaged.
    """
    with reading(path, f"the split {split!r}") as file:
        images = Split(member(file, split))
        for number in range(len(images)):
            yield images.sample(number)


class Split:
    """Read a split of a file that stays open; a pixel is read when it is asked for.

    ``shapes``, int64 (N, 2), holds the true height and width of each image, px, and ``names``
    their names; ``label`` is the stack of labels, (N, K, H, W) or (N, K); ``scale``, float32
    (N, C, 2), the offset and factor of each, and ``dtype`` the type of their pixels; ``crops`` the
    labels of crops, float32 (M, 4 + K), or None.
    """

    def __init__(self, group: h5py.Group) -> None:
        self._data = member(group, "data", h5py.Dataset)
        self.label = member(group, "label", h5py.Dataset)
        _check_stacks(self._data, self.label)
        count = len(self)
        self._channels = self._data.shape[1] if self._data.ndim == 4 else 1
        full = np.tile(self._data.shape[-2:], (count, 1))
        shapes = attribute(self.label, "shapes")
        self.shapes = full if shapes is None else np.asarray(shapes, np.int64)
        if self.shapes.shape != full.shape or (self.shapes < 1).any() or (self.shapes > full).any():
            raise ValueError(f"the shapes of {group.name} do not fit its images.")
        names = _optional(group, "name", (count,), "S")
        if names is None:
            names = [f"{group.name.strip('/')}-{number}".encode() for number in range(count)]
        self.names = [name.decode(errors="replace") for name in names]
        size = count, self._channels, 2
        scale = _optional(group, "normalization", size, "f")
        self.scale = np.broadcast_to(np.float32([0, 1]), size) if scale is None else scale
        self._offset, self._factor = np.moveaxis(self.scale, -1, 0)
        self.dtype = self._data.dtype
        self._boxes = _optional(group, "boxes", (None, 6), "f")
        width = 4 + self.label.shape[1]
        self.crops = _optional(group, "crops", (None, width), "f", finite=False)
        if self.crops is not None:
            images = self.crops[:, 0]
            known = np.isin(images, range(count)).all()
            if not known or not _begin_inside(self.crops[:, 1:], self.shapes[images.astype(int)]):
                raise ValueError(f"a crop of {group.name} lies in no image.")

    def __len__(self) -> int:
        return self._data.shape[0]

    def sample(self, number: int) -> Sample:
        """Read a whole image with its label, at their true size."""
        image = self.image_of(number)
        boxes, crops = (rows if rows is None else rows[rows[:, 0] == number, 1:]
                        for rows in (self._boxes, self.crops))  # fmt: skip
        name, offset, factor = self.names[number], self._offset[number], self._factor[number]
        return Sample(name, image, self.label_of(number), offset, factor, boxes, crops)

    def image_of(self, number: int) -> NDArray[Any]:
        """Read an image as published, (C, H, W) at its true size."""
        height, width = self.shapes[number]
        image = self._data[number, ..., :height, :width].reshape(self._channels, height, width)
        self._check_finite(image, number)
        return image

    def label_of(self, number: int) -> NDArray[Any]:
        """Read the label of an image: uint8 or uint16, (K, H, W) at its true size, or (K,).

        Where image-level labels are unknown, it is float32 with NaN.
        """
        height, width = self.shapes[number]
        inside = (..., slice(height), slice(width)) if self.label.ndim == 4 else ()
        label = self.label[(number, *inside)]
        if label.dtype in (np.uint8, np.uint16) or (label.ndim == 1 and np.isnan(label).any()):
            return label
        with np.errstate(invalid="ignore"):
            numbers = label.astype(np.uint16)
        if (numbers != label).any():
            raise ValueError(f"the label of {self.names[number]} is not made of numbers 0 … 65535.")
        return numbers

    def crop(self, number: int, top: int, left: int, side: int) -> NDArray[np.float32]:
        """Read what the network sees in a square: float32 (C, side, side), zeros outside."""
        height, width = self.shapes[number]
        inside = (..., slice(top, min(top + side, height)), slice(left, min(left + side, width)))
        stored = self._data[(number, *inside)]
        values = normalize(stored, self._offset[number], self._factor[number])
        self._check_finite(values, number)
        pixels = np.zeros((self._channels, side, side), np.float32)
        pixels[:, : values.shape[1], : values.shape[2]] = values
        return pixels

    def _check_finite(self, values: NDArray[Any], number: int) -> None:
        if not np.isfinite(values).all():
            raise ValueError(f"{self.names[number]} holds NaN or infinite numbers.")


def _check_stacks(data: h5py.Dataset, label: h5py.Dataset) -> None:
    wrong = None
    if data.ndim not in (3, 4) or data.dtype.kind not in "fiu":
        wrong = f"{data.name} is {data.dtype} {data.shape}, not numbers (N, H, W) or (N, C, H, W)"
    elif label.ndim not in (2, 4) or label.dtype.kind not in "fiu":
        wrong = f"{label.name} is {label.dtype} {label.shape}, not numbers (N, K, H, W) or (N, K)"
    elif len(data) != len(label) or (label.ndim == 4 and label.shape[2:] != data.shape[-2:]):
        wrong = f"{data.name} {data.shape} and {label.name} {label.shape} do not belong together"
    elif 0 in data.shape + label.shape:
        wrong = f"{data.name} or {label.name} is empty"
    if wrong:
        raise ValueError(f"{wrong}.")


def _optional(
    group: h5py.Group, name: str, shape: tuple[int | None, ...], kind: str, finite: bool = True
) -> NDArray[Any] | None:
    """Read a small member if it is there: of this shape (None: any length) and kind of dtype."""
    if name not in group:
        return None
    found = member(group, name, h5py.Dataset)
    fits = len(found.shape) == len(shape) and all(
        want in (None, is_) for want, is_ in zip(shape, found.shape, strict=True)
    )
    if not fits or found.dtype.kind != kind:
        raise ValueError(f"{found.name} is {found.dtype} {found.shape}, expected is {shape}.")
    values = found[()]
    if kind == "f" and finite and not np.isfinite(values).all():
        raise ValueError(f"{found.name} holds NaN or infinite numbers.")
    return values
