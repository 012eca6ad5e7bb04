"""Read an image file plane by plane: time points and depths one after the other.

ND2, LIF and CZI need the extra ``microscopes``; what microscopes write otherwise, Fiji with
Bio-Formats saves as OME-TIFF.
"""

import re
from collections.abc import Iterator
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from micranet_helpers.files.images import MOST_BYTES, open_tiff, read_image, usual
from micranet_helpers.files.microscopes import READERS, images_in, width_um

FEW = 4  # planes without a name of their axis, at most, that are taken for channels
MICROMETRES = {"nm": 1e-3, "um": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "cm": 1e4}
LARGEST = 100.0  # px, µm: more is the resolution of a printer


class Plane(NamedTuple):
    """Hold one plane: its name, "" or "t02z00" (of image 1 of several "i1t02z00"); (C, H, W)."""

    name: str
    image: NDArray[Any]


def planes(path: str | Path) -> Iterator[Plane]:
    """Yield the planes of an image, or of a stack in time, depth or another axis.

    Images are as :func:`~micranet_helpers.files.images.read_image` gives them: uint8, uint16 or
    float32, (C, H, W). A stack is in memory as a whole. Raises FileNotFoundError, or ValueError as
    ``read_image`` does, also if a reader is not installed.
    """
    if not (axes_of(path) or _of_microscope(path)):
        yield Plane("", read_image(path))
        return
    try:
        for first, sizes, stack in _stacks(Path(path)):
            for name, plane in _cut(sizes, stack):
                yield Plane(first + name, _usual(plane, first + name))
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} needs {error.name}: pip install 'micranet-helpers[microscopes]', "
                         "or save it as OME-TIFF with Fiji.") from None  # fmt: skip
    except Exception as error:  # damaged files make their readers raise anything
        raise ValueError(f"{path} cannot be read, copy or save it again: {error}.") from None


def _of_microscope(path: str | Path) -> bool:
    return Path(path).suffix.lower() in READERS


def _stacks(path: Path) -> Iterator[tuple[str, dict[str, int], NDArray[Any]]]:
    """Read each image of a file: how names begin, sizes by axis, values."""
    if not _of_microscope(path):
        yield "", *_stack(path)
        return
    with images_in(path) as images:
        for number, image in enumerate(images):
            if prod(image.sizes.values()) * np.dtype(image.dtype).itemsize > MOST_BYTES:
                raise ValueError("it has more than 2 GiB, save smaller stacks")
            yield f"i{number}" if len(images) > 1 else "", {**image.sizes}, image.asarray()


def _cut(sizes: dict[str, int], stack: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Cut a stack into planes with their names; axes of length 1 are dropped."""
    axes = "".join(axis for axis, size in sizes.items() if size > 1 or axis in "YX")
    names = _others(sizes)
    rest = "".join(axis for axis in axes if axis not in names)
    if rest not in ("YX", "CYX", "YXS"):
        raise ValueError(f"its axes are {axes}, save it as a hyperstack")
    order = [axes.index(axis) for axis in names]
    stack = stack.reshape([sizes[axis] for axis in axes])
    stack = np.moveaxis(stack, order, range(len(order)))
    digits = [len(str(size - 1)) for size in stack.shape[: len(names)]]
    for place in product(*map(range, stack.shape[: len(names)])):
        plane = stack[place][None] if rest == "YX" else stack[place]
        plane = np.moveaxis(plane, -1, 0) if rest == "YXS" else plane
        parts = zip(names, place, digits, strict=True)
        yield "".join(f"{axis.lower()}{number:0{width}}" for axis, number, width in parts), plane


def _others(sizes: dict[str, int]) -> str:
    """Name the axes that are neither rows, columns nor channels."""
    return "".join(axis for axis, size in sizes.items()
                   if axis not in "YXCS" and size > (FEW if axis in "QI" else 1))  # fmt: skip


def axes_of(path: str | Path) -> str:
    """Name the axes of a stack but rows, columns and channels, e.g. "TZ"; "" if none is left.

    It reads the head of the file. "" also for what is no stack, or damaged.
    """
    if not Path(path).is_file():  # a pipe would be waited for
        return ""
    try:
        if _of_microscope(path):
            with images_in(path) as images:
                return _others(images[0].sizes)
        with tifffile.TiffFile(path, _multifile=False) as file:  # no other file is looked at
            return _others(_sizes(file))
    except Exception:  # planes says what is wrong
        return ""


def pixel_size(path: str | Path) -> float | None:
    """Read the side of a pixel, µm: a microscope's, or by an OME or ImageJ header, or per cm.

    None where the file does not say it in a unit of length.
    """
    try:
        if _of_microscope(path):
            with images_in(path) as images:
                return width_um(images[0])
        with tifffile.TiffFile(path) as file:
            size = _from_ome(file.ome_metadata) if file.is_ome else _from_tags(file)
    except Exception:
        return None
    return size if size and 0 < size < LARGEST else None


def _sizes(file: tifffile.TiffFile) -> dict[str, int]:
    series = [found for found in file.series if not found.keyframe.is_reduced]
    if len(series) != 1:  # read_image refuses it in one sentence
        return {}
    return dict(zip(series[0].axes, series[0].shape, strict=True))


def _stack(path: Path) -> tuple[dict[str, int], NDArray[Any]]:
    """Read the axes of a TIFF stack and its values."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError("it has more than 2 GiB, save smaller stacks")
    with open_tiff(path.read_bytes()) as (_, series, read):
        return dict(zip(series.axes, series.shape, strict=True)), read()


def _usual(plane: NDArray[Any], name: str) -> NDArray[Any]:
    if plane.dtype.kind == "c" or not np.isfinite(plane).all():
        raise ValueError(f"plane {name} holds NaN, infinite or complex numbers, save 16 bit")
    return usual(plane)


def _from_ome(text: str) -> float | None:
    size = re.search(r'PhysicalSizeX="([^"]+)"', text)
    unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', text)
    return size and float(size[1]) * _unit(unit[1] if unit else "um")


def _from_tags(file: tifffile.TiffFile) -> float | None:
    tags = file.pages[0].tags
    if "XResolution" not in tags:
        return None
    count, length = tags["XResolution"].value
    unit = (file.imagej_metadata or {}).get("unit", "")
    if not file.is_imagej and "ResolutionUnit" in tags:
        unit = "cm" if int(tags["ResolutionUnit"].value) == 3 else ""
    return length / count * _unit(unit) if count else None


def _unit(name: str) -> float:
    """Find how many µm a unit has; 0 for one that is no length."""
    return MICROMETRES.get(re.sub(r"\\u00B5|[µμ]", "u", name), 0.0)
