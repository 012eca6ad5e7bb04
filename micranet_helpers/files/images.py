"""Read one image or mask from a file of any usual kind, or say why it cannot be used.

TIFF and OME-TIFF are read by tifffile; PNG, JPEG and BMP by Pillow. A file is known by its
content, not its name. What it declares is checked before it is decoded: a damaged or hostile
file gives an error, no endless wait and no full memory, and no other file is ever opened.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from micranet_helpers.files.tables import visible

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
"""Endings, in lower case, of the files that are taken for images."""

MOST_BYTES = 2**31  # of a file, and of the image in it
MOST_PACKED = 200  # bytes of an image : its file; label masks reach 100
UNSUSPECTED = 2**28  # bytes of an image, however small its file is: that of an empty mask is tiny
JPEG = 7
ORIENTATION = 0x0112  # tag of EXIF
INVERTED = "inverted greys (white is 0)"
PROFILE = "colour profile, ignored"
KINDS = ("MINISBLACK", "RGB", "MASK", "PALETTE")  # of TIFF, the meaning of its values
COMPRESSIONS = (1, 5, JPEG, 8, 32773, 32946, 50000)  # none, LZW, JPEG, deflate ×2, PackBits, zstd


class _Unusable(ValueError):
    """The file is sound, but holds something else than is wanted."""


def read_image(path: str | Path) -> NDArray[Any]:
    """Read an image as its file stores it: (C, H, W), uint8, uint16 or, for all else, float32.

    The file holds one plane, of one or more channels; a TIFF stack that does not name its axes is
    taken for channels if it has 2 to 4 planes. What it says about its pixels is applied: the
    orientation of EXIF and TIFF, inverted greys (white is 0), palettes, which become RGB. Only the
    look-up table of ImageJ, which colours a display, and its calibration are not. Images of one,
    two or four bits give 0 to 1, 3 or 15. An alpha channel that is opaque everywhere is left out.
    :func:`read_noted` says what was found.

    Raises FileNotFoundError if there is no such file; ValueError if it is damaged, no image, a
    stack in time or depth, larger than 2 GiB (PNG, JPEG and BMP: 89 million pixels), made for print
    (CMYK, Lab), or holds NaN. Changed values of TIFF, JPEG and BMP pass: these files have no
    checksums.
    """
    return read_noted(path)[0]


def read_noted(path: str | Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Read an image as :func:`read_image` does, and what its file says beside the values.

    E.g. ``("palette", "turned (orientation 6)")``: what was applied, or ignored.
    """
    with _reading(path) as data:
        planes, said = _planes(data, as_mask=False)
        return usual(planes), tuple(said)


def read_mask(path: str | Path) -> NDArray[Any]:
    """Read a mask: one plane of whole numbers, such as classes or numbers of objects.

    It is uint8, uint16 or uint32, (H, W). A palette gives its indices, not its colours; one bit
    gives 0 and 1. Raises FileNotFoundError if there is no such file; ValueError if it is damaged,
    no image, in colours, or holds negative or broken numbers.
    """
    with _reading(path) as data:
        planes, _ = _planes(data, as_mask=True)
        mask = planes[0]
        small = mask.dtype.kind in "bu" and mask.dtype.itemsize < 8
        if not (small or ((mask >= 0) & (mask < 2**32) & (mask % 1 == 0)).all()):
            raise _Unusable("a mask holds whole numbers from 0 on: save it as 8 or 16 bit.")
        if (planes != mask).any():
            raise _Unusable("a mask has one plane of numbers: save it grey, not in colours.")
        return mask.astype(np.min_scalar_type(int(mask.max())))


@contextmanager
def _reading(path: str | Path) -> Iterator[bytes]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}: check the path.")
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise _Unusable("it has more than 2 GiB: save single planes or smaller fields.")
        yield Path(path).read_bytes()
    except _Unusable as error:
        raise ValueError(f"{path} cannot be used: {error}") from None
    except PermissionError:
        raise
    except Exception as error:  # damaged files make the libraries raise anything
        raise ValueError(
            f"{path} cannot be read, it is damaged or no TIFF, PNG, JPEG or BMP image: copy it "
            f"again or save it anew, e.g. with Fiji ({error or type(error).__name__})."
        ) from error


def _planes(data: bytes, as_mask: bool) -> tuple[NDArray[Any], list[str]]:
    """Decode to (C, H, W) in the file's own type; ``as_mask``, indices stay indices.

    Also list what the file says of its pixels.
    """
    is_tiff = data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return _tiff(data, as_mask) if is_tiff else _finished(*_pillow(data, as_mask))


def _finished(
    planes: NDArray[Any], alpha: bool, orientation: int, said: list[str]
) -> tuple[NDArray[Any], list[str]]:
    """Turn and mirror an image, and leave out an alpha channel that is opaque everywhere."""
    if 0 in planes.shape:
        raise _Unusable("it has no pixel.")
    if orientation in range(2, 9):
        said = [*said, f"turned (orientation {orientation})"]
        planes = _upright(planes, orientation)
    opaque = alpha and (planes[-1] == np.iinfo(planes.dtype).max).all()
    return planes[:-1] if opaque else planes, said


def _upright(planes: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn and mirror an image as the tag Orientation of TIFF and EXIF says."""
    planes = planes.swapaxes(1, 2) if orientation > 4 else planes
    down, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return planes[:, :: -1 if down else 1, :: -1 if right else 1]


@contextmanager
def open_tiff(
    data: bytes,
) -> Iterator[tuple[tifffile.TiffFile, tifffile.TiffPageSeries, Callable[[], NDArray[Any]]]]:
    """Open a TIFF: the file, the one image or stack that it holds, and a function that reads it.

    What is incomplete, lies in other files, or is more than so small a file can hold is refused.
    """
    # From memory: so tifffile has no folder in which to look for other files. Closed, or it would
    # stay there for long: tifffile's objects hold each other.
    with _complaints() as complaints, io.BytesIO(data) as memory, tifffile.TiffFile(memory) as file:
        series = [found for found in file.series if not found.keyframe.is_reduced]
        if len(series) != 1:
            several = f"{len(series)} images: save each as a file of its own"
            raise _Unusable(f"it holds {several if series else 'no image'}.")
        check(series[0], len(data), lambda start, count: data[start : start + count])

        def read() -> NDArray[Any]:
            values = series[0].asarray(maxworkers=1)
            if any("OME" in complaint for complaint in complaints):
                raise _Unusable(
                    "its OME header names planes that are not in it: save each image as one TIFF, "
                    "e.g. with Fiji."
                )
            if complaints:
                raise ValueError(complaints[0])
            return values

        yield file, series[0], read


def _tiff(data: bytes, as_mask: bool) -> tuple[NDArray[Any], list[str]]:
    with open_tiff(data) as (file, series, read):
        sizes = {axis: n for axis, n in zip(series.axes, series.shape, strict=True)
                 if n > 1 or axis in "YX"}
        axes = "".join(sizes)
        rest = axes.replace("Y", "").replace("X", "")
        # Q and I: axes without a name
        if rest not in ("", "C", "S") and not (rest in ("Q", "I") and sizes[rest] <= 4):
            raise _Unusable(
                f"it is a stack with the axes {axes}: save single planes, or, if these are "
                "channels, as a hyperstack of channels (CYX)."
            )
        values = read().reshape(tuple(sizes.values()))
        planes = np.moveaxis(values, axes.find(rest), 0) if rest else values[None]
        return as_said(planes, file, series.keyframe, as_mask)


def as_said(
    planes: NDArray[Any], file: tifffile.TiffFile, page: Any, as_mask: bool = False
) -> tuple[NDArray[Any], list[str]]:
    """Apply what a page of :func:`open_tiff` says of its values, (C, H, W); list what was found."""
    alpha = planes.dtype.kind == "u" and len(planes) > 1 and bool({1, 2} & {*page.extrasamples})
    values, said = shown(planes, page, file.is_imagej, as_mask)
    said += [PROFILE] if "InterColorProfile" in page.tags else []
    said += _companions(file)
    return _finished(values, alpha, page.tags.valueof("Orientation", 1), said)


def _companions(file: tifffile.TiffFile) -> list[str]:
    """Name the file that holds the metadata of an OME-TIFF, where it is another one."""
    if "BinaryOnly" not in (text := file.ome_metadata or ""):
        return []
    names = [part.get("MetadataFile", "unknown") for part in ElementTree.fromstring(text)
             if part.tag.endswith("BinaryOnly")]  # fmt: skip
    return [f"metadata is in the companion file {visible(name)}, not read" for name in names]


def shown(
    planes: NDArray[Any], page: Any, of_imagej: bool, as_mask: bool = False
) -> tuple[NDArray[Any], list[str]]:
    """Apply what a TIFF says about the meaning of its values, (C, H, W), and list it."""
    kind = page.photometric.name if page.photometric is not None else "MINISBLACK"
    if kind == "MINISWHITE" and as_mask:
        if page.bitspersample > 1:
            raise _Unusable(
                "white is 0 in it, so it is unclear which values are objects: save it with 0 as "
                "black (in Fiji, Image > Lookup Tables > Invert LUT)."
            )
        return planes, []  # ink on paper, and how tifffile writes bool
    if kind == "MINISWHITE":
        if planes.dtype.kind not in "bu":
            raise _Unusable("white is 0 in it, but its numbers have no end: save it as 16 bit.")
        most = True if planes.dtype.kind == "b" else 2**page.bitspersample - 1
        return most ^ planes, [INVERTED]
    if kind == "PALETTE" and page.colormap is not None:
        if of_imagej:
            return planes, ["look-up table of ImageJ, ignored"]
        if as_mask:
            return planes, ["palette"]
        colours = np.asarray(page.colormap)[:, planes[0]]
        return (colours // 257).astype(np.uint8), ["palette"]
    if kind not in KINDS and not (kind == "YCBCR" and page.compression == JPEG):
        raise _Unusable(f"its colours are {kind}, made for print or raw: save it grey or in RGB.")
    return planes, []


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what tifffile only logs when it guesses how planes belong together, or fails."""
    found: list[str] = []

    def note(record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or "series" in record.getMessage():
            found.append(record.getMessage())

    handler = logging.Handler()
    handler.emit = note
    logger = logging.getLogger("tifffile")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)  # also where the reader silenced it
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def check(
    series: tifffile.TiffPageSeries, size: int, read: Callable[[int, int], bytes],
    most: float = MOST_BYTES,
) -> None:  # fmt: skip
    """Refuse what tifffile would fill with zeros, and what a file of so many bytes cannot hold.

    ``read`` gives some bytes of it from an offset on.
    """
    compression = int(series.keyframe.compression)
    if compression not in COMPRESSIONS:
        raise _Unusable(f"its compression ({compression}) is unusual: save it with deflate or LZW.")
    if series.nbytes > min(most, max(UNSUSPECTED, MOST_PACKED * size)):
        raise _Unusable(f"it declares {series.nbytes} bytes, but has only {size}: copy it again, "
                        "or save it without compression.")
    if series.dataoffset is not None:  # one uncompressed piece
        complete = series.dataoffset + series.nbytes <= size
    else:
        complete = all(
            page is not None
            and len(page.dataoffsets) == len(page.databytecounts) == np.prod(page.chunked)
            and all(start > 0 and n > 0 and start + n <= size
                    for start, n in zip(page.dataoffsets, page.databytecounts, strict=True))
            for page in series
        )
    if not complete:
        raise _Unusable("parts of it are missing or in other files: copy it again, as one file.")
    if compression == JPEG:  # each piece declares a size of its own, which Pillow checks
        for page in series:
            for start, n in zip(page.dataoffsets, page.databytecounts, strict=True):
                _open(read(start, n), "JPEG").close()


def _open(data: bytes, *kinds: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(io.BytesIO(data), formats=kinds)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            most = f"{Image.MAX_IMAGE_PIXELS:,}"
            raise _Unusable(f"it has more than {most} pixels: save it as TIFF.") from None
        except UnidentifiedImageError:
            raise ValueError("unknown format") from None


def _pillow(data: bytes, as_mask: bool) -> tuple[NDArray[Any], bool, int, list[str]]:
    with _open(data, "PNG", "JPEG", "BMP") as file:
        file.verify()  # the checksums of PNG, which decoding skips
    with _open(data, "PNG", "JPEG", "BMP") as file:
        # The second picture of a telephone's JPEG (MPO) is a small or a darker one.
        if getattr(file, "n_frames", 1) > 1 and file.format != "MPO":
            raise _Unusable("it is a film: save single pictures.")
        if file.mode == "CMYK":
            raise _Unusable("it is made for print (CMYK): save it grey or in RGB.")
        orientation = int(file.getexif().get(ORIENTATION, 1))
        bits = data[24] if file.format == "PNG" else 8
        if bits == 16:
            values = imagecodecs.png_decode(data)  # Pillow would cut colours to 8 bits
        else:
            indices = file.mode == "P" and not as_mask
            values = np.asarray(file.convert("RGBA") if indices else file)
        if bits in (2, 4) and file.mode == "L":  # which Pillow spreads over 8
            values = values // (255 // (2**bits - 1))
        said = ["palette"] if file.mode == "P" else []
        said += [PROFILE] if "icc_profile" in file.info else []
    planes = np.moveaxis(values, -1, 0) if values.ndim == 3 else values[None]
    return planes, len(planes) in (2, 4), orientation, said


def usual(planes: NDArray[Any]) -> NDArray[Any]:
    """Convert to uint8, uint16 or float32; what these cannot hold is refused."""
    kind, low, high = planes.dtype.kind, planes.min(), planes.max()
    if kind == "b" or planes.dtype == np.uint8:
        usual = np.uint8
    elif planes.dtype == np.uint16:
        usual = np.uint16
    else:
        usual = np.float32
        most = 2**24 if kind in "iu" else np.finfo(np.float32).max
        if kind not in "iuf" or not -most <= low <= high <= most:  # not so: NaN
            raise _Unusable(
                f"its {planes.dtype} numbers are NaN, infinite or too large: save it as 16 bit."
            )
    return np.ascontiguousarray(planes, usual)
