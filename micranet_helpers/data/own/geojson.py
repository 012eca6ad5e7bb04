"""Read outlines in GeoJSON, as QuPath and the ``predict`` command write them."""

import json
from pathlib import Path
from typing import Any

from micranet_helpers.data.own.annotations import Annotations, Faults, files_of, reading, text_of
from micranet_helpers.data.own.shapes import Shape, collect, loop_of


def read_geojson(folder: str | Path, kind: str | None = None) -> Annotations:
    """Read GeoJSON files: ``NAME.geojson`` has the outlines, px, of the image ``NAME``.

    Polygons are read, with holes, also in several parts. The class of an object is its
    classification or else its name; or ``kind``, for all. Classes are in alphabetical order. Raises
    FileNotFoundError or ValueError if there is no such file in the folder, or one is damaged.
    """
    found, folder = [], Path(folder).expanduser()
    for path in files_of(folder):
        if path.suffix.lower() == ".geojson":
            with reading(path) as faults:
                content = json.loads(text_of(path))
                features = content["features"] if isinstance(content, dict) else content
                shapes = []
                for number, item in enumerate(features, 1):
                    with faults.noted(f"feature {number}"):
                        shapes.append(_shape(item, kind, f"feature {number}"))
                found.append((path.relative_to(folder).with_suffix("").as_posix(), shapes, None))
    if not found:
        raise FileNotFoundError(f"{folder} holds no .geojson: check the path.")
    return collect(found, Faults())


def _shape(item: dict[str, Any], kind: str | None, where: str) -> Shape:
    properties, geometry = item.get("properties") or {}, item["geometry"]
    classified = properties.get("classification") or {}
    name = kind or str(classified.get("name") or properties.get("name") or "").strip()
    if not name:
        raise ValueError(f"{where} has no classification: give it one, or pass kind='class'.")
    parts = geometry["coordinates"]
    if geometry["type"] == "Polygon":
        parts = [parts]
    elif geometry["type"] != "MultiPolygon":
        raise ValueError(f"{where} is a {geometry['type']}: outline the object by a polygon.")
    return Shape(name, [loop_of(ring, where) for part in parts for ring in part], holes=True)
