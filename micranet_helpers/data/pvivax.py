"""Malaria in blood smears: red cells infected by Plasmodium vivax, from boxes or simulated.

Three sources: ``"open"`` is IML_Malaria (Arshad et al. 2022), ``"original"`` is BBBC041 (Hung et
al. 2018), which the MICRA-Net article used, ``"simulated"`` needs no download.

Gametocytes, rings, trophozoites and schizonts are infected cells. White cells are neither
infected nor red cells: only BBBC041 marks them, and its marks are left out. Every image is
standardised per channel, as in the original: offset = mean, factor = 1 / standard deviation.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import block_reduce

from micranet_helpers.data import sources
from micranet_helpers.data.crops import Rule
from micranet_helpers.data.dataset import Sample
from micranet_helpers.data.fetch.download import fetch
from micranet_helpers.data.scaling import scale_of
from micranet_helpers.data.simulated import smear
from micranet_helpers.files.images import read_image

CLASSES = ("infected", "uninfected", "difficult")  # annotators did not decide on difficult cells

RULE = Rule(classes=("infected",), visible_share=0.5, ignore="difficult")
"""A crop is positive if it shows at least half of an infected cell. It is ambiguous, and dropped,
if it cuts off more than half of one, or if it is negative but touches a difficult cell."""

FOLDS = 5
"""Parts of IML_Malaria that are the test in turn, see :func:`build`."""

KINDS = {
    **dict.fromkeys(("gametocyte", "ring", "trophozoite", "schizont"), smear.INFECTED),
    "red blood cell": smear.UNINFECTED, "difficult": smear.DIFFICULT, "leukocyte": None,
}  # fmt: skip
OVERLAP = np.array([[0.8, 0.2, 0], [0.1, 0.8, 0.1], [0, 0.2, 0.8]])
"""Light of red, green and blue that each channel of the other camera sees (:func:`elsewhere`)."""


def read(annotations: str | Path, images: Iterable[str | Path], scale: int = 2) -> Iterator[Sample]:
    """Read fields of IML_Malaria or BBBC041, one at a time, with labels (3, H, W).

    Boxes are filled in the label, with their number in their class, larger ones first, so that of
    overlapping cells the smaller stays whole; a box wholly under smaller ones has no pixel, but is
    still in ``Sample.boxes``. Boxes that reach over the border (in IML_Malaria by up to 5 px) are
    clipped; one marked twice counts once.

    ``annotations.json`` of IML_Malaria is a list of ``{"image_name", "objects": [{"type", "bbox":
    {"x", "y", "w", "h"}}]}``, numbers written as text; ``training.json`` and ``test.json`` of
    BBBC041 are lists of ``{"image": {"pathname"}, "objects": [{"category", "bounding_box":
    {"minimum": {"r", "c"}, "maximum": {"r", "c"}}}]}``, written against public programs that read
    it, not the file.

    Images and boxes are reduced by ``scale``, the mean over squares of pixels. The box of a red
    cell of IML_Malaria is 82 px wide; 41 px show a ring as well, and a crop then holds four times
    as many cells.
    """
    known = _entries(Path(annotations))
    for path in map(Path, images):
        if path.name not in known:
            raise ValueError(f"{annotations} says nothing of {path.name}: leave the image out.")
        image = read_image(path)
        if image.dtype != np.uint8 or len(image) != 3:
            raise ValueError(f"{path} is no colour image with 8 bits a channel: download it again.")
        if not 1 <= scale <= min(image.shape[1:]):
            raise ValueError(f"{path} of {image.shape[1:]} px cannot be reduced by {scale}.")
        boxes = _fit(known[path.name], image.shape[1:], scale, f"{annotations}, {path.name}")
        # Rows and columns that fill no square are left out.
        height, width = (side // scale * scale for side in image.shape[1:])
        reduced = block_reduce(image[:, :height, :width], (1, scale, scale), np.mean)
        image = np.rint(reduced).astype(np.uint8)
        yield _sample(path.name, image, _paint(boxes, image.shape[1:]), boxes)


def _entries(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read boxes (M, 5) of each image name: class, top, left, bottom, right, px as published."""
    text, entries = path.read_bytes(), {}
    try:
        for entry in json.loads(text):
            name = entry["image_name"] if "image_name" in entry else entry["image"]["pathname"]
            name = name.rpartition("/")[2]
            if name in entries:
                raise ValueError(f"{name} is listed twice")
            boxes = dict.fromkeys(filter(None, map(_box, entry["objects"])))
            entries[name] = np.array(list(boxes), float).reshape(-1, 5)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise ValueError(
            f"{path} is damaged or no list of boxes, at entry {len(entries)} "
            f"({type(e).__name__}: {e}): download it again."
        ) from e
    return entries


def _box(thing: dict[str, Any]) -> tuple[float, ...] | None:
    """Read a box of either format; None for a white cell."""
    kind = thing["type"] if "type" in thing else thing["category"]
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known are {', '.join(KINDS)}")
    if "bbox" in thing:
        left, top, width, height = (float(thing["bbox"][key]) for key in "xywh")
        bottom, right = top + height, left + width
    else:
        corners = thing["bounding_box"]["minimum"], thing["bounding_box"]["maximum"]
        top, left, bottom, right = (float(corner[key]) for corner in corners for key in "rc")
    return None if KINDS[kind] is None else (KINDS[kind], top, left, bottom, right)


def _fit(
    boxes: NDArray[np.float64], shape: tuple[int, ...], scale: int, where: str
) -> NDArray[np.float64]:
    """Check boxes, clip them to the image and reduce them with it."""
    sides = np.array([*shape, *shape])
    corners, lengths = boxes[:, 1:], boxes[:, 3:] - boxes[:, 1:3]
    middles = corners[:, :2] + lengths / 2
    # NaN and infinity fail these comparisons too.
    sound = ((lengths > 0) & (middles > 0) & (middles < shape)).all(1)
    if not sound.all():
        raise ValueError(
            f"{where}: box {sound.argmin()} is empty or not centred on the image of {shape} px: "
            "download both files again."
        )
    fitted = np.c_[boxes[:, 0], corners.clip(0, sides // scale * scale) / scale]
    # A box that lies in rows or columns that fill no square is left out with them.
    return fitted[(fitted[:, 3:] > fitted[:, 1:3]).all(1)]


def _paint(boxes: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Fill boxes, larger ones first, with their numbers in their class."""
    label = np.zeros((len(CLASSES), *shape), np.uint16)
    classes = boxes[:, 0].astype(int)
    numbers = np.tril(classes[:, None] == classes).sum(1)
    areas = (boxes[:, 3:] - boxes[:, 1:3]).prod(1)
    for i in np.argsort(-areas, kind="stable"):
        top, left = np.floor(boxes[i, 1:3]).astype(int)
        bottom, right = np.ceil(boxes[i, 3:]).astype(int)
        label[classes[i], top:bottom, left:right] = numbers[i]
    return label


def _sample(name: str, image: NDArray[np.uint8], label: NDArray[np.uint16], boxes: Any) -> Sample:
    offset, factor = scale_of(image, "standard")
    return Sample(name, image, label, offset.astype("f4"), factor.astype("f4"), boxes.astype("f4"))


def gaps(sample: Sample) -> NDArray[np.float32]:
    """Measure how far each box of a field is from its border: px, float32 (M,).

    It is less than 1 where the border cuts the cell.
    """
    sides = np.array(sample.image.shape[1:], sample.boxes.dtype)
    return np.c_[sample.boxes[:, 1:3], sides - sample.boxes[:, 3:]].min(1)


def elsewhere(sample: Sample) -> Sample:
    """Imitate how another laboratory would photograph a field of three channels of 8 bits.

    Each channel of its camera sees some of its neighbours' light, and its lens is softer by a
    Gaussian of 1 px. The cells are the same; the image is standardised anew.
    """
    light = np.einsum("dc,chw->dhw", OVERLAP, sample.image.astype(np.float32))
    image = np.rint(gaussian_filter(light, (0, 1, 1))).astype(np.uint8)
    return _sample(sample.name, image, sample.label, sample.boxes)


def counted(sample: Sample, edge: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sort the boxes of a field for a fair count of detections.

    Of the cells of IML_Malaria that the border cuts, fewer than half have a box. So detections near
    the border, ``edge`` px wide, count only in the box of a whole infected cell, and infected cells
    that it cuts need not be found. Returns boxes, float32 (M, 4), top, left, bottom, right, px, of
    the infected cells to be found, and those, (P, 4), in which a detection counts neither way:
    difficult cells, infected ones that the border cuts, and the border itself.
    """
    kind, boxes, whole = sample.boxes[:, 0], sample.boxes[:, 1:], gaps(sample) >= 1
    height, width = sample.image.shape[1:]
    border = [
        (0, 0, edge, width), (height - edge, 0, height, width),
        (0, 0, height, edge), (0, width - edge, height, width),
    ]  # fmt: skip
    infected = kind == smear.INFECTED
    unsure = (kind == smear.DIFFICULT) | (infected & ~whole)
    return boxes[infected & whole], np.concatenate([boxes[unsure], np.array(border, boxes.dtype)])


def build(
    path: str | Path, source: str = "simulated", *, subset: str | None = None, scale: int = 2,
    num_images: int = 40, size: int = 512, seed: int = 0, fold: int = 0,
) -> Path:  # fmt: skip
    """Write a dataset with the splits training, validation and testing, and return its path.

    IML_Malaria is split by the numbers of the photographs, in blocks of ten that belong to the
    folds 0 to 4 in turn: ``fold`` is the test, the one after it validation, the others training, so
    that five datasets test each field once. Photographs that follow each other often show
    overlapping parts of a slide (of the 126 looked at, only some one or two numbers apart): what
    is so close to the test is left out, and of training what is so close to validation. The splits
    share their slides, about four by tint and time: the test says nothing of a slide that was
    stained elsewhere.

    Of BBBC041, testing is the published test set; of its training images about one in eight is
    validation, by a checksum of its name. Which of them overlap is not known.

    ``source`` is ``"simulated"``, ``"open"`` (IML_Malaria) or ``"original"`` (BBBC041); ``scale``
    says by how much real images are reduced, see :func:`read`. The rest, and the errors, are as for
    :func:`micranet_helpers.data.em.build`; ValueError is also raised if there is no such fold.
    """
    if fold not in range(FOLDS):
        raise ValueError(f"The fold must be 0 to {FOLDS - 1}, not {fold!r}.")
    # The scale bar of IML_Malaria reads "50 mm": the size of a pixel is not known.
    return sources.write(path, source, {
        "simulated": lambda: sources.simulated(
            num_images, partial(_draw, size, seed), CLASSES, __name__
        ),
        "open": lambda: (
            _open(fetch("pvivax", subset), scale, fold), sources.cited(CLASSES, "pvivax")
        ),
        "original": lambda: (
            _original(*fetch("bbbc041", subset), scale), sources.cited(CLASSES, "bbbc041")
        ),
    }, scaling="standard")  # fmt: skip


def _open(files: list[Path], scale: int, fold: int) -> dict[str, Iterator[Sample]]:
    """Split the fields of IML_Malaria by blocks of their numbers."""
    annotations, *images = files
    paths = {int(path.stem[2:]): path for path in images}
    testing, after = ([n for n in paths if n // 10 % FOLDS == part]
                      for part in (fold, (fold + 1) % FOLDS))  # fmt: skip
    validation = _apart(after, testing)
    splits = {"training": _apart(paths, testing + validation), "validation": validation,
              "testing": testing}  # fmt: skip
    return {split: read(annotations, [paths[n] for n in numbers], scale)
            for split, numbers in splits.items()}  # fmt: skip


def _apart(numbers: Iterable[int], others: Iterable[int]) -> list[int]:
    """Keep the numbers of photographs that may not overlap with others: they are 3 or more away."""
    return [n for n in numbers if all(abs(n - other) > 2 for other in others)]


def _original(folder: Path, scale: int) -> dict[str, Iterator[Sample]]:
    """Split the fields of BBBC041 by its lists, and its training fields by their names."""
    # The archive holds one folder, of any name.
    folder = next((found.parent for found in folder.rglob("training.json")), folder)
    training, test = folder / "training.json", folder / "test.json"
    names = {False: [], True: []}
    for name in _entries(training):
        names[zlib.crc32(name.encode()) % 8 == 0].append(name)

    def chosen(path: Path, names: Iterable[str]) -> Iterator[Sample]:
        return read(path, [folder / "images" / name for name in names], scale)

    return {
        "training": chosen(training, names[False]), "validation": chosen(training, names[True]),
        "testing": chosen(test, _entries(test)),
    }  # fmt: skip


def simulate(n: int, size: int, seed: int = 0) -> list[Sample]:
    """Draw n fields of a thin smear: see :mod:`micranet_helpers.data.simulated.smear`.

    A red cell is 35 px wide, as in IML_Malaria reduced by 2. Images are uint8 (3, size, size),
    labels uint16 (3, size, size): cells with their true outlines, of which the upper hides the
    lower; ``boxes`` bound what is seen. "difficult" are cells with a doubtful mark, and infected
    ones of which the image shows less than half. An image depends on ``size``, ``seed`` and its
    number only.
    """
    return [_draw(size, seed, number) for number in range(n)]


def _draw(size: int, seed: int, number: int) -> Sample:
    if size < 1:
        raise ValueError(f"An image has a side of at least 1 px, not {size}.")
    drawn = smear.draw(np.random.default_rng([seed, number]), size)
    return _sample(f"simulated-{seed}-{number}", *drawn)
