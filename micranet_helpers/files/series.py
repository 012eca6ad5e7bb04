"""Read an image file plane by plane: time points and depths one after the other.

What microscopes write otherwise (CZI, LIF, ND2, OIB …), Fiji with Bio-Formats saves as OME-TIFF.
"""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from micranet_helpers.files.images import MOST_BYTES, read_image

FEW = 4  # planes without a name of their axis, at most, that are taken for channels
MICROMETRES = {"nm": 1e-3, "um": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "cm": 1e4}
LARGEST = 100.0  # px, µm: more is the resolution of a printer


class Plane(NamedTuple):
    """Hold one plane: its name, "" if it is the only one, else e.g. "t02z00"; (C, H, W)."""

    name: str
    image: NDArray[Any]


def planes(path: str | Path) -> Iterator[Plane]:
    """Yield the planes of an image, or of a TIFF stack in time, depth or another axis.

    Images are as :func:`~micranet_helpers.files.images.read_image` gives them: uint8, uint16 or
    float32, (C, H, W). A stack is in memory as a whole. Raises FileNotFoundError, or ValueError as
    ``read_image`` does.
    """
    names = axes_of(path)
    if not names:
        yield Plane("", read_image(path))
        return
    try:
        stack, axes = _stack(Path(path))
        rest = "".join(axis for axis in axes if axis not in names)
        if rest not in ("YX", "CYX", "YXS"):
            raise ValueError(f"its axes are {axes}, save it as a hyperstack")
    except Exception as error:  # damaged files make tifffile raise anything
        raise ValueError(f"{path} cannot be read, copy or save it again: {error}.") from None
    order = [axes.index(axis) for axis in names]
    stack = np.moveaxis(stack, order, range(len(order)))
    digits = [len(str(size - 1)) for size in stack.shape[: len(names)]]
    for place in product(*map(range, stack.shape[: len(names)])):
        plane = stack[place][None] if rest == "YX" else stack[place]
        plane = np.moveaxis(plane, -1, 0) if rest == "YXS" else plane
        parts = zip(names, place, digits, strict=True)
        name = "".join(f"{axis.lower()}{number:0{width}}" for axis, number, width in parts)
        yield Plane(name, _usual(plane, f"{path}, {name}"))


def axes_of(path: str | Path) -> str:
    """Name the axes of a TIFF stack but rows, columns and channels, e.g. "TZ"; "" if none is left.

    It reads the head of the file. "" also for what is no TIFF, or damaged.
    """
    try:
        with tifffile.TiffFile(path) as file:
            sizes = _sizes(file)
    except Exception:  # read_image says what is wrong
        return ""
    return "".join(
        axis for axis, size in sizes.items()
        if axis not in "YXCS" and size > (FEW if axis in "QI" else 1)
    )  # fmt: skip


def pixel_size(path: str | Path) -> float | None:
    """Read the side of a pixel from an OME or ImageJ header, or a resolution per cm, µm.

    None where the file does not say it in a unit of length.
    """
    try:
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


def _stack(path: Path) -> tuple[NDArray[Any], str]:
    """Read a stack and its axes; those of one plane are dropped."""
    with tifffile.TiffFile(path) as file:
        sizes = {axis: n for axis, n in _sizes(file).items() if n > 1 or axis in "YX"}
        series = file.series[0]
        if series.nbytes > min(MOST_BYTES, 2000 * path.stat().st_size + 2**26):
            raise ValueError(f"it declares {series.nbytes:,} bytes, save smaller stacks")
        return series.asarray(maxworkers=1).reshape(tuple(sizes.values())), "".join(sizes)


def _usual(plane: NDArray[Any], where: str) -> NDArray[Any]:
    kept = {"b1": np.uint8, "u1": np.uint8, "u2": np.uint16}
    kind = kept.get(plane.dtype.str[1:], np.float32)
    if plane.dtype.kind == "c" or not np.isfinite(plane).all():
        raise ValueError(f"{where} holds NaN, infinite or complex numbers: save it as 16 bit.")
    return np.ascontiguousarray(plane, kind)


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
