"""What all readers of labels share: the result, names of files, numbers, and lists of faults.

Every reader returns the names of the classes and, for each image, a function that makes the label
for the image's height and width. It raises FileNotFoundError if what it should read is not there,
and ValueError, which lists all that is wrong, by line, entry or file. Coordinates are those of
edges, as in ImageJ and COCO: the pixel in the corner covers 0 to 1. A pixel belongs to an object if
its centre lies inside.
"""

import csv
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from micranet_helpers.files.images import SUFFIXES
from micranet_helpers.files.microscopes import READERS
from micranet_helpers.files.series import members
from micranet_helpers.files.tables import content, visible

MOST_PIXELS = 10**6  # largest coordinate, px; a larger one is taken for damage
MOST_FAULTS = 20  # that are listed

ENDINGS = ("_cp_masks", "_masks", "_mask", "-mask", "_labels", "_label")
"""What programs, Cellpose and ours among them, add to the name of an image for its mask."""

Label = tuple[NDArray[Any], NDArray[np.float32] | None]


@dataclass(frozen=True)
class Annotations:
    """Hold the labels of a set of images.

    ``images`` maps the file name of each image, with folders and with or without ending, to a
    function of height and width, px. It returns the label, (K,) of 0 and 1, uint8, or, where some
    are unknown, float32 with NaN, or uint16 (K, height, width); and the annotated boxes, float32
    (M, 5) with class, top, left, bottom, right, or None. It raises ValueError if the label does not
    fit that size. ``crops`` holds labels of crops, where there are some: float32 (M, 3 + K) with
    top, left, side and, for each class, 0, 1 or NaN. ``files`` are masks, which are no images even
    if they lie among them.
    """

    classes: tuple[str, ...]
    images: dict[str, Callable[[int, int], Label]]
    crops: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    files: frozenset[Path] = frozenset()


def image_key(name: str) -> str:
    """Write a file name as the keys of :class:`Annotations` are: ``/``, composed accents."""
    return normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def image_files(folder: str | Path, more: Iterable[str] = ()) -> list[Path]:
    """List the image files, or those of ``more`` endings, of a folder and its sub-folders, sorted.

    Hidden ones are left out, and masks beside their images: ``a_masks.png`` beside ``a.tif``.
    """
    known = {*SUFFIXES, *more}
    found = [path for path in files_of(folder) if path.suffix.lower() in known]
    names = {path: path.stem.removesuffix(".ome") for path in found}
    images = {(path.parent, name) for path, name in names.items()}
    return [path for path, name in names.items()
            if of_image(name) == name or (path.parent, of_image(name)) not in images]  # fmt: skip


def of_image(name: str) -> str:
    """Find the name of the image, without ending, of a mask."""
    name = name.removesuffix(".ome")
    return next((name[: -len(end)] for end in ENDINGS if name.endswith(end)), name)


def planes_of(folder: str | Path) -> list[Path]:
    """List the images of a folder, those of microscopes, too, and the members of each stack."""
    return [plane for path in image_files(folder, READERS) for plane in members(path)]


def files_of(folder: str | Path) -> list[Path]:
    """List the files, ``.zarr`` folders too, of a folder and its sub-folders, but no hidden one."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: check the path.")
    found = []
    for place, folders, names in os.walk(folder):
        shown = [Path(place, name) for name in (*folders, *names) if name[0] != "."]
        zarrs = [path for path in shown if path.suffix.lower() == ".zarr" and path.is_dir()]
        found += [*zarrs, *filter(Path.is_file, shown)]
        folders[:] = [path.name for path in shown if path.is_dir() and path not in zarrs]
    return sorted(found)


class Faults(list):
    """Collect what is wrong in a file, so that all of it can be said at once."""

    @contextmanager
    def noted(self, where: str = "it") -> Iterator[None]:
        """Note what goes wrong in an entry, and go on with the next one."""
        try:
            yield
        except ValueError as error:
            self.append(str(error))
        except KeyError as error:
            self.append(f"{where} lacks {error}.")
        except Exception as error:  # damaged files make the libraries raise anything
            self.append(f"{where} is not of the expected form ({error}).")

    def __str__(self) -> str:
        more = len(self) - MOST_FAULTS
        shown = [*self[:MOST_FAULTS], *([f"… and {more} more."] if more > 0 else [])]
        return f" {self[0]}" if len(self) == 1 else "".join(f"\n- {fault}" for fault in shown)


@contextmanager
def reading(path: str | Path) -> Iterator[Faults]:
    """Turn whatever goes wrong while a file is read into one clear error."""
    if not Path(path).expanduser().is_file():
        raise FileNotFoundError(f"There is no file {path}: check the path.")
    faults = Faults()
    with faults.noted():
        yield faults
    if faults:
        raise ValueError(visible(f"{path} cannot be used, correct or export it again:{faults}"))


def text_of(path: str | Path) -> str:
    """Read a text in UTF-8."""
    try:
        return Path(path).expanduser().read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8: save it as 'CSV UTF-8'.") from None


def table(path: str | Path, faults: Faults) -> list[tuple[int, list[str]]]:
    """Read the lines of a CSV file and their numbers, all as long as the first; skip empty ones."""
    lines = text_of(path).splitlines()
    if lines and lines[0].startswith("sep="):  # a hint for Excel
        lines[0] = ""
    first = next((line for line in lines if line.strip()), "")
    rows = csv.reader(lines, delimiter=delimiter_of(first), strict=True)
    found = [(rows.line_num, [content(cell.strip()) for cell in row]) for row in rows if any(row)]
    used = max((i + 1 for _, row in found for i, cell in enumerate(row) if cell), default=0)
    found = [(number, row[:used]) for number, row in found]  # Excel keeps emptied columns
    length = len(found[0][1]) if found else 0
    faults += [f"line {number} has {len(row)} cells, the first {length}."
               for number, row in found if len(row) != length]
    if len(found) < 2:
        raise ValueError("it has no line after the header.")
    return [(number, row) for number, row in found if len(row) == length]


def delimiter_of(line: str) -> str:
    """Find what is between the cells of a line: comma, semicolon or tab."""
    return max(",;\t", key=line.count)


def number_of(value: Any, where: str) -> float:
    """Read a coordinate or another finite number of usual size."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= MOST_PIXELS:
        raise ValueError(f"{where}: {value!r:.40} is no usable number.")
    return number


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Check the names of classes; one name in two spellings of Unicode is one name."""
    classes = tuple(normalize("NFC", name) for name in names)
    if not classes or len({name.casefold() for name in classes}) != len(classes):
        raise ValueError(f"give each class a name of its own, not {classes}.")
    return classes


def add(images: dict[str, Any], name: str, label: Any, where: str) -> None:
    """Add the label of an image that was not named before."""
    key = image_key(name)
    if not key or key in images:
        raise ValueError(f"{where} names no image, or one that was named before: {name!r}.")
    images[key] = label
