"""Find the objects of an image that is too large for the memory, block by block.

A block is a group of the tiles in which smaller images are worked through, too, so its scores are
theirs. Stages go over all blocks: what scales the image; scores; parts of objects; and, once those
that touch across borders are known as one, the numbers of objects. Each leaves a small file for
each block that is done, so that a run that was stopped goes on there.
"""

import io
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from skimage.filters import threshold_otsu
from tqdm import tqdm

from micranet_helpers.data.crops import crop_grid
from micranet_helpers.data.scaling import Scale, between, normalize
from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.files.large import Read, parts_of
from micranet_helpers.maps.cam import MARGIN
from micranet_helpers.maps.segmentation import STRIDE, TILE, magnified_side, pixel_scores
from micranet_helpers.plots.images import LARGEST
from micranet_helpers.predict import objects, ways
from micranet_helpers.zoo.usage import check

TILES = 4  # along a side of a block; the last has up to one more
HALO = 512  # px around a block in which an object that reaches into it is seen whole
CHUNK = 1024  # px, side of a piece of an OME-Zarr
LOWEST, HIGHEST, FIRST = (3, 4), (5, 6), -1
"""Measures that are no sums: top and left; bottom and right; and the first pixel, the last of all.
The others are sums, and then means: ``objects.NAMES``."""

Stage = Callable[[str, Callable[["Block"], dict[str, Any]]], Iterator[dict[str, NDArray[Any]]]]


class Block(NamedTuple):
    """Hold the pixels of a block: rows and columns."""

    number: int
    own: tuple[slice, slice]  # of the image
    seen: tuple[slice, slice]  # of the magnified image, with the margins of the tiles


def find(
    path: Path, networks: ways.Networks, way: str, area: int, width: float | None, out: Path,
    key: str, pixel_um: float | None,
) -> objects.Found:  # fmt: skip
    """Write the scores and numbers of the objects of an image to ``out``, an OME-Zarr 0.5.

    Objects of fewer pixels than ``area`` are left out; those of the usual ``width``, px, are split
    as :func:`~micranet_helpers.predict.objects.numbered` does, exactly if they reach no more than
    :data:`HALO` px out of a block. ``key`` stands for all that the result depends on: what is there
    of another is removed. If only ``out`` was deleted, it is made anew. A folder ``*.work`` beside
    ``out`` keeps what is done. Raises ValueError if the file cannot be used.
    """
    usage, work = networks.usage, out.with_suffix(".work")
    if way == ways.INSIDE:
        raise ValueError(f"{path.name} is too large for {way!r}: cut it, or take other answers.")
    if not ((work / key[:32]).is_file() and out.is_dir()):
        for old in (out, work):
            shutil.rmtree(old, ignore_errors=True)
        work.mkdir(parents=True)
        (work / key[:32]).touch()
    with parts_of(path) as (shape, read):
        import zarr

        check(usage, read(slice(1), slice(1)), networks.channels)
        sides = [_spans(n, 1 if way.startswith("plain") else usage.magnification)
                 for n in shape[1:]]  # fmt: skip
        blocks = [Block(number, *zip(*pair, strict=True))
                  for number, pair in enumerate(product(*sides))]  # fmt: skip
        stage = partial(_stage, work, blocks)
        shape = len(usage.classes), *shape[1:]
        scores = _pyramid(out, shape, np.float32, pixel_um)
        find_scores = _scorer(networks, way, read, shape, stage)

        def score(block: Block) -> dict[str, Any]:
            put(scores, block.own, values := find_scores(block))
            return {"highest": values.max()}

        highest = max(float(done["highest"]) for done in stage("scores", score))
        parts = zarr.open_array(work / "parts", mode="a", shape=shape, dtype=np.uint32,
                                chunks=(1, CHUNK, CHUNK))  # fmt: skip
        masks_of = partial(ways.masks_of, networks, None, way)
        found = [*stage("parts", partial(_parts, read, masks_of, width, scores, parts))]
    numbers, table = _joined(found, len(sides[1]), area)
    labels = _pyramid(out / "labels" / "objects", shape, np.uint32, pixel_um)

    def number(block: Block) -> dict[str, Any]:
        put(labels, block.own, values := numbers[block.number][parts[:, *block.own]])
        return {"covered": np.count_nonzero(values.any(0))}

    covered = sum(int(done["covered"]) for done in stage("objects", number))
    picture = np.zeros((len(found[0]["picture"]), *labels[-1].shape[1:]), found[0]["picture"].dtype)
    for block, done in zip(blocks, found, strict=True):
        picture[:, *_thinned(block.own, 2 ** (len(labels) - 1))[1]] = done["picture"]
    pixels = math.prod(shape[1:])
    classes = (table[:, FIRST] // pixels).astype(np.int64)
    return objects.Found(table[:, :FIRST], classes, covered / pixels, highest, picture,
                         labels[-1][:])  # fmt: skip


def _stage(
    work: Path, blocks: Sequence[Block], name: str, function: Callable[[Block], dict[str, Any]]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what a function returns for each block, or returned when the block was done."""
    for block in tqdm(blocks, name, unit=" blocks", leave=False):
        path = work / f"{name}-{block.number}.npz"
        if not path.is_file():
            np.savez(data := io.BytesIO(), **function(block))
            write_atomically(path, data.getbuffer())
        with np.load(path) as file:
            yield dict(file)


def _spans(length: int, times: float) -> list[tuple[slice, slice]]:
    """Divide a side: px of the image, and those of the magnified image whose tiles they need."""
    whole = magnified_side(length, times)
    tiles = len(crop_grid(whole, TILE, STRIDE))
    firsts = [*range(0, max(1, tiles - 1), TILES)]  # so mirroring finds enough at the far border
    inner = [round((first * STRIDE + MARGIN) / whole * length) for first in firsts[1:]]
    ends = [*((first * STRIDE + 2 * MARGIN) for first in firsts[1:]), whole]
    return [(slice(*own), slice(first * STRIDE, end)) for own, first, end in zip(
        zip([0, *inner], [*inner, length], strict=True), firsts, ends, strict=True)]  # fmt: skip


# --- scores ------------------------------------------------------------------------------------


def _scorer(
    networks: ways.Networks, way: str, read: Read, shape: Sequence[int], stage: Stage
) -> Callable[[Block], NDArray[np.float32]]:
    """Make the function from a block to its scores, (K, h, w), 0 at the border of objects."""
    usage = networks.usage
    if not way.startswith("plain"):
        if usage.scaling in ("fixed", "range"):
            scale = usage.scale(read(slice(1), slice(1)))
        else:
            low, high, mean, spread = _statistics(stage, read)
            scale = between(low, high) if usage.scaling == "minmax" else (mean, 1 / spread)
        return partial(_of_network, networks, way, read, shape, scale)

    def grey(*own: slice) -> NDArray[np.float32]:
        return ways.grey(read(*own), way)[None]

    low, high, _, spread = _statistics(stage, grey)
    ends = np.float32(low[0]), np.float32(high[0])
    counts = sum(done["counts"] for done in stage("histogram", lambda block: {
        "counts": np.histogram(grey(*block.own), 256, ends)[0]}))  # fmt: skip
    edges = np.linspace(*ends, 257, dtype=np.float32)
    level = threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2))
    level = level if ends[0] < ends[1] else ends[0]
    return lambda block: np.repeat((grey(*block.own) - level) / np.float32(spread), shape[0], 0)


def _statistics(stage: Stage, values: Read) -> tuple[NDArray[np.float64], ...]:
    """Find lowest, highest, mean and spread of each channel; the spread is 1 where it is 0."""

    def moments(block: Block) -> dict[str, Any]:
        part = values(*block.own)
        return {"low": part.min((1, 2)), "high": part.max((1, 2)),
                "mean": part.mean((1, 2), np.float64),
                "square": part.var((1, 2), dtype=np.float64), "size": part[0].size}  # fmt: skip

    found = [*stage("range", moments)]
    low, high, mean, square, size = (np.array([each[name] for each in found], np.float64)
                                     for name in ("low", "high", "mean", "square", "size"))
    middle = np.average(mean, 0, size)
    spread = np.sqrt(np.average(square + (mean - middle) ** 2, 0, size))
    return low.min(0), high.max(0), middle, np.where(spread > 0, spread, 1)


def _of_network(
    networks: ways.Networks, way: str, read: Read, shape: Sequence[int], scale: Scale,
    block: Block,
) -> NDArray[np.float32]:  # fmt: skip
    models, levels = ways.models_of(networks, way)
    times = networks.usage.magnification
    if times == 1:
        scores = pixel_scores(models, normalize(read(*block.seen), *scale))[networks.shown]
        return scores[:, *_within(block.own, block.seen)] - levels
    down, up, around = [], [], []
    for own, seen, length in zip(block.own, block.seen, shape[1:], strict=True):
        whole = magnified_side(length, times)
        step, reach = length / whole, max(1, length / whole)
        start, stop = (seen.start - 1) * step - reach, (seen.stop + 1) * step + reach
        around.append(slice(max(0, math.floor(start)), min(length, math.ceil(stop))))
        up.append(_taps(seen, step, reach, around[-1], length))
        down.append(_taps(own, 1 / step, 1, seen, whole))
    image = _resized(normalize(read(*around), *scale), *up)
    return _resized(pixel_scores(models, image)[networks.shown], *down) - levels


def _taps(wanted: slice, step: float, reach: float, given: slice, length: int) -> sparse.csr_array:
    """Weigh the pixels of a side for linear interpolation as torch does: (wanted, given)."""
    centres = (np.arange(wanted.start, wanted.stop)[:, None] + 0.5) * step - 0.5
    taps = np.floor(centres - reach).astype(int) + np.arange(math.ceil(2 * reach) + 2)
    weights = np.maximum(0, 1 - abs(taps - centres) / reach)
    weights *= (taps >= max(0, given.start)) & (taps < min(length, given.stop))
    rows = np.broadcast_to(np.arange(len(taps))[:, None], taps.shape)
    weights /= weights.sum(1, keepdims=True)
    place = rows.ravel(), (taps - given.start).clip(0, given.stop - given.start - 1).ravel()
    return sparse.csr_array((weights.ravel(), place), (len(taps), given.stop - given.start))


def _resized(
    planes: NDArray[np.float32], rows: sparse.csr_array, columns: sparse.csr_array
) -> NDArray[np.float32]:
    return np.stack([(columns @ (rows @ plane).T).T for plane in planes]).astype(np.float32)


# --- objects -----------------------------------------------------------------------------------


def _parts(
    read: Read, masks_of: Callable[[NDArray[np.float32]], NDArray[np.bool_]], width: float | None,
    scores: Sequence[Any], parts: Any, block: Block,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Number the parts of objects in a block and measure them; keep those at its borders."""
    halo = HALO if width else 0
    rim = tuple(slice(s.start, s.stop + 1) for s in block.own)  # one more, but for the last block
    view = tuple(slice(max(0, s.start - halo), s.stop + halo) for s in rim)
    labels = _reaching(masks_of(scores[0][:, *view]), _within(rim, view), width)
    height, wide = (s.stop - s.start for s in block.own)
    own, image = labels[:, :height, :wide], read(*block.own)
    parts[:, *block.own] = own
    table = _measured(own, scores[0][:, *block.own], image, block.own, parts.shape,
                      int(labels.max()) + 1)  # fmt: skip
    return {
        "table": table, "top": own[:, 0], "below": labels[:, height:, :wide], "left": own[:, :, 0],
        "right": labels[:, :height, wide:],
        "picture": image[:, *_thinned(block.own, 2 ** (len(scores) - 1))[0]],
    }  # fmt: skip


def _reaching(
    masks: NDArray[np.bool_], rim: tuple[slice, slice], width: float | None
) -> NDArray[np.int32]:
    """Number the parts of masks, (K, H, W), in a place; those that reach into it are whole."""
    crop = rim
    if width:
        for mask in masks:
            parts, _ = ndimage.label(mask)
            mask &= np.isin(parts, parts[rim])
        seen = masks.any(0)
        seen[rim] = True
        [box] = ndimage.find_objects(seen.astype(np.uint8))
        crop = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)  # with some background
    return objects.numbered(masks[:, *crop], 1, width)[:, *_within(rim, crop)]


def _measured(
    labels: NDArray[np.int32], scores: NDArray[np.float32], image: NDArray[Any],
    own: tuple[slice, slice], shape: Sequence[int], count: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Measure the parts in a block, (count, 9 + C); the background and those outside are empty."""
    tables = []
    for k, plane in enumerate(labels):
        inside = plane.nonzero()
        row, column = (at + side.start for at, side in zip(inside, own, strict=True))
        first = (k * shape[1] + row) * shape[2] + column
        columns = [np.ones(len(row)), row, column, row, column, row + 1, column + 1,
                   scores[k][inside], *image[:, *inside], first]  # fmt: skip
        tables.append(_gathered(columns, plane[inside], count))
    return _gathered(np.concatenate(tables).T, np.tile(np.arange(count), len(tables)), count)


def _gathered(
    columns: Sequence[NDArray[Any]], number: NDArray[np.integer], count: int
) -> NDArray[np.float64]:
    """Add up columns of measures by number; take the lowest or highest of those that are so."""
    table = np.zeros((count, len(columns)))
    for place, (values, total) in enumerate(zip(columns, table.T, strict=True)):
        if place in LOWEST or place == len(columns) + FIRST:
            total[:] = np.inf
            np.minimum.at(total, number, values.astype(float))
        elif place in HIGHEST:
            np.maximum.at(total, number, values.astype(float))
        else:
            total[:] = np.bincount(number, values, count)
    return table


def _joined(
    found: Sequence[Mapping[str, NDArray[Any]]], across: int, area: int
) -> tuple[list[NDArray[np.uint32]], NDArray[np.float64]]:
    """Join parts that touch across borders; ``across`` is the number of blocks in a row.

    Returns the numbers of the objects, by block and part, and their measures, means for sums.
    """
    starts = np.cumsum([0, *(len(each["table"]) for each in found)])
    pairs = []
    for number, each in enumerate(found):
        for mine, theirs, step in (("below", "top", across), ("right", "left", 1)):
            if each[mine].size:
                other = number + step
                both = np.stack([each[mine].ravel(), found[other][theirs].ravel()])
                pairs.append(both[:, both.all(0)] + starts[[number, other], None])
    links = np.concatenate([*pairs, np.zeros((2, 0), int)], 1)
    graph = sparse.coo_array((np.ones(links.shape[1]), tuple(links)), (starts[-1],) * 2)
    count, whole = sparse.csgraph.connected_components(graph, directed=False)
    table = _gathered(np.concatenate([each["table"] for each in found]).T, whole, count)
    kept = (table[:, 0] >= area).nonzero()[0]
    kept = kept[table[kept, FIRST].argsort()]  # by class, from the top: as in smaller images
    numbers = np.zeros(count, np.uint32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    table = table[kept]
    table[:, [1, 2, *range(7, table.shape[1] + FIRST)]] /= table[:, :1]
    return np.split(numbers[whole], starts[1:-1]), table


# --- OME-Zarr ----------------------------------------------------------------------------------


def _pyramid(
    path: Path, shape: tuple[int, int, int], dtype: type, pixel_um: float | None
) -> list[Any]:
    """Open or create the levels of an image, (K, H, W), each with every second pixel of the last.

    One below a folder ``labels`` is a label image of the image beside that.
    """
    import zarr

    count = 1 + max(0, math.ceil(math.log2(max(shape[1:]) / LARGEST)))
    unit = {"unit": "micrometer"} if pixel_um else {}
    axes = [{"name": "c", "type": "channel"},
            *({"name": name, "type": "space", **unit} for name in "yx")]  # fmt: skip
    sets = [{"path": str(level), "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, *[(pixel_um or 1.0) * 2.0**level] * 2]}]}
            for level in range(count)]  # fmt: skip
    about = {"version": "0.5", "multiscales": [{"name": path.stem, "axes": axes, "datasets": sets}]}
    if path.parent.name == "labels":
        about["image-label"] = {"source": {"image": "../../"}, "colors": []}
        labels = {"ome": {"version": "0.5", "labels": [path.name]}}
        zarr.open_group(path.parent, mode="a", attributes=labels)
    zarr.open_group(path, mode="a", attributes={"ome": about})
    return [zarr.open_array(path / str(level), mode="a", dtype=dtype, chunks=(1, CHUNK, CHUNK),
                            shape=(shape[0], *(-(-n // 2**level) for n in shape[1:])),
                            dimension_names=("c", "y", "x"), fill_value=0)
            for level in range(count)]  # fmt: skip


def put(levels: Sequence[Any], own: tuple[slice, slice], values: NDArray[Any]) -> None:
    """Put the pixels of a block, (K, h, w), into all levels of an image."""
    for level, array in enumerate(levels):
        taken, place = _thinned(own, 2**level)
        if (part := values[:, *taken]).size:
            array[:, *place] = part


def _thinned(own: tuple[slice, slice], step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Say which pixels of a block every n-th of the image are, and where they are among these."""
    taken = tuple(slice(-side.start % step, None, step) for side in own)
    return taken, tuple(slice(-(-side.start // step), -(-side.stop // step)) for side in own)


def _within(inner: Sequence[slice], outer: Sequence[slice]) -> tuple[slice, ...]:
    """Say where slices are in others."""
    return tuple(slice(i.start - o.start, i.stop - o.start)
                 for i, o in zip(inner, outer, strict=True))  # fmt: skip
