"""Images and masks come out as stored, or an error says why not; damage never hangs or misleads."""

import io
import logging
import struct
import zlib
from itertools import chain
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from damage import damaged
from PIL import Image, ImageCms, ImageOps

from micranet_helpers.files.images import SUFFIXES, read_image, read_mask, read_noted

GREY = (np.arange(20 * 30) % 97).astype(np.uint8).reshape(20, 30)
PAIR = np.stack([GREY, GREY[::-1] + 1]).astype(np.uint16)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)


def tiff(values: np.ndarray, **options: Any) -> bytes:
    tifffile.imwrite(buffer := io.BytesIO(), values, **options)
    return buffer.getvalue()


def other(values: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def pages(values: np.ndarray) -> bytes:
    with tifffile.TiffWriter(buffer := io.BytesIO()) as file:
        for plane in values:
            file.write(plane, metadata=None, contiguous=False)
    return buffer.getvalue()


@pytest.fixture
def file(tmp_path: Path):
    def write(data: bytes) -> Path:
        (tmp_path / "image").write_bytes(data)
        return tmp_path / "image"

    return write


CYX, ZYX, SCYX = ({"metadata": {"axes": axes}} for axes in ("CYX", "ZYX", "ZCYX"))
STORED = {
    "grey": (tiff(GREY), GREY[None]),
    "deflate": (tiff(GREY, compression="zlib", rowsperstrip=8), GREY[None]),
    "lzw": (tiff(GREY, compression="lzw", predictor=True), GREY[None]),
    "zstandard": (tiff(PAIR, photometric="minisblack", compression="zstd"), PAIR),
    "constant jpeg": (tiff(np.full((40, 60), 90, np.uint8), compression="jpeg", tile=(32, 32)),
                      np.full((1, 40, 60), 90, np.uint8)),
    "tiled": (tiff(GREY, tile=(16, 16), bigtiff=True), GREY[None]),
    "ome": (tiff(PAIR, ome=True, **CYX), PAIR),
    "imagej": (tiff(PAIR, imagej=True, **CYX), PAIR),
    "one plane of each": (tiff(PAIR[:1, None], imagej=True, **SCYX), PAIR[:1]),
    "no axes": (tiff(PAIR, photometric="minisblack"), PAIR),
    "pages": (pages(PAIR), PAIR),
    "planar rgb": (tiff(np.moveaxis(RGB, -1, 0), photometric="rgb"), np.moveaxis(RGB, -1, 0)),
    "rgb": (tiff(RGB, photometric="rgb"), np.moveaxis(RGB, -1, 0)),
    "opaque": (
        tiff(np.dstack([RGB, 0 * GREY + 255]), photometric="rgb", extrasamples=["unassalpha"]),
        np.moveaxis(RGB, -1, 0),
    ),
    "bits": (tiff(GREY > 40, photometric="minisblack"), np.uint8(GREY > 40)[None]),
    "int16": (tiff(GREY.astype(np.int16)), GREY.astype(np.float32)[None]),
    "uint16": (tiff(GREY.astype(">u2")), GREY.astype(np.uint16)[None]),
    "empty deflate": (tiff(np.zeros((2048, 2048), np.uint8), compression="zlib"),
                      np.zeros((1, 2048, 2048), np.uint8)),
    "negative": (tiff(GREY.astype(np.int16) - 50), GREY.astype(np.float32)[None] - 50),
    "float64": (tiff(GREY / 7), (GREY / 7).astype(np.float32)[None]),
    "png": (other(GREY, "PNG"), GREY[None]),
    "png rgb": (other(RGB, "PNG"), np.moveaxis(RGB, -1, 0)),
    "png rgba": (other(np.dstack([RGB, 0 * GREY + 255]), "PNG"), np.moveaxis(RGB, -1, 0)),
    "png see-through": (other(np.dstack([RGB, GREY]), "PNG"),
                        np.moveaxis(np.dstack([RGB, GREY]), -1, 0)),
    "png 1 bit": (other(GREY > 40, "PNG"), np.uint8(GREY > 40)[None]),
    "png 16 bit": (other(PAIR[0] * 300, "PNG"), PAIR[:1] * 300),
    "png 16 bit rgb": (imagecodecs.png_encode(RGB.astype(np.uint16) * 301),
                       np.moveaxis(RGB.astype(np.uint16) * 301, -1, 0)),
    "bmp": (other(RGB, "BMP"), np.moveaxis(RGB, -1, 0)),
}


@pytest.mark.parametrize("kind", STORED)
def test_images_come_out_as_stored(kind, file) -> None:
    data, expected = STORED[kind]
    found = read_image(file(data))
    assert found.dtype == expected.dtype and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_of_a_telephone_the_first_picture_is_read(file) -> None:
    small, exif = Image.fromarray(RGB[:8, :8]), Image.Exif()
    exif[0x0112] = 6  # turn by 90°
    data = other(RGB, "MPO", save_all=True, append_images=[small], exif=exif)
    assert read_image(file(data)).shape == (3, 30, 20)
    assert read_noted(file(data))[1] == ("turned (orientation 6)",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_every_viewer(orientation, file) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(other(GREY, "PNG", exif=exif)))
    shown = np.asarray(ImageOps.exif_transpose(image))
    tag = [(0x0112, "H", 1, orientation, True)]
    for data in (other(GREY, "PNG", exif=exif), tiff(GREY, extratags=tag)):
        np.testing.assert_array_equal(read_image(file(data)), shown[None])
        np.testing.assert_array_equal(read_mask(file(data)), shown)
        assert len(read_noted(file(data))[1]) == (orientation > 1)


@pytest.mark.parametrize("values", [GREY, PAIR[0], GREY > 40], ids=["8", "16", "1"])
def test_inverted_greys_are_put_right_and_refused_in_masks(values, file) -> None:
    path = file(tiff(values, photometric="miniswhite"))
    most = 1 if values.dtype == bool else np.iinfo(values.dtype).max
    np.testing.assert_array_equal(read_image(path)[0], most - values.astype(int))
    assert read_noted(path)[1] == ("inverted greys (white is 0)",)
    if values.dtype == bool:
        np.testing.assert_array_equal(read_mask(path), values)
    else:
        with pytest.raises(ValueError, match="unclear which values are objects"):
            read_mask(path)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_counted_as_they_are(bits, file) -> None:
    values = (GREY % 2**bits).astype(np.uint8)
    packed = np.packbits(
        np.unpackbits(np.pad(values, ((0, 0), (0, 2)))[..., None], axis=-1)[..., -bits:]
        .reshape(20, -1), axis=-1)  # fmt: skip
    rows = zlib.compress(b"".join(b"\0" + row[: -(-30 * bits // 8)].tobytes() for row in packed))
    head = struct.pack(">IIBBBBB", 30, 20, bits, 0, 0, 0, 0)
    path = file(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    ))  # fmt: skip
    np.testing.assert_array_equal(read_mask(path), values)
    np.testing.assert_array_equal(read_image(path)[0], values)


def test_a_colour_profile_is_named(file) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (other(RGB, "JPEG", icc_profile=profile), other(RGB, "TIFF", icc_profile=profile)):
        assert read_noted(file(data))[1] == ("colour profile, ignored",)


def palette() -> Image.Image:
    image = Image.fromarray((GREY % 4).astype(np.uint8), "L")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


def test_palette_is_colours_in_an_image_and_indices_in_a_mask(file) -> None:
    path = file(other(palette(), "PNG"))
    np.testing.assert_array_equal(read_mask(path), GREY % 4)
    np.testing.assert_array_equal(read_image(path)[0], 255 * (GREY % 4 == 1))
    assert read_noted(path)[1] == ("palette",)


def test_palette_of_tiff_is_colours_but_that_of_imagej_is_for_display(file) -> None:
    colours = (np.arange(3)[:, None] + np.arange(256) * 257) % 2**16
    plain, imagej = (file(tiff(GREY, photometric="palette", colormap=colours.astype(np.uint16))),
                     tiff(GREY, imagej=True, colormap=colours.astype(np.uint16)))
    expected = (colours // 257)[:, GREY]
    np.testing.assert_array_equal(read_image(plain), expected)
    np.testing.assert_array_equal(read_mask(plain), GREY)
    if tifffile.TiffFile(io.BytesIO(imagej)).pages[0].photometric.name == "PALETTE":
        np.testing.assert_array_equal(read_image(file(imagej))[0], GREY)
        assert read_noted(file(imagej))[1] == ("look-up table of ImageJ, ignored",)


@pytest.mark.parametrize(
    ("data", "kind", "factor"),
    [(tiff(GREY), np.uint8, 1), (tiff(GREY.astype(np.float32)), np.uint8, 1),
     (tiff(GREY.astype(np.int32) * 1000), np.uint32, 1000),
     (other(np.dstack([GREY] * 3), "PNG"), np.uint8, 1)],
)
def test_masks_hold_whole_numbers(data, kind, factor, file) -> None:
    found = read_mask(file(data))
    assert found.dtype == kind
    np.testing.assert_array_equal(found, GREY.astype(np.uint32) * factor)


@pytest.mark.parametrize(
    ("values", "word"),
    [(RGB, "grey"), (GREY / 7, "whole"), (GREY.astype(np.int16) - 1, "whole"),
     (np.where(GREY, GREY, np.nan), "whole")],
)
def test_masks_refuse_all_else(values, word, file) -> None:
    with pytest.raises(ValueError, match=word):
        read_mask(file(tiff(values)))


MISFITS = {
    "stack": (tiff(PAIR, imagej=True, **ZYX), "stack with the axes ZYX"),
    "many planes": (tiff(np.stack([GREY] * 5), photometric="minisblack"), "axes QYX"),
    "several": (pages([GREY, RGB]), "2 images"),
    "thumbnail": (tiff(GREY, subfiletype=1), "holds no image"),
    "nan": (tiff(np.where(GREY, GREY, np.nan)), "NaN"),
    "large": (tiff(GREY.astype(np.int64) << 40), "too large"),
    "complex": (tiff(GREY.astype(np.complex64)), "complex64"),
    "print tiff": (tiff(np.dstack([GREY] * 4), photometric="separated"), "SEPARATED"),
    "lab": (tiff(RGB, photometric="cielab"), "CIELAB"),
    "inverted float": (tiff(GREY / 7, photometric="miniswhite"), "no end"),
    "print": (other(Image.new("CMYK", (9, 9)), "JPEG"), "for print"),
    "film": (other(Image.new("L", (9, 9)), "PNG", save_all=True,
                   append_images=[Image.new("L", (9, 9), 1)]), "film"),
    "text": (b"file,ring\n1.tif,1\n", "damaged or no TIFF"),
    "empty": (b"", "damaged or no TIFF"),
    "huge": (other(Image.new("1", (10_000, 10_000)), "PNG"), "more than 89,478,485 pixels"),
    "large tiles": (tiff(RGB, compression="jpeg", photometric="rgb").replace(
        b"\x08" + bytes([0, 20, 0, 30]), b"\x08" + bytes([0xff, 0xdc] * 2)),
        "more than 89,478,485 pixels"),
    "unusual": (tiff(RGB, compression="webp", photometric="rgb"), "its compression .50001."),
    "bomb": (tiff(np.zeros((12_000, 12_000), np.uint16), compression="zstd"),
             "declares 288000000 bytes"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_cannot_be_used_is_named_with_the_reason(kind, file) -> None:
    data, words = MISFITS[kind]
    with pytest.raises(ValueError, match=words) as caught:
        read_image(file(data))
    assert str(file(data)) in str(caught.value)


def test_missing_files_and_folders(tmp_path) -> None:
    for path in (tmp_path / "none.tif", tmp_path):
        with pytest.raises(FileNotFoundError, match="check the path"):
            read_image(path)


def test_other_files_are_never_read(tmp_path) -> None:
    """An OME-TIFF may name files anywhere for further planes."""
    (tmp_path / "secret.tif").write_bytes(tiff(PAIR[1], ome=True))
    ome = tifffile.TiffFile(io.BytesIO(tiff(PAIR, ome=True, **CYX))).ome_metadata
    ome = ome.replace('<TiffData IFD="0" PlaneCount="2"/>', "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:{c}</UUID>'
        "</TiffData>" for c, name in enumerate(["own.tif", "../secret.tif"])
    ))
    assert "secret" in ome
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "own.tif"
    path.write_bytes(tiff(PAIR[0], description=ome, metadata=None))
    with pytest.raises(ValueError, match="names planes that are not in it"):
        read_image(path)


def test_truncated_files_are_noticed(file) -> None:
    for data, expected in STORED.values():
        for end in range(0, len(data), 1 + len(data) // 25):
            try:
                found = read_image(file(data[:end]))
            except ValueError:
                continue
            np.testing.assert_array_equal(found, expected)  # only what nobody needs is missing


def test_truncation_is_noticed_where_tifffile_is_silenced(file) -> None:
    logger = logging.getLogger("tifffile")
    logger.setLevel(logging.CRITICAL)
    try:
        with pytest.raises(ValueError, match="damaged"):
            read_image(file(STORED["imagej"][0][:-100]))
        assert logger.level == logging.CRITICAL
    finally:
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("kind", STORED)
def test_damage_gives_an_error_or_an_image(kind, file) -> None:
    """2,800 damaged files; PNG has checksums, so there no wrong value may pass."""
    data, expected = STORED[kind]
    head = range(min(len(data), 500))  # it is hit more often
    errors = 0
    for changed in chain(damaged(data, 40), damaged(data, 60, head)):
        try:
            found = read_image(file(changed))
        except ValueError:
            errors += 1
            continue
        assert found.ndim == 3 and found.dtype in (np.uint8, np.uint16, np.float32)
        assert found.nbytes < 2000 * len(data) * 4 and np.isfinite(found).all()
        if kind.startswith("png"):
            np.testing.assert_array_equal(found, expected)
    assert errors


@pytest.mark.data
def test_all_files_of_the_mirror_can_be_read(mirror) -> None:
    paths = [path for path in mirror.rglob("*") if path.suffix.lower() in SUFFIXES]
    shapes = {path.name: read_image(path).shape for path in paths[::5]}
    assert len(shapes) > 20 and {shape[0] for shape in shapes.values()} >= {1, 3}
    smear = next(mirror.rglob("PVivax/data/*.tif"))
    assert read_image(smear).shape == (3, 512, 512)
