"""Read outlines made with labelme."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from micranet_helpers.data.own.annotations import (
    Annotations,
    Faults,
    files_of,
    number_of,
    reading,
    text_of,
)
from micranet_helpers.data.own.shapes import Shape, box_of, collect, loop_of


def read_labelme(folder: str | Path) -> Annotations:
    """Read the JSON files of labelme: ``NAME.json`` has the outlines of the image ``NAME``.

    Polygons, rectangles and circles are read; points and lines, which are no areas, are refused.
    Classes are the labels, in alphabetical order. Raises FileNotFoundError or ValueError if there
    is no such file in the folder, or one is damaged.
    """
    found, folder = [], Path(folder).expanduser()
    for path in files_of(folder):
        if path.suffix.lower() == ".json":
            with reading(path) as faults:
                content = json.loads(text_of(path))
                shapes = []
                for number, item in enumerate(content["shapes"], 1):
                    with faults.noted(f"shape {number}"):
                        shapes.append(_shape(item, f"shape {number}"))
                sides = content.get("imageHeight"), content.get("imageWidth")
                name = path.relative_to(folder).with_suffix("").as_posix()
                found.append((name, shapes, sides if all(sides) else None))
    if not found:
        raise FileNotFoundError(f"{folder} holds no .json of labelme: check the path.")
    return collect(found, Faults())


def _shape(item: dict[str, Any], where: str) -> Shape:
    kind, points, form = str(item["label"]).strip(), item["points"], item.get("shape_type")
    if not kind:
        raise ValueError(f"{where} has no label.")
    if form == "rectangle":
        (x, y), (right, bottom) = ((number_of(v, where) for v in point) for point in points)
        return box_of(kind, min(x, right), min(y, bottom), max(x, right), max(y, bottom), where)
    if form == "circle":
        (x, y), (right, bottom) = ((number_of(v, where) for v in point) for point in points)
        angle = np.linspace(0, 2 * math.pi, 128, endpoint=False)
        radius = math.hypot(right - x, bottom - y)
        circle = np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)])
        return Shape(kind, [loop_of(circle, where)])
    if form not in ("polygon", None):
        raise ValueError(f"{where} is a {form}: outline the object by a polygon instead.")
    return Shape(kind, [loop_of(points, where)])
