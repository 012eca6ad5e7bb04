"""Read labels of images: tables, masks, boxes, COCO files and ImageJ ROIs.

Every reader returns the names of the classes and, for each image, a function that makes the label
for the image's height and width. It raises FileNotFoundError if what it should read is not there,
and ValueError, which names the line, entry or file, if something is wrong in it. Coordinates are
those of edges, as in ImageJ and COCO: the pixel in the corner covers 0 to 1. A pixel belongs to an
object if its centre lies inside. Where objects of one class overlap, the later one has the pixel.
"""

import csv
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import roifile
from numpy.typing import NDArray
from skimage import draw, measure

from micranet_helpers.files.images import SUFFIXES, read_mask

MOST_BYTES = 2**28  # of the unpacked ROIs of an image
MOST_PIXELS = 10**6  # largest coordinate, px; a larger one is taken for damage

Label = tuple[NDArray[Any], NDArray[np.float32] | None]


@dataclass(frozen=True)
class Annotations:
    """Hold the labels of a set of images.

    ``images`` maps the file name of each image, with folders and with or without ending, to a
    function of height and width, px. It returns the label, uint8 (K,) or uint16 (K, height, width),
    and the annotated boxes, float32 (M, 5) with class, top, left, bottom, right, or None. It raises
    ValueError if the label does not fit that size. ``crops`` holds labels of crops, where there are
    some: float32 (M, 3 + K) with top, left, side and, for each class, 0, 1 or NaN.
    """

    classes: tuple[str, ...]
    images: dict[str, Callable[[int, int], Label]]
    crops: dict[str, NDArray[np.float32]] = field(default_factory=dict)


class _Shape(NamedTuple):
    kind: str
    loops: list[NDArray[np.float64]]  # outlines, (P, 2): row, column
    box: tuple[float, ...] | None = None  # top, left, bottom, right
    holes: bool = False  # an outline within another is a hole


def image_key(name: str) -> str:
    """Write a file name as the keys of :class:`Annotations` are: ``/``, composed accents."""
    return normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def read_table(path: str | Path) -> Annotations:
    """Read image-level labels (K,) from a table ``file,class1,class2,…`` of 0 and 1.

    It is CSV, with commas, semicolons or tabs, in UTF-8.
    """
    with _reading(path):
        (_, header), *lines = _table(path)
        if header[0].casefold() != "file" or not all(header[1:]) or len(header) < 2:
            raise ValueError("the first line must be: file, then the names of the classes.")
        images: dict[str, Any] = {}
        for number, (name, *values) in lines:
            where = f"line {number}"
            levels = [_number(value, where) for value in values]
            if not set(levels) <= {0, 1}:
                raise ValueError(f"{where}: write 1 where a class is present and 0 where not.")
            _add(images, name, partial(_levels, levels), where)
        return Annotations(_distinct(header[1:]), images)


def _levels(values: Sequence[float], height: int, width: int) -> Label:
    return np.array(values, np.uint8), None


def read_masks(
    folder: str | Path, classes: Sequence[str], instances: bool = False
) -> Annotations:
    """Read masks: images of the same names, endings aside, in a folder of their own.

    Parameters
    ----------
    folder : path
        Holds the masks. Keep it outside the folder of the images.
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
        If there is no such folder, it holds no image, or ``instances`` comes with more classes.
    """
    files = image_files(folder)
    if not files or (instances and len(classes) != 1):
        raise ValueError(
            f"{folder} must hold masks (TIFF, PNG, …), and numbers of objects need one class."
        )
    images: dict[str, Any] = {}
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix().removesuffix(".ome")
        _add(images, name, partial(_mask, path, len(classes), instances), f"the mask {path.name}")
    return Annotations(_distinct(classes), images)


def _mask(path: Path, count: int, instances: bool, height: int, width: int) -> Label:
    """Read a mask as planes of numbered objects."""
    mask = read_mask(path)
    if mask.shape != (height, width):
        raise ValueError(f"{path} is {mask.shape}, its image ({height}, {width}): make them alike.")
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


def read_boxes(path: str | Path) -> Annotations:
    """Read boxes from a table ``file,class,left,top,right,bottom``, px.

    Labels are filled rectangles, and the boxes. The table is CSV, with commas, semicolons or tabs,
    in UTF-8. Right and bottom are the edges after the last pixel. A line with the file and five
    empty cells names an image without objects. Classes are in alphabetical order.
    """
    with _reading(path):
        (_, header), *lines = _table(path)
        if ",".join(header).casefold() != "file,class,left,top,right,bottom":
            raise ValueError("the first line must be: file,class,left,top,right,bottom.")
        shapes: dict[str, list[_Shape]] = {}
        for number, (name, kind, *edges) in lines:
            found = shapes.setdefault(name, [])
            if any((kind, *edges)):
                found.append(_box(kind, *edges, where=f"line {number}"))
        return _collect((name, found, None) for name, found in shapes.items())


def read_coco(path: str | Path) -> Annotations:
    """Read boxes and polygons from a COCO file.

    It is JSON with ``images``, ``categories`` and ``annotations``; no run-length encoding. Labels
    are polygons where there are some, else filled rectangles; and the boxes. Classes are in the
    order of the categories.
    """
    with _reading(path):
        content = json.loads(_text(path))
        kinds = {item["id"]: str(item["name"]) for item in content["categories"]}
        files = {item["id"]: item for item in content["images"]}
        if len(kinds) < len(content["categories"]) or len(files) < len(content["images"]):
            raise ValueError("two categories or images have the same id.")
        shapes: dict[Any, list[_Shape]] = {number: [] for number in files}
        for item in content["annotations"]:
            where = f"annotation {item.get('id')}"
            if item["image_id"] not in files or item["category_id"] not in kinds:
                raise ValueError(f"{where} names an image or category that the file does not list.")
            shapes[item["image_id"]].append(_coco_shape(item, kinds[item["category_id"]], where))
        return _collect(
            ((str(item["file_name"]), shapes[number],
              (item["height"], item["width"]) if item.get("height") and item.get("width") else None)
             for number, item in files.items()),
            kinds.values(),
        )


def _coco_shape(item: dict[str, Any], kind: str, where: str) -> _Shape:
    """Read an annotation: its polygons, or else its box."""
    parts = item.get("segmentation") or []
    if not isinstance(parts, list):
        raise ValueError(f"{where} is run-length encoded: export polygons or masks instead.")
    loops = []
    for part in parts:
        if len(part) % 2:
            raise ValueError(f"{where} has a coordinate too much.")
        loops.append(_loop(zip(part[::2], part[1::2], strict=True), where))
    left, top, width, height = (_number(value, where) for value in item["bbox"])
    box = _box(kind, left, top, left + width, top + height, where=where)
    return box._replace(loops=loops) if loops else box


def read_rois(folder: str | Path, kind: str | None = None) -> Annotations:
    """Read ImageJ ROIs: ``NAME.zip`` of the ROI manager, or ``NAME.roi``, of an image ``NAME``.

    Rectangles, ovals, polygons, freehand and compound areas are read, with holes.

    Parameters
    ----------
    folder : path
        Holds the ROI files.
    kind : str, optional
        The class of all ROIs. By default it is the name of the ROI up to the first ``-``. An
        image without objects needs a ``NAME.zip`` that holds nothing, or a table of labels.

    Returns
    -------
    Annotations
        Filled areas. Classes are in alphabetical order.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder or file in it, a file is damaged, or a ROI is no area or has
        only the name that ImageJ gave it.
    """
    found = []
    for path in _files(folder):
        if path.suffix.lower() in (".zip", ".roi"):
            with _reading(path):
                name = path.relative_to(folder).with_suffix("").as_posix()
                shapes = [_roi(path, roi, data, kind) for roi, data in _roi_files(path)]
                found.append((name, shapes, None))
    if not found:
        raise FileNotFoundError(f"{folder} holds no .zip or .roi: check the path.")
    return _collect(found)


def _roi_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read names and contents of the ROIs of a file."""
    if path.suffix.lower() == ".roi":
        yield path.stem, path.read_bytes()
        return
    with zipfile.ZipFile(path) as archive:
        # Macs add a hidden twin "._NAME" to each file.
        members = [item for item in archive.infolist() if item.filename.lower().endswith(".roi")
                   and not Path(item.filename).name.startswith("._")]
        if len(members) < len(archive.infolist()) and not members:
            raise ValueError("it holds no .roi file.")
        if sum(item.file_size for item in members) > MOST_BYTES:
            raise ValueError("it unpacks to more than 256 MiB.")
        for item in members:
            yield Path(item.filename).stem, archive.read(item)


def _roi(path: Path, name: str, data: bytes, kind: str | None) -> _Shape:
    """Read a ROI that is an area and names its class."""
    roi = roifile.ImagejRoi.frombytes(data)
    where = f"the ROI {roi.name or name}"
    areas = {"POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED"}
    if roi.roitype.name not in areas or roi.subtype.name in ("TEXT", "IMAGE"):
        raise ValueError(f"{where} is no area: outline the object instead.")
    # ImageJ names an unnamed ROI by its place, and a single one by its file.
    own_name = roi.name or (name if path.suffix.lower() == ".zip" else "")
    kind = kind or ("" if own_name == path.stem else own_name.split("-")[0].strip())
    if not kind or kind.isdecimal():
        raise ValueError(f"{where} names no class: rename it 'class-1', or pass kind='class'.")
    if roi.subpixelrect and roi.roitype.name in ("RECT", "OVAL"):
        edges = [[roi.xd, roi.yd], [roi.xd + roi.widthd, roi.yd + roi.heightd]]
    else:
        edges = [[roi.left, roi.top], [roi.right, roi.bottom]]
    if roi.roitype.name == "OVAL":
        angle, ends = np.linspace(0, 2 * np.pi, 128, endpoint=False), np.asarray(edges)
        circle = np.column_stack([np.cos(angle), np.sin(angle)])
        paths = [ends.mean(0) + circle * np.ptp(ends, 0) / 2]
    elif roi.roitype.name == "RECT" and not roi.composite:
        (left, top), (right, bottom) = edges
        paths = [[(left, top), (right, top), (right, bottom), (left, bottom)]]
    else:
        paths = roi.coordinates(multi=True)
    return _Shape(kind, [_loop(loop, where) for loop in paths or [()]], holes=True)


# --- shared ------------------------------------------------------------------------------------


def image_files(folder: str | Path) -> list[Path]:
    """List the image files of a folder and its sub-folders, sorted, hidden ones left out."""
    return [path for path in _files(folder) if path.suffix.lower() in SUFFIXES]


def _files(folder: str | Path) -> list[Path]:
    """List the files of a folder and its sub-folders, but none that is in a hidden one."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: check the path.")
    return [path for path in sorted(Path(folder).rglob("*")) if path.is_file()
            and not any(part[0] == "." for part in path.relative_to(folder).parts)]


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one clear sentence."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}: check the path.")
    try:
        yield
    except Exception as error:  # damaged files make the libraries raise anything
        if isinstance(error, ValueError):
            reason = str(error)
        elif isinstance(error, KeyError):
            reason = f"it lacks {error}."
        else:
            reason = f"it is not of the expected form ({error})."
        raise ValueError(f"{path} cannot be used, correct or export it again: {reason}") from error


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8: save it as 'CSV UTF-8'.") from None


def _table(path: str | Path) -> list[tuple[int, list[str]]]:
    """Read the lines of a CSV file and their numbers, all as long as the first; skip empty ones."""
    lines = _text(path).splitlines()
    if lines and lines[0].startswith("sep="):  # a hint for Excel
        lines[0] = ""
    first = next((line for line in lines if line.strip()), "")
    rows = csv.reader(lines, delimiter=max(",;\t", key=first.count), strict=True)
    table = [(rows.line_num, [cell.strip() for cell in row]) for row in rows if any(row)]
    used = max((i + 1 for _, row in table for i, cell in enumerate(row) if cell), default=0)
    table = [(number, row[:used]) for number, row in table]  # Excel keeps emptied columns
    for number, row in table:
        if len(row) != len(table[0][1]):
            raise ValueError(f"line {number} has {len(row)} cells, the first {len(table[0][1])}.")
    if len(table) < 2:
        raise ValueError("it has no line after the header.")
    return table


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= MOST_PIXELS:
        raise ValueError(f"{where}: {value!r:.40} is no usable number.")
    return number


def _loop(points: Iterable[Any], where: str) -> NDArray[np.float64]:
    loop = [(_number(y, where), _number(x, where)) for x, y in points]
    if len(loop) < 3:
        raise ValueError(f"{where} has {len(loop)} corners: an outline needs three.")
    return np.asarray(loop)


def _box(kind: str, left: Any, top: Any, right: Any, bottom: Any, where: str) -> _Shape:
    left, top, right, bottom = (_number(edge, where) for edge in (left, top, right, bottom))
    if not kind.strip() or right <= left or bottom <= top:
        raise ValueError(f"{where}: a box needs a class, left < right and top < bottom.")
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return _Shape(kind.strip(), [np.asarray(corners)], (top, left, bottom, right))


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    classes = tuple(names)
    if not classes or len({name.casefold() for name in classes}) != len(classes):
        raise ValueError(f"give each class a name of its own, not {classes}.")
    return classes


def _add(images: dict[str, Any], name: str, label: Any, where: str) -> None:
    key = image_key(name)
    if not key or key in images:
        raise ValueError(f"{where} names no image, or one that was named before: {name!r}.")
    images[key] = label


def _collect(
    found: Iterable[tuple[str, list[_Shape], Any]], classes: Iterable[str] = ()
) -> Annotations:
    """Make annotations of the names, shapes and, if known, sizes of images."""
    found = list(found)
    kinds = {shape.kind for _, shapes, _ in found for shape in shapes}
    names = _distinct(classes or sorted(kinds))
    images: dict[str, Any] = {}
    for name, shapes, size in found:
        _add(images, name, partial(_draw, name, shapes, size, names), name)
    return Annotations(names, images)


def _draw(
    name: str, shapes: list[_Shape], size: Any, classes: tuple[str, ...], height: int, width: int
) -> Label:
    """Fill the shapes of an image and list their boxes."""
    if size not in (None, (height, width)):
        raise ValueError(
            f"{name} was annotated as {size}, but its image is {(height, width)} (height, width)."
        )
    if len(shapes) >= 2**16:
        raise ValueError(f"{name} has {len(shapes)} objects, which is too much: cut the image.")
    label = np.zeros((len(classes), height, width), np.uint16)
    boxes = []
    for shape in shapes:
        kind = classes.index(shape.kind)
        inside = _inside(shape, (height, width))
        corners = np.concatenate(shape.loops)
        beyond = max(-corners.min(), *(corners.max(0) - inside.shape)) if shape.box else 0
        if not inside.any() or beyond > 1:
            raise ValueError(
                f"{name}: the {shape.kind} at row {corners[0, 0]:g}, column {corners[0, 1]:g} "
                "lies outside the image or covers no pixel."
            )
        label[kind][inside] = label[kind].max() + 1
        if shape.box:
            boxes.append((kind, *np.clip(shape.box, 0, (height, width) * 2)))
    with_boxes = any(shape.box for shape in shapes)
    return label, np.asarray(boxes, np.float32).reshape(-1, 5) if with_boxes else None


def _inside(shape: _Shape, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Mark the pixels whose centres lie in a shape."""
    inside = np.zeros(size, bool)
    for loop in shape.loops:
        # A centre on an edge belongs to the shape that begins there: one of two that touch.
        pixels = draw.polygon(*(loop.T - 0.5 - 1e-6), shape=size)
        inside[pixels] = ~inside[pixels] if shape.holes else True
    return inside
