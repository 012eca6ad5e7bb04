"""Read labels of images, and boxes, from CSV files."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from micranet_helpers.data.own.annotations import (
    Annotations,
    Label,
    add,
    distinct,
    number_of,
    reading,
    table,
)
from micranet_helpers.data.own.shapes import Shape, box_of, collect


def read_table(path: str | Path) -> Annotations:
    """Read image-level labels (K,) from a table ``file,class1,class2,…`` of 0 and 1.

    It is CSV, with commas, semicolons or tabs, in UTF-8. An empty cell is an unknown label; an
    image of which nothing is known counts as unlabelled.
    """
    with reading(path) as faults:
        (_, header), *lines = table(path, faults)
        if header[0].casefold() != "file" or not all(header[1:]) or len(header) < 2:
            raise ValueError("the first line must be: file, then the names of the classes.")
        rows: dict[str, Any] = {}
        for number, (name, *values) in lines:
            where = f"line {number}"
            with faults.noted():
                levels = [number_of(value, where) if value else math.nan for value in values]
                if not {level for level in levels if level == level} <= {0, 1}:
                    raise ValueError(f"{where}: write 1 where a class is present and 0 where not.")
                add(rows, name, levels, where)
        known = all(level == level for levels in rows.values() for level in levels)
        images = {key: partial(_levels, levels, np.uint8 if known else np.float32)
                  for key, levels in rows.items() if any(level == level for level in levels)}
        return Annotations(distinct(header[1:]), images)


def _levels(values: Sequence[float], kind: type, height: int, width: int) -> Label:
    return np.array(values, kind), None


def read_boxes(path: str | Path) -> Annotations:
    """Read boxes from a table ``file,class,left,top,right,bottom``, px.

    Labels are filled rectangles, and the boxes, of which only what lies in the image counts. The
    table is CSV, with commas, semicolons or tabs, in UTF-8. Right and bottom are the edges after
    the last pixel. A line with the file and five empty cells names an image without objects.
    Classes are in alphabetical order.
    """
    with reading(path) as faults:
        (_, header), *lines = table(path, faults)
        if ",".join(header).casefold() != "file,class,left,top,right,bottom":
            raise ValueError("the first line must be: file,class,left,top,right,bottom.")
        shapes: dict[str, list[Shape]] = {}
        for number, (name, kind, *edges) in lines:
            found = shapes.setdefault(name, [])
            if any((kind, *edges)):
                with faults.noted():
                    found.append(box_of(kind, *edges, where=f"line {number}"))
        return collect(((name, found, None) for name, found in shapes.items()), faults)
