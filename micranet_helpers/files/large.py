"""Read parts of images that are too large for the memory: TIFF and OME-Zarr.

OME-Zarr and TIFF in tiles or compressed strips need zarr, the extra ``large``.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from micranet_helpers.files import images, series
from micranet_helpers.files.microscopes import READERS, images_in

WHOLE = 2**24
"""Pixels of the largest image that is worked on as a whole (4,096²), with about 2 GB of memory."""

UNITS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3}

Read = Callable[[slice, slice], NDArray[Any]]


def is_large(path: Path) -> bool:
    """Tell by the head of a TIFF or OME-Zarr, if no stack, whether it has over :data:`WHOLE` px."""
    if path.suffix.lower() in {*READERS} - {".zarr"} or series.axes_of(path):
        return False
    return any(each.get("Y", 0) * each.get("X", 0) > WHOLE for each in series.heads(path))


@contextmanager
def parts_of(path: Path) -> Iterator[tuple[tuple[int, int, int], Read]]:
    """Open a TIFF or OME-Zarr: its shape (C, H, W), and a function of rows and columns.

    That reads a part as :func:`~micranet_helpers.files.images.read_image` reads the whole, but
    keeps an opaque alpha channel. Raises ValueError if the file is damaged or turned.
    """
    try:
        if path.suffix.lower() == ".zarr":
            with images_in(path) as [image]:
                yield _parts(lambda: image.array, "".join(image.sizes), lambda part: part)
        else:
            with tifffile.TiffFile(path, _multifile=False) as file:
                yield _of_tiff(file, path)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} is large and needs {error.name}: pip install "
                         "'micranet-helpers[large]'.") from None  # fmt: skip


def _of_tiff(file: tifffile.TiffFile, path: Path) -> tuple[tuple[int, int, int], Read]:
    found = [each for each in file.series if not each.keyframe.is_reduced]
    page, size = found[0].keyframe, path.stat().st_size
    if len(found) != 1 or page.tags.valueof("Orientation", 1) != 1:
        raise ValueError(f"{path} is large and holds several images or a turned one: save one, "
                         "upright.")  # fmt: skip
    images.check(found[0], size, lambda *piece: _bytes(file.filehandle, *piece), math.inf)
    if found[0].dataoffset is not None:  # one uncompressed piece, mapped anew for each part
        kind, start = found[0].dtype.newbyteorder(file.byteorder), found[0].dataoffset
        opened = partial(np.memmap, path, kind, "r", start, found[0].shape)
    else:
        import zarr

        array = _sound(zarr.open_array(found[0].aszarr(level=0), mode="r"))
        opened = lambda: array  # noqa: E731
    return _parts(opened, found[0].axes, lambda part: images.shown(part, page, file.is_imagej)[0])


def _bytes(handle: tifffile.FileHandle, start: int, count: int) -> bytes:
    handle.seek(start)
    return handle.read(count)


def _parts(
    opened: Callable[[], Any], axes: str, say: Callable[[NDArray[Any]], NDArray[Any]]
) -> tuple[tuple[int, int, int], Read]:
    sizes = dict(zip(axes, opened().shape, strict=True))
    channel = next((axis for axis in axes if axis in "CSQI" and sizes[axis] > 1), None)
    rest = "".join(axis for axis in axes if axis in ("Y", "X", channel))

    def read(rows: slice, columns: slice) -> NDArray[Any]:
        place = {"Y": rows, "X": columns, channel: slice(None)}
        try:
            part = np.asarray(opened()[tuple(place.get(axis, 0) for axis in axes)])
        except Exception as error:  # damaged files make the libraries raise anything
            raise ValueError(f"a part of it cannot be read, copy it again: {error}.") from None
        part = np.moveaxis(part, rest.index(channel), 0) if channel else part[None]
        return images.usual(say(part))

    first = read(slice(1), slice(1))  # palettes become three channels
    return (len(first), sizes["Y"], sizes["X"]), read


@contextmanager
def ome_zarr(path: Path) -> Iterator[SimpleNamespace]:
    """Open an OME-Zarr of version 0.4 or 0.5, with the names that readers of microscopes use."""
    import zarr

    group = zarr.open_group(path, mode="r")
    about = group.attrs.get("ome", group.attrs)["multiscales"][0]
    axes, first = about["axes"], about["datasets"][0]
    array = _sound(group[first["path"]])
    scale = next((each["scale"] for each in first.get("coordinateTransformations", ())
                  if each["type"] == "scale"), None)  # fmt: skip
    width = scale and scale[-1] * UNITS.get(axes[-1].get("unit"), 0) * 1e-6  # metres
    yield SimpleNamespace(
        sizes=dict(zip((axis["name"].upper() for axis in axes), array.shape, strict=True)),
        dtype=array.dtype, array=array, asarray=lambda: array[:],
        coords={"X": (0, width)} if width else {},
    )  # fmt: skip


def _sound(array: Any) -> Any:
    """Refuse an array whose pieces fill the memory, or that a pickle, which runs code, packs."""
    names = {getattr(codec, "codec_id", "") for codec in (*array.filters, *array.compressors)}
    if math.prod(array.chunks) * array.dtype.itemsize > images.UNSUSPECTED:
        raise ValueError("its pieces are larger than 256 MiB: save it in tiles.")
    if array.dtype.kind not in "buif" or "pickle" in names:
        raise ValueError("it is packed unusually: save it with zstd or blosc.")
    return array
