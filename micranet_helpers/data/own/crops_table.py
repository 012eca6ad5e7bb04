"""Read and write labels of crops: a table ``file,top,left,side,class1,class2,…``.

It is CSV, like a table of image-level labels. A line is a square of an image, px; a class is 1, 0
or, where nobody knows, empty. Images are not cut, so that each is scaled as a whole.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micranet_helpers.data.own.annotations import (
    Annotations,
    Label,
    distinct,
    image_key,
    reading,
    table,
)
from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.files.tables import cell

HEADER = ("file", "top", "left", "side")


def read_crops(path: str | Path) -> Annotations:
    """Read labels of crops from a table; survey and build take them like other annotations.

    The image-level label of an image is 1 for the classes that one of its crops shows. Raises
    FileNotFoundError, or ValueError, which names the line, as the other readers do.
    """
    with reading(path) as faults:
        (_, header), *lines = table(path, faults)
        if "answer" in header:
            raise ValueError(
                "these are answers, not labels of crops: give the table that the chapter on "
                "labelling made of them, crops.csv beside it."
            )
        if tuple(name.casefold() for name in header[:4]) != HEADER or not all(header[4:] or [""]):
            raise ValueError("the first line must be: file,top,left,side, then the classes.")
        crops: dict[str, dict[tuple, list[float]]] = {}
        for number, (name, *cells) in lines:
            with faults.noted():
                place, labels = _crop(cells, f"line {number}")
                known = crops.setdefault(image_key(name), {})
                if known.setdefault(place, labels) is not labels:
                    raise ValueError(f"line {number}: this crop was named before: keep one.")
        arrays = {name: np.array([[*place, *labels] for place, labels in found.items()], np.float32)
                  for name, found in crops.items()}  # fmt: skip
        images = {name: partial(_present, rows) for name, rows in arrays.items()}
        return Annotations(distinct(header[4:]), images, arrays)


def _crop(cells: Sequence[str], where: str) -> tuple[tuple[int, ...], list[float]]:
    *place, side = (int(each) if each.isdecimal() else -1 for each in cells[:3])
    if min(*place, side - 1) < 0 or max(*place, side) >= 2**24:
        raise ValueError(f"{where}: top, left and side must be whole numbers of px.")
    if not {*cells[3:]} <= {"", "0", "1"}:
        raise ValueError(f"{where}: write 1, 0 or nothing, where nobody knows, for each class.")
    return (*place, side), [float(each or "nan") for each in cells[3:]]


def _present(rows: NDArray[np.float32], height: int, width: int) -> Label:
    if (rows[:, :2] >= (height, width)).any():
        raise ValueError(f"a crop begins outside the image, which is {height} × {width} px.")
    return (rows[:, 3:] == 1).any(0).astype(np.uint8), None


def write_crops(
    path: str | Path, labels: Mapping[str, NDArray[np.float32]], classes: Sequence[str], side: int
) -> None:
    """Write the known labels of crops that lie side by side, (rows, columns, K), by file name."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(map(cell, (*HEADER, *classes)))
    for file, grid in labels.items():
        for row, column in np.argwhere(~np.isnan(grid).all(-1)).tolist():
            cells = ["" if np.isnan(value) else int(value) for value in grid[row, column]]
            rows.writerow((cell(file), row * side, column * side, side, *cells))
    write_atomically(Path(path), text.getvalue().encode())
