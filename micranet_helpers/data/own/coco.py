"""Read boxes, polygons and run-length encoded masks from COCO files."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from micranet_helpers.data.own.annotations import Annotations, number_of, reading, text_of
from micranet_helpers.data.own.shapes import Shape, box_of, collect, loop_of


def read_coco(path: str | Path) -> Annotations:
    """Read boxes, polygons and masks from a COCO file.

    It is JSON with ``images``, ``categories`` and ``annotations``. Labels are polygons or
    run-length encoded masks where there are some, else filled rectangles; and the boxes. Classes
    are in the order of the categories. Of addresses of a store (``s3://…``, Label Studio's
    ``?d=…``) only the path counts.
    """
    with reading(path) as faults:
        content = json.loads(text_of(path))
        kinds = {item["id"]: str(item["name"]) for item in content["categories"]}
        files = {item["id"]: item for item in content["images"]}
        if len(kinds) < len(content["categories"]) or len(files) < len(content["images"]):
            raise ValueError("two categories or images have the same id.")
        shapes: dict[Any, list[Shape]] = {number: [] for number in files}
        for item in content["annotations"]:
            where = f"annotation {item.get('id')}"
            with faults.noted(where):
                if item["image_id"] not in files or item["category_id"] not in kinds:
                    raise ValueError(
                        f"{where} names an image or category that the file does not list."
                    )
                if item.get("iscrowd"):
                    raise ValueError(
                        f"{where} is a crowd: outline its objects one by one, or, if it is one "
                        "object, set iscrowd to 0."
                    )
                shape = _shape(item, kinds[item["category_id"]], where)
                shapes[item["image_id"]].append(shape)
        return collect(
            ((_local(str(item["file_name"])), shapes[number],
              (item["height"], item["width"]) if item.get("height") and item.get("width") else None)
             for number, item in files.items()),
            faults, kinds.values(),
        )


def _local(name: str) -> str:
    """Take the path out of an address."""
    address = urlsplit(name)
    if given := parse_qs(address.query).get("d"):
        return given[0]
    return unquote(address.path).lstrip("/") if address.netloc else name


def _shape(item: dict[str, Any], kind: str, where: str) -> Shape:
    """Read an annotation: its polygons or mask, or else its box."""
    parts, edges = item.get("segmentation") or [], item.get("bbox") or []
    box = None
    if not parts or (len(edges) == 4 and all(edges[2:])):
        left, top, width, height = (number_of(value, where) for value in edges)
        box = box_of(kind, left, top, left + width, top + height, where=where)
    if not parts:
        return box
    if isinstance(parts, dict):
        height, width = (int(number_of(side, where)) for side in parts["size"])
        counts = parts["counts"]
        runs = np.asarray(_unpacked(counts) if isinstance(counts, str) else counts, np.int64)
        if (runs < 0).any() or runs.sum() != height * width:
            raise ValueError(f"{where} has runs that do not fill {height} × {width} pixels.")
        shape = Shape(kind, pixels=partial(_decoded, runs, (height, width), where))
        return shape._replace(box=box and box.box)
    if any(len(part) % 2 for part in parts):
        raise ValueError(f"{where} has a coordinate too much.")
    loops = [loop_of(zip(part[::2], part[1::2], strict=True), where) for part in parts]
    corners = np.concatenate(loops)
    around = box.box if box else (*corners.min(0), *corners.max(0))
    return Shape(kind, loops, around)


def _decoded(
    runs: NDArray[np.int64], size: tuple[int, int], where: str, height: int, width: int
) -> NDArray[np.bool_]:
    if size != (height, width):
        raise ValueError(f"{where} is a mask of {size}, the image has {(height, width)} pixels.")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _unpacked(text: str) -> Sequence[int]:
    """Unpack COCO's compressed runs: five bits a letter, as differences to the run before last."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if shift > 60:
            raise ValueError("its runs are longer than any image.")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits & 16) << (shift - 4)  # the sign
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
