"""Read masks: label images of the names of the images, or one file for each object."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from micranet_helpers.data.own.annotations import (
    Annotations,
    Faults,
    Label,
    add,
    distinct,
    files_of,
    of_image,
)
from micranet_helpers.data.own.shapes import Shape, draw
from micranet_helpers.files.images import SUFFIXES, read_mask


def read_masks(
    folder: str | Path, classes: Sequence[str], instances: bool = False
) -> Annotations:
    """Read masks: images of the same names, endings aside, in a folder of their own or among them.

    Among the images, the names of masks go on with one of
    :data:`~micranet_helpers.data.own.annotations.ENDINGS`: ``a_masks.png`` is that
    of ``a.tif``. A folder ``masks`` beside one ``images`` that holds a single image has one file
    for each of its objects, as in the Data Science Bowl 2018.

    Parameters
    ----------
    folder : path
        Holds the masks.
    classes : sequence of str
        Value 1 of a mask is the first class, 2 the second, …; with one class, the only value
        but 0, often 255. Connected pixels, corners included, are one object.
    instances : bool
        With one class: the values are numbers of objects.

    Returns
    -------
    Annotations
        Each mask is read when its label is asked for.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder, it holds no mask, or ``instances`` comes with more classes.
    """
    folder = Path(folder).expanduser()
    found = files_of(folder)
    files = [path for path in found if path.suffix.lower() in SUFFIXES]
    pictures, images = _beside(files, folder)
    of_objects = [path for objects in images.values() for path in objects]
    names = {path: _twin(path, pictures).relative_to(folder).with_suffix("").as_posix()
             for path in files if path not in pictures and path not in of_objects}  # fmt: skip
    # Files without an ending beside files with one are the images.
    marked = {path: name for path, name in names.items()
              if of_image(name) != name.removesuffix(".ome")}  # fmt: skip
    wanted = marked or names
    if not (marked or images) and any(path.name.endswith("_seg.npy") for path in found):
        raise ValueError(
            f"{folder} holds Cellpose's _seg.npy, which could run code when read: in Cellpose, "
            "choose File > Save masks as PNG/tif, which makes NAME_cp_masks files."
        )
    if not (wanted or images) or (instances and len(classes) != 1):
        raise ValueError(
            f"{folder} must hold masks (TIFF, PNG, …), and numbers of objects need one class."
        )
    faults, labels = Faults(), {}
    for path, name in wanted.items():
        with faults.noted():
            label = partial(_mask, path, len(classes), instances)
            add(labels, of_image(name), label, f"the mask {path.name}")
    for name, objects in images.items():
        shapes = [Shape(classes[0], pixels=partial(_sized, path)) for path in objects]
        labels[name] = partial(draw, name, shapes, None, (classes[0],))
    if images and len(classes) != 1:
        faults.append("files of single objects need one class.")
    if faults:
        raise ValueError(f"{folder} cannot be used:{faults}")
    return Annotations(distinct(classes), labels, files=frozenset([*wanted, *of_objects]))


def _twin(path: Path, pictures: set[Path]) -> Path:
    """Find where the image of a mask is: in ``images`` if the mask is in ``masks`` beside it."""
    place = path.parent.parent / "images"
    beside = path.parent.name == "masks" and any(picture.parent == place for picture in pictures)
    return place / path.name if beside else path


def _beside(
    files: Sequence[Path], folder: Path
) -> tuple[set[Path], dict[str, list[Path]]]:
    """Find images in folders beside folders of masks, and those whose objects are files each."""
    pictures: set[Path] = set()
    images: dict[str, list[Path]] = {}
    for parent in {path.parent for path in files if path.parent.name == "masks"}:
        beside = [path for path in files if path.parent == parent.with_name("images")]
        objects = [path for path in files if path.parent == parent]
        pictures.update(beside)
        if len(beside) == 1 and [path.stem for path in objects] != [beside[0].stem]:
            name = beside[0].relative_to(folder).with_suffix("").as_posix()
            images[name] = objects
    return pictures, images


def _sized(path: Path, height: int, width: int) -> NDArray[Any]:
    mask = read_mask(path)
    if mask.shape != (height, width):
        raise ValueError(f"{path} is {mask.shape}, its image ({height}, {width}): make them alike.")
    return mask


def _mask(path: Path, count: int, instances: bool, height: int, width: int) -> Label:
    """Read a mask as planes of numbered objects."""
    mask = _sized(path, height, width)
    if instances:
        return _numbered(mask)[None], None
    values = np.unique(mask[mask > 0])
    if count == 1 and values.size == 1:
        mask = mask > 0  # often 255
    elif values.size and values[-1] > count:
        raise ValueError(
            f"{path} holds {values.size} values up to {values[-1]} for {count} classes: name all "
            "classes, or pass instances=True if these are numbers of objects, or, if they are "
            "soft edges, save the mask as black and white."
        )
    planes = [mask == kind + 1 for kind in range(count)]
    return np.stack([_numbered(measure.label(plane, connectivity=2)) for plane in planes]), None


def _numbered(ids: NDArray[Any]) -> NDArray[np.uint16]:
    """Number the objects from 1 without gaps."""
    found = np.unique(ids[ids > 0])  # relabel_sequential needs a table up to the largest number
    if found.size >= 2**16:
        raise ValueError(f"A mask with {found.size} objects is too much: cut the image.")
    return np.searchsorted(found, ids, "right").astype(np.uint16)
