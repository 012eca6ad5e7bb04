"""Read outlines made with labelme, and GeoJSON, as QuPath and the ``predict`` command write it."""

import json
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from micranet_helpers.data.own.annotations import Annotations, number_of, text_of
from micranet_helpers.data.own.shapes import Shape, box_of, ellipse, from_folder, loop_of


def read_labelme(folder: str | Path) -> Annotations:
    """Read the JSON files of labelme: ``NAME.json`` has the outlines of the image ``NAME``.

    Polygons, rectangles, also turned ones, and circles are read; all else, such as points, lines
    and masks, is refused. Classes are the labels, in alphabetical order. Raises FileNotFoundError
    or ValueError if there is no such file in the folder, or one is damaged.
    """
    return from_folder(folder, (".json",), partial(_items, "shape", "shapes"), _labelled)


def read_geojson(folder: str | Path, kind: str | None = None) -> Annotations:
    """Read GeoJSON files: ``NAME.geojson`` has the outlines, px, of the image ``NAME``.

    Polygons are read, with holes, also in several parts. The class of an object is its
    classification or else its name; or ``kind``, for all. Classes are in alphabetical order. Raises
    FileNotFoundError or ValueError if there is no such file in the folder, or one is damaged.
    """
    items = partial(_items, "feature", "features")
    return from_folder(folder, (".geojson",), items, partial(_feature, kind))


def _items(word: str, key: str, path: Path) -> tuple[Any, Iterable[tuple[str, Any]]]:
    """Read the size of an image, where it is known, and its objects."""
    content = json.loads(text_of(path))
    content = content if isinstance(content, dict) else {key: content}
    size = content.get("imageHeight"), content.get("imageWidth")
    objects = [(f"{word} {number}", item) for number, item in enumerate(content[key], 1)]
    return size if all(size) else None, objects


def _labelled(item: dict[str, Any], where: str) -> Shape:
    kind, points, form = str(item["label"] or "").strip(), item["points"], item.get("shape_type")
    if not kind:
        raise ValueError(f"{where} has no label.")
    if form in ("polygon", "rotation", None) or (form == "rectangle" and len(points) == 4):
        return Shape(kind, [loop_of(points, where)])
    if form not in ("rectangle", "circle"):
        raise ValueError(f"{where} is a {form}: outline the object by a polygon instead.")
    (x, y), (right, bottom) = ((number_of(value, where) for value in point) for point in points)
    if form == "rectangle":
        return box_of(kind, min(x, right), min(y, bottom), max(x, right), max(y, bottom), where)
    return Shape(kind, [loop_of(ellipse((x, y), math.hypot(right - x, bottom - y)), where)])


def _feature(kind: str | None, item: dict[str, Any], where: str) -> Shape:
    properties, geometry = item.get("properties") or {}, item.get("geometry") or {"type": "blank"}
    classified = properties.get("classification") or {}
    names = ": ".join(classified.get("names") or [])  # QuPath's way for classes within a class
    name = kind or str(names or classified.get("name") or properties.get("name") or "").strip()
    if not name:
        raise ValueError(f"{where} has no classification: give it one, or pass kind='class'.")
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"{where} is a {geometry['type']}: outline the object by a polygon.")
    plane = geometry.get("plane") or {}
    if plane.get("z") or plane.get("t"):
        raise ValueError(f"{where} is of another plane of a stack: export each plane's apart.")
    parts = geometry["coordinates"] if geometry["type"] != "Polygon" else [geometry["coordinates"]]
    return Shape(name, [loop_of(ring, where) for part in parts for ring in part], holes=True)
