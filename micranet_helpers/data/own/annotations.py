"""Read labels of images: tables, folders, masks, boxes, polygons and ImageJ ROIs.

Every reader returns the same: the names of the classes and, for each image, a function that
makes the label for the image's height and width. Coordinates are those of edges, as in ImageJ and
COCO: the pixel in the corner covers 0 to 1. A pixel belongs to an object if its centre lies
inside. Where objects of one class overlap, the later one has the pixel.
"""

import csv
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import defusedxml.ElementTree
import numpy as np
import roifile
from numpy.typing import NDArray
from skimage import draw, measure

from micranet_helpers.files.images import SUFFIXES, read_mask

MOST_BYTES = 2**28
"""Most bytes of an annotation file."""

MOST_PIXELS = 10**6
"""Largest coordinate, px; a larger one is taken for damage."""

Label = tuple[NDArray[Any], NDArray[np.float32] | None]


@dataclass(frozen=True)
class Annotations:
    """Labels of a set of images.

    Attributes
    ----------
    classes : tuple of str
        Names of the K classes.
    images : dict of str to function
        By file name of the image, with folders and with or without ending. The function takes
        height and width, px, and returns the label, uint8 (K,) or uint16 (K, height, width), and
        the annotated boxes, float32 (M, 5) with class, top, left, bottom, right, or None. It
        raises ValueError if the label does not fit that size.
    """

    classes: tuple[str, ...]
    images: dict[str, Callable[[int, int], Label]]


class _Shape(NamedTuple):
    kind: str
    loops: list[NDArray[np.float64]]  # outlines, (P, 2): row, column
    box: tuple[float, ...] | None = None  # top, left, bottom, right
    holes: bool = False  # an outline within another is a hole


def image_key(name: str) -> str:
    """Write a file name as the keys of :class:`Annotations` are: ``/``, composed accents."""
    return normalize("NFC", name.replace("\\", "/")).removeprefix("./")


# --- image-level labels ------------------------------------------------------------------------


def read_table(path: str | Path) -> Annotations:
    """Read image-level labels from a table ``file,class1,class2,…`` of 0 and 1.

    Parameters
    ----------
    path : path
        CSV, with commas, semicolons or tabs, in UTF-8.

    Returns
    -------
    Annotations
        One label (K,) for each file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or a line of it is wrong.
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
            _add(images, name, _levels(levels), where)
        return Annotations(_distinct(header[1:]), images)


def read_folders(folder: str | Path) -> Annotations:
    """Read image-level labels from sub-folders named after the classes.

    Each file is an image of one class. Images in a folder ``none`` or ``negative`` show no class.
    For images of several classes use a table: copies in two folders count as a contradiction.

    Parameters
    ----------
    folder : path
        Holds the sub-folders.

    Returns
    -------
    Annotations
        Keys are ``sub-folder/file``.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder, or it has no sub-folder with images.
    """
    files = [path.relative_to(_folder(folder)) for path in image_files(folder)]
    kinds = {path.parts[0] for path in files if len(path.parts) > 1}
    classes = tuple(sorted(kind for kind in kinds if kind.casefold() not in ("none", "negative")))
    if not classes:
        raise ValueError(f"{folder} has no sub-folders with images: make one for each class.")
    images = {
        image_key(path.as_posix()): _levels([path.parts[0] == kind for kind in classes])
        for path in files if len(path.parts) > 1
    }
    return Annotations(classes, images)


def _levels(values: Iterable[Any]) -> Callable[[int, int], Label]:
    label = np.asarray([*values], np.uint8)
    return lambda height, width: (label.copy(), None)


# --- masks -------------------------------------------------------------------------------------


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
        but 0, often 255.
        Connected pixels, corners included, are one object.
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
    found = np.unique(ids[ids > 0])
    if found.size >= 2**16:
        raise ValueError(f"A mask with {found.size} objects is too much: cut the image.")
    return np.searchsorted(found, ids, "right").astype(np.uint16)


# --- boxes -------------------------------------------------------------------------------------


def read_boxes(path: str | Path) -> Annotations:
    """Read boxes from a table ``file,class,left,top,right,bottom``, px.

    Parameters
    ----------
    path : path
        CSV, with commas, semicolons or tabs, in UTF-8. Right and bottom are the edges after the
        last pixel. A line with the file and five empty cells names an image without objects.

    Returns
    -------
    Annotations
        Filled rectangles, and the boxes. Classes are in the order of the alphabet.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or a line of it is wrong.
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


def read_voc(folder: str | Path) -> Annotations:
    """Read boxes from the XML files of Pascal VOC, as LabelImg or CVAT write them.

    Parameters
    ----------
    folder : path
        Holds one ``.xml`` for each image, of the same name. The numbers are taken as edges; tools
        that count pixels from 1 are off by one.

    Returns
    -------
    Annotations
        Filled rectangles, and the boxes. Classes are in the order of the alphabet.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder or file in it, or a file is wrong.
    """
    def one(path: Path) -> tuple[list[_Shape], tuple[float, ...] | None]:
        root = defusedxml.ElementTree.fromstring(path.read_bytes())
        if root.tag != "annotation":
            raise ValueError("its outermost tag is not <annotation>.")
        shapes = []
        tags = ("xmin", "ymin", "xmax", "ymax")
        for number, item in enumerate(root.iter("object"), 1):
            edges = [item.findtext(f"bndbox/{tag}", "") for tag in tags]
            shapes.append(_box(item.findtext("name", ""), *edges, where=f"object {number}"))
        size = [root.findtext(f"size/{side}") for side in ("height", "width")]
        size = [_number(number or 0, "size") for number in size]
        return shapes, tuple(size) if all(size) else None

    return _each(folder, (".xml",), one)


def read_coco(path: str | Path) -> Annotations:
    """Read boxes and polygons from a COCO file.

    Parameters
    ----------
    path : path
        JSON with ``images``, ``categories`` and ``annotations``.

    Returns
    -------
    Annotations
        Polygons where there are some, else filled rectangles; and the boxes. Classes are in the
        order of the categories.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or an entry is wrong, or a segmentation is run-length encoded.
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


# --- polygons ----------------------------------------------------------------------------------


def read_polygons(path: str | Path) -> list[tuple[int, NDArray[np.float64]]]:
    """Read polygons from lines ``number (x, y), (x, y), …``, as of STEDActinFCN.

    Parameters
    ----------
    path : path
        Text file.

    Returns
    -------
    list of (int, ndarray)
        The number of the class and the corners, float64 (P, 2), row and column, px.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or a line of it is wrong.
    """
    with _reading(path):
        return _polygons(path)


def _polygons(path: str | Path) -> list[tuple[int, NDArray[np.float64]]]:
    polygons = []
    point = r"\(([^(),]*),([^(),]*)\)"
    for number, line in enumerate(_text(path).splitlines(), 1):
        kind, _, points = line.strip().partition(" ")
        if not kind:
            continue
        if not re.fullmatch("[0-9]{1,3}", kind) or re.sub(point, "", points).strip(", "):
            raise ValueError(f"line {number} is not of the form: 0 (x, y), (x, y), (x, y)")
        polygons.append((int(kind), _loop(re.findall(point, points), f"line {number}")))
    return polygons


def read_polygon_files(folder: str | Path, classes: Sequence[str]) -> Annotations:
    """Read the polygons ``NAME.polys.txt`` of a folder of images.

    Parameters
    ----------
    folder : path
        Holds one file for each image, of the same name.
    classes : sequence of str
        Names of the numbers 0, 1, …

    Returns
    -------
    Annotations
        Filled polygons.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder or file in it, or a line is wrong.
    """
    def one(path: Path) -> tuple[list[_Shape], None]:
        polygons = _polygons(path)
        if any(kind >= len(classes) for kind, _ in polygons):
            raise ValueError(f"a number is {len(classes)} or more: name all classes.")
        return [_Shape(classes[kind], [loop]) for kind, loop in polygons], None

    return _each(folder, (".polys.txt",), one, classes)


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
        Filled areas. Classes are in the order of the alphabet.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder or file in it, a file is damaged, or a ROI is no area or has
        only the name that ImageJ gave it.
    """
    def one(path: Path) -> tuple[list[_Shape], None]:
        return [_roi(path, name, data, kind) for name, data in _roi_files(path)], None

    return _each(folder, (".zip", ".roi"), one)


def _roi_files(path: Path) -> Iterator[tuple[str, bytes]]:
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
    return _Shape(kind, [_loop(path, where) for path in paths or [()]], holes=True)


# --- shared ------------------------------------------------------------------------------------


def image_files(folder: str | Path) -> list[Path]:
    """List the image files of a folder and its sub-folders, sorted, hidden ones left out.

    Parameters
    ----------
    folder : path
        The folder.

    Returns
    -------
    list of Path
        Files with the usual endings; see :data:`micranet_helpers.files.images.SUFFIXES`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    return [path for path in _files(folder) if path.suffix.lower() in SUFFIXES]


def _files(folder: str | Path) -> list[Path]:
    """All files of a folder and its sub-folders, without hidden ones and what is in hidden ones."""
    return [path for path in sorted(_folder(folder).rglob("*")) if path.is_file()
            and not any(part[0] == "." for part in path.relative_to(folder).parts)]


def _folder(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: check the path.")
    return Path(folder)


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}: check the path.")
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise ValueError("it has more than 256 MiB: split it.")
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
    """Lines of a CSV file with their numbers, all as long as the first; empty ones left out."""
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


def _each(
    folder: str | Path, endings: tuple[str, ...], one: Callable[[Path], tuple[list[_Shape], Any]],
    classes: Iterable[str] = (),
) -> Annotations:
    """Read the files of a folder that belong to images of the same name."""
    found = []
    for path in _files(folder):
        ending = next((end for end in endings if path.name.lower().endswith(end)), None)
        if ending:
            with _reading(path):
                name = path.relative_to(folder).as_posix()[: -len(ending)]
                found.append((name, *one(path)))
    if not found:
        raise FileNotFoundError(f"{folder} holds no {' or '.join(endings)}: check the path.")
    return _collect(found, classes)


def _collect(
    found: Iterable[tuple[str, list[_Shape], Any]], classes: Iterable[str] = ()
) -> Annotations:
    found = list(found)
    kinds = {shape.kind for _, shapes, _ in found for shape in shapes}
    names = _distinct(classes or sorted(kinds))
    images: dict[str, Any] = {}
    for name, shapes, size in found:
        _add(images, name, partial(_draw, name, shapes, size, names), name)
    return Annotations(names, images)


def filled(
    corners: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the pixels whose centres lie in a polygon.

    Parameters
    ----------
    corners : ndarray, float64, (P, 2)
        Row and column of each corner, px; the pixel in the corner of the image covers 0 to 1.
    shape : (int, int)
        Height and width of the image, px.

    Returns
    -------
    rows, columns : ndarray, int64, (M,)
        To index an image with. A centre on an edge belongs to the shape that begins there, so of
        two shapes that touch only one has it.
    """
    return draw.polygon(*(corners.T - 0.5 - 1e-6), shape=shape)


def _draw(
    name: str, shapes: list[_Shape], size: Any, classes: tuple[str, ...], height: int, width: int
) -> Label:
    if size not in (None, (height, width)):
        raise ValueError(
            f"{name} was annotated as {size}, but its image is {(height, width)} (height, width)."
        )
    if len(shapes) >= 2**16:
        raise ValueError(f"{name} has {len(shapes)} objects, which is too much: cut the image.")
    label = np.zeros((len(classes), height, width), np.uint16)
    boxes = []
    for shape in shapes:
        plane, corners = label[classes.index(shape.kind)], np.concatenate(shape.loops)
        inside = np.zeros(plane.shape, bool)
        for loop in shape.loops:
            pixels = filled(loop, plane.shape)
            inside[pixels] = ~inside[pixels] if shape.holes else True
        beyond = max(-corners.min(), *(corners.max(0) - plane.shape)) if shape.box else 0
        if not inside.any() or beyond > 1:
            raise ValueError(
                f"{name}: the {shape.kind} at row {corners[0, 0]:g}, column {corners[0, 1]:g} "
                "lies outside the image or covers no pixel."
            )
        plane[inside] = plane.max() + 1
        if shape.box:
            edges = np.clip(shape.box, 0, (height, width) * 2)
            boxes.append((classes.index(shape.kind), *edges))
    with_boxes = any(shape.box for shape in shapes)
    return label, np.asarray(boxes, np.float32).reshape(-1, 5) if with_boxes else None
