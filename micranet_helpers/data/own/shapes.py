"""Turn outlines, boxes and pixels of objects into labels and boxes of an image.

Where objects of one class overlap, the smaller one has the pixel, so that an object within another
is not lost.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micranet_helpers.data.own.annotations import (
    Annotations,
    Faults,
    Label,
    add,
    distinct,
    files_of,
    number_of,
    reading,
)

MOST_WORK = 2**31  # for the objects of an image, about 10 s; or so much for each of its pixels:
PER_PIXEL, PER_FILLED, PER_CROSSING = 32, 4, 128  # to fill a pixel of an outline; of an edge a row


class Shape(NamedTuple):
    """Hold an object: outlines, (P, 2) with row and column, or a function that gives its pixels."""

    kind: str
    loops: Sequence[NDArray[np.float64]] = ()
    box: tuple[float, ...] | None = None  # top, left, bottom, right
    holes: bool = False  # an outline within another is a hole
    pixels: Callable[[int, int], NDArray[Any]] | None = None  # of height and width; 0: outside

    @property
    def place(self) -> str:
        """Say which object this is."""
        if not self.loops:
            return f"a {self.kind}"
        row, column = self.loops[0][0]
        return f"the {self.kind} at row {row:g}, column {column:g}"


def loop_of(points: Iterable[Any], where: str) -> NDArray[np.float64]:
    """Read an outline of points x, y."""
    loop = [(number_of(y, where), number_of(x, where)) for x, y, *_ in points]
    if len(loop) < 3:
        raise ValueError(f"{where} has {len(loop)} corners: an outline needs three.")
    return np.asarray(loop)


def ellipse(middle: ArrayLike, radii: ArrayLike) -> NDArray[np.float64]:
    """Outline an ellipse by 128 points x, y."""
    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    return middle + radii * np.column_stack([np.cos(angle), np.sin(angle)])


def box_of(kind: str, left: Any, top: Any, right: Any, bottom: Any, where: str) -> Shape:
    """Read a box."""
    left, top, right, bottom = (number_of(edge, where) for edge in (left, top, right, bottom))
    if not kind.strip() or right <= left or bottom <= top:
        raise ValueError(f"{where}: a box needs a class, left < right and top < bottom.")
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return Shape(kind.strip(), [np.asarray(corners)], (top, left, bottom, right))


def from_folder(
    folder: str | Path, endings: Sequence[str],
    items: Callable[[Path], tuple[Any, Iterable]],  # size of the image, if known; named objects
    shape: Callable[[Any, str], Shape],  # of an object and its name
) -> Annotations:  # fmt: skip
    """Make annotations of the files of a folder, each of which has the name of its image."""
    folder, found, faults = Path(folder).expanduser(), [], Faults()
    for path in files_of(folder):
        if path.suffix.lower() in endings:
            with faults.noted(), reading(path) as its_faults:
                size, objects = items(path)
                name, shapes = path.relative_to(folder).with_suffix("").as_posix(), []
                found.append((name, shapes, size))
                for where, item in objects:
                    with its_faults.noted(where):
                        shapes.append(shape(item, where))
    if not found and not faults:
        raise FileNotFoundError(f"{folder} holds no {' or '.join(endings)}: check the path.")
    if faults:
        raise ValueError(str(faults).strip())
    return collect(found, faults)


def collect(
    found: Iterable[tuple[str, list[Shape], Any]], faults: Faults, classes: Iterable[str] = ()
) -> Annotations:
    """Make annotations of the names, shapes and, if known, sizes of images."""
    named = [(name, [shape._replace(kind=normalize("NFC", shape.kind)) for shape in shapes], size)
             for name, shapes, size in found]
    if faults:
        return Annotations((), {})  # never used: all faults are about to be raised
    names = distinct(classes or sorted({shape.kind for _, shapes, _ in named for shape in shapes}))
    images: dict[str, Any] = {}
    for name, shapes, size in named:
        with faults.noted():
            add(images, name, partial(draw, name, shapes, size, names), name)
    return Annotations(names, images)


def draw(
    name: str, shapes: list[Shape], size: Any, classes: tuple[str, ...], height: int, width: int
) -> Label:
    """Fill the shapes of an image and list their boxes."""
    if size not in (None, (height, width)):
        raise ValueError(
            f"{name} was annotated as {size}, but its image is {(height, width)} (height, width)."
        )
    if len(shapes) >= 2**16:
        raise ValueError(f"{name} has {len(shapes)} objects, which is too much: cut the image.")
    if sum(_work(shape, height, width) for shape in shapes) > max(
        MOST_WORK, PER_PIXEL * height * width
    ):
        raise ValueError(f"{name}: its objects overlap too often, or have too many corners: look "
                         "whether they are right, and simplify them.")  # fmt: skip
    label = np.zeros((len(classes), height, width), np.uint16)
    kinds = [classes.index(shape.kind) for shape in shapes]
    counts: Counter[int] = Counter()
    numbers = [counts.update([kind]) or counts[kind] for kind in kinds]
    faults = Faults()
    for n in sorted(range(len(shapes)), key=lambda n: -_area(shapes[n], height, width)):
        with faults.noted():
            rows, columns, inside = _pixels(shapes[n], height, width)
            if not inside.any():
                raise ValueError(
                    f"{shapes[n].place} lies outside the image or covers no pixel."
                )
            label[kinds[n]][rows, columns][inside] = numbers[n]
    visible = [{*np.unique(plane).tolist()} for plane in label]
    faults = faults or Faults(
        f"{shape.place} lies there twice, or wholly under smaller ones: delete it."
        for shape, kind, number in zip(shapes, kinds, numbers, strict=True)
        if number not in visible[kind]
    )
    if faults:
        raise ValueError(f"{name}:{faults}")
    boxes = [(kind, *np.clip(shape.box, 0, (height, width) * 2))
             for kind, shape in zip(kinds, shapes, strict=True) if shape.box]
    return label, np.asarray(boxes, np.float32) if boxes else None


def _work(shape: Shape, height: int, width: int) -> float:
    """Estimate the work of drawing a shape: 1 for each pixel of a mask."""
    low, high = _window(shape, height, width)
    rows = (np.abs(loop[:, 0] - np.roll(loop[:, 0], 1)) for loop in shape.loops)
    crossings = sum(each.clip(0, height).sum() for each in rows)
    filled = PER_FILLED * len(shape.loops) or 1
    return np.prod(high - low) * filled + PER_CROSSING * crossings


def _area(shape: Shape, height: int, width: int) -> float:
    if shape.pixels is not None:
        return np.count_nonzero(shape.pixels(height, width))
    turned = ((loop, np.roll(loop[:, ::-1], -1, 0)) for loop in shape.loops)
    return max(abs((loop * following).sum(0) @ (1, -1)) for loop, following in turned) / 2


def _pixels(
    shape: Shape, height: int, width: int
) -> tuple[slice, slice, NDArray[np.bool_]]:
    """Mark the pixels of a shape in the window of the image where it lies."""
    if shape.pixels is not None:
        return slice(0, height), slice(0, width), shape.pixels(height, width) > 0
    low, high = _window(shape, height, width)
    inside = np.zeros((high - low).tolist(), bool)
    for loop in shape.loops:
        filled = _filled(loop - low, inside.shape)
        inside = inside ^ filled if shape.holes else inside | filled
    rows, columns = (slice(*edges) for edges in zip(low.tolist(), high.tolist(), strict=True))
    return rows, columns, inside


def _window(
    shape: Shape, height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the first row and column of a shape in an image, and those after its last."""
    if shape.pixels is not None:
        return np.zeros(2, np.int64), np.array((height, width))
    corners = np.concatenate(shape.loops)
    edges = np.floor(corners.min(0)), np.ceil(corners.max(0))
    low, high = (np.clip(edge, 0, (height, width)).astype(int) for edge in edges)
    return low, high


def _filled(loop: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Mark the pixels whose centres lie in an outline; one on an edge is in what begins there.

    Walking along a row, each edge that is crossed leads in or out.
    """
    ends = np.stack([loop, np.roll(loop, -1, 0)])
    ends = np.take_along_axis(ends, ends[..., :1].argsort(0), 0)  # from top to bottom
    (top, left), (bottom, right) = ends[0].T, ends[1].T
    first, last = (np.clip(np.ceil(y - 0.5), 0, size[0]).astype(int) for y in (top, bottom))
    counts = last - first
    edge = np.repeat(np.arange(len(loop)), counts)
    row = np.arange(len(edge)) - np.repeat(counts.cumsum() - counts - first, counts)
    slope = (right - left) / np.where(bottom > top, bottom - top, 1)
    x = left[edge] + (row + 0.5 - top[edge]) * slope[edge]
    column = np.clip(np.ceil(x - 0.5), 0, size[1]).astype(int)
    crossed = np.zeros((size[0], size[1] + 1), bool)
    np.logical_xor.at(crossed, (row, column), True)
    return np.logical_xor.accumulate(crossed, 1)[:, :-1]
