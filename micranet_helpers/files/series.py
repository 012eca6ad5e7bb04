"""Read an image file plane by plane: time points and depths one after the other.

ND2, LIF and CZI need the extra ``microscopes``; what microscopes write otherwise, Fiji with
Bio-Formats saves as OME-TIFF.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from micranet_helpers.files.images import MOST_BYTES, as_said, open_tiff, read_noted, usual
from micranet_helpers.files.microscopes import READERS, images_in, width_um

FEW = 4  # planes without a name of their axis, at most, that are taken for channels
MICROMETRES = {"nm": 1e-3, "um": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "cm": 1e4}
LARGEST = 100.0  # px, µm: more is the resolution of a printer


class Plane(NamedTuple):
    """Hold one plane: its name, "" or "t02z00" (of image 1 of several "i1t02z00"); (C, H, W); and
    what its file says of the pixels, as :func:`~micranet_helpers.files.images.read_noted`."""

    name: str
    image: NDArray[Any]
    said: tuple[str, ...] = ()


def planes(path: str | Path) -> Iterator[Plane]:
    """Yield the planes of an image, or of a stack in time, depth or another axis.

    Images are as :func:`~micranet_helpers.files.images.read_image` gives them: uint8, uint16 or
    float32, (C, H, W). A stack is in memory as a whole. Raises FileNotFoundError, or ValueError as
    ``read_image`` does, also if a reader is not installed.
    """
    if not (axes_of(path) or _of_microscope(path)):
        yield Plane("", *read_noted(path))
        return
    try:
        for first, sizes, stack, say in _stacks(Path(path)):
            for name, plane in zip(_names(sizes), _cut(sizes, stack), strict=True):
                shown, said = say(plane)
                yield Plane(first + name, _usual(shown, first + name), tuple(said))
    except ModuleNotFoundError as error:
        extra = "large" if _is_zarr(Path(path)) else "microscopes"
        raise ValueError(f"{path} needs {error.name}: pip install 'micranet-helpers[{extra}]', "
                         "or save it as OME-TIFF with Fiji.") from None  # fmt: skip
    except Exception as error:  # damaged files make their readers raise anything
        raise ValueError(f"{path} cannot be read, copy or save it again: {error}.") from None


def members(path: Path) -> list[Path]:
    """List the planes of a stack as if it were a folder: ``film.tif/t02``; else the file itself."""
    found = heads(path)
    names = [f"{f'i{number}' if len(found) > 1 else ''}{name}"
             for number, sizes in enumerate(found) for name in _names(sizes)]  # fmt: skip
    return [path / name for name in names] if len(names) > 1 else [path]


def file_of(path: str | Path) -> Path:
    """Return the file of one of its :func:`members`."""
    path = Path(path)
    return path.parent if path.parent.is_file() or _is_zarr(path.parent) else path


def read_plane(path: str | Path) -> Plane:
    """Read an image, one of the :func:`members` of a stack, or the first plane of a stack.

    The last stack stays in memory. Raises FileNotFoundError or ValueError as :func:`planes`.
    """
    path, file = Path(path), file_of(path)
    if path == file:
        return next(planes(path))
    found = _planes_of(file, file.stat().st_mtime_ns)
    if path.name not in found:
        raise FileNotFoundError(f"There is no plane {path.name} in {file}: check the name.")
    return found[path.name]


@lru_cache(1)
def _planes_of(file: Path, _: int) -> dict[str, Plane]:
    return {plane.name: plane for plane in planes(file)}


def _of_microscope(path: str | Path) -> bool:
    return Path(path).suffix.lower() in READERS


def _stacks(path: Path) -> Iterator[tuple[str, dict[str, int], NDArray[Any], Callable]]:
    """Read each image of a file: how names begin, sizes by axis, values, what is said of planes."""
    if not _of_microscope(path):
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it has more than 2 GiB, save smaller stacks")
        with open_tiff(path.read_bytes()) as (file, series, read):
            sizes = dict(zip(series.axes, series.shape, strict=True))
            say = partial(as_said, file=file, page=series.keyframe)
            yield "", sizes, read(), say
        return
    with images_in(path) as images:
        for number, image in enumerate(images):
            if prod(image.sizes.values()) * np.dtype(image.dtype).itemsize > MOST_BYTES:
                raise ValueError("it has more than 2 GiB, save smaller stacks")
            first = f"i{number}" if len(images) > 1 else ""
            yield first, {**image.sizes}, image.asarray(), lambda plane: (plane, ())


def _cut(sizes: dict[str, int], stack: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Cut a stack into planes, (C, H, W); axes of length 1 are dropped."""
    axes = "".join(axis for axis, size in sizes.items() if size > 1 or axis in "YX")
    others = _others(sizes)
    rest = "".join(axis for axis in axes if axis not in others)
    if rest not in ("YX", "CYX", "YXS"):
        raise ValueError(f"its axes are {axes}, save it as a hyperstack")
    order = [axes.index(axis) for axis in others]
    stack = stack.reshape([sizes[axis] for axis in axes])
    stack = np.moveaxis(stack, order, range(len(order)))
    for place in np.ndindex(stack.shape[: len(others)]):
        plane = stack[place][None] if rest == "YX" else stack[place]
        yield np.moveaxis(plane, -1, 0) if rest == "YXS" else plane


def _names(sizes: dict[str, int]) -> list[str]:
    """Name the planes of a stack in the order in which they are cut."""
    each = [[f"{axis.lower()}{number:0{len(str(sizes[axis] - 1))}}"
             for number in range(sizes[axis])] for axis in _others(sizes)]  # fmt: skip
    return ["".join(parts) for parts in product(*each)]


def _others(sizes: dict[str, int]) -> str:
    """Name the axes that are neither rows, columns nor channels."""
    return "".join(axis for axis, size in sizes.items()
                   if axis not in "YXCS" and size > (FEW if axis in "QI" else 1))  # fmt: skip


def axes_of(path: str | Path) -> str:
    """Name the axes of a stack but rows, columns and channels, e.g. "TZ"; "" if none is left.

    It reads the head of the file. "" also for what is no stack, or damaged.
    """
    return _others(next(iter(heads(path)), {}))


def _is_zarr(path: Path) -> bool:
    return path.suffix.lower() == ".zarr" and path.is_dir()


def heads(path: str | Path) -> list[dict[str, int]]:
    """Read the sizes by axis of the images of a file; none of what is no stack, or damaged."""
    if not (Path(path).is_file() or _is_zarr(Path(path))):  # a pipe would be waited for
        return []
    try:
        if _of_microscope(path):
            with images_in(path) as images:
                return [{**image.sizes} for image in images]
        with tifffile.TiffFile(path, _multifile=False) as file:  # no other file is looked at
            return [_sizes(file)]
    except Exception:  # planes says what is wrong
        return []


def pixel_size(path: str | Path) -> float | None:
    """Read the side of a pixel, µm: a microscope's, or by an OME or ImageJ header, or per cm.

    None where the file does not say it in a unit of length. Raises ValueError if pixels are no
    squares, as areas and shapes would be wrong then.
    """
    path = file_of(path)
    try:
        if _of_microscope(path):
            with images_in(path) as images:
                return width_um(images[0])
        with tifffile.TiffFile(path) as file:
            read, said = (_from_ome, file.ome_metadata) if file.is_ome else (_from_tags, file)
            size, height = read(said, "X"), read(said, "Y")
    except Exception:
        return None
    if size and height and not 0.99 < size / height < 1.01:
        raise ValueError(
            f"{path} has pixels of {size:g} × {height:g} µm: make them squares, e.g. in Fiji by "
            "Image > Scale, or correct the size there in Image > Properties."
        )
    return size if size and 0 < size < LARGEST else None


def _sizes(file: tifffile.TiffFile) -> dict[str, int]:
    series = [found for found in file.series if not found.keyframe.is_reduced]
    if len(series) != 1:  # read_image refuses it in one sentence
        return {}
    return dict(zip(series[0].axes, series[0].shape, strict=True))


def _usual(plane: NDArray[Any], name: str) -> NDArray[Any]:
    if plane.dtype.kind == "c" or not np.isfinite(plane).all():
        raise ValueError(f"plane {name} holds NaN, infinite or complex numbers, save 16 bit")
    return usual(plane)


def _from_ome(text: str, axis: str) -> float | None:
    size = re.search(rf'PhysicalSize{axis}="([^"]+)"', text)
    unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', text)
    return size and float(size[1]) * _unit(unit[1] if unit else "um")


def _from_tags(file: tifffile.TiffFile, axis: str) -> float | None:
    tags = file.pages[0].tags
    if f"{axis}Resolution" not in tags:
        return None
    count, length = tags[f"{axis}Resolution"].value
    unit = (file.imagej_metadata or {}).get("unit", "")
    if not file.is_imagej and "ResolutionUnit" in tags:
        unit = "cm" if int(tags["ResolutionUnit"].value) == 3 else ""
    return length / count * _unit(unit) if count else None


def _unit(name: str) -> float:
    """Find how many µm a unit has; 0 for one that is no length."""
    return MICROMETRES.get(re.sub(r"\\u00B5|[µμ]", "u", name), 0.0)
