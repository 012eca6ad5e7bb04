"""Read masks: label images of the names of the images, or one file for each object."""

from collections import defaultdict
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
    masks, objects = _arranged([path for path in found if path.suffix.lower() in SUFFIXES])
    names = {path: image.relative_to(folder).with_suffix("").as_posix()
             for path, image in (masks | objects).items()}  # fmt: skip
    # Files without an ending beside files with one are the images.
    marked = [path for path in masks if of_image(names[path]) != names[path].removesuffix(".ome")]
    wanted = marked or list(masks)
    if not (marked or objects) and any(path.name.endswith("_seg.npy") for path in found):
        raise ValueError(
            f"{folder} holds Cellpose's _seg.npy, which could run code when read: in Cellpose, "
            "choose File > Save masks as PNG/tif, which makes NAME_cp_masks files."
        )
    if not names or (instances and len(classes) != 1):
        raise ValueError(
            f"{folder} must hold masks (TIFF, PNG, …), and numbers of objects need one class."
        )
    faults, labels = Faults(), {}
    for path in wanted:
        with faults.noted():
            label = partial(_mask, path, len(classes), instances)
            add(labels, of_image(names[path]), label, f"the mask {path.name}")
    shapes = defaultdict(list)
    for path in objects:
        shapes[names[path]].append(Shape(classes[0], pixels=partial(_sized, path)))
    labels |= {name: partial(draw, name, found, None, (classes[0],))
               for name, found in shapes.items()}  # fmt: skip
    if objects and len(classes) != 1:
        faults.append("files of single objects need one class.")
    if faults:
        raise ValueError(f"{folder} cannot be used:{faults}")
    return Annotations(distinct(classes), labels, files=frozenset([*wanted, *objects]))


def _arranged(files: Sequence[Path]) -> tuple[dict[Path, Path], dict[Path, Path]]:
    """Find the images of masks, and of single objects: in ``images`` beside their ``masks``."""
    folders: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in files:
        folders[path.parent].append(path)
    masks, objects = {}, {}
    for place, found in folders.items():
        if place.name == "images" and place.with_name("masks") in folders:
            continue
        images = folders.get(place.with_name("images"), []) if place.name == "masks" else []
        if len(images) == 1 and [path.stem for path in found] != [images[0].stem]:
            objects |= dict.fromkeys(found, images[0])
        else:
            masks |= {path: images[0].with_name(path.name) if images else path for path in found}
    return masks, objects


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
