"""Image files plane by plane, and what they say about the size of a pixel."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image

from micranet_helpers.files.images import read_image
from micranet_helpers.files.series import axes_of, members, pixel_size, planes, read_plane

STACK = np.random.default_rng(0).integers(0, 60000, (3, 2, 2, 9, 12), np.uint16)  # T, Z, C, Y, X


def test_stacks_are_read_plane_by_plane_with_their_channels(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZCYX"})
    found = list(planes(path))
    assert axes_of(path) == "TZ" and [plane.name for plane in found][:3] == ["t0z0", "t0z1", "t1z0"]
    np.testing.assert_array_equal([plane.image for plane in found], STACK.reshape(6, 2, 9, 12))


@pytest.mark.parametrize(
    ("stack", "how", "shape"),
    [
        (STACK[:, 0, 0], {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}, (1, 9, 12)),
        (np.zeros((5, 9, 12, 3), np.uint8), {"photometric": "rgb"}, (3, 9, 12)),
        (np.zeros((6, 9, 12), bool), {"photometric": "minisblack"}, (1, 9, 12)),
        (np.zeros((5, 9, 12), np.int32), {"photometric": "minisblack"}, (1, 9, 12)),
    ],
    ids=["depth", "colours", "bits", "int32"],
)
def test_other_stacks(tmp_path: Path, stack: np.ndarray, how: dict, shape: tuple) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, stack, **how)
    found = list(planes(path))
    assert len(found) == len(stack) and {plane.image.shape for plane in found} == {shape}
    assert {str(plane.image.dtype) for plane in found} <= {"uint8", "uint16", "float32"}


def test_single_images_are_what_read_image_reads(tmp_path: Path) -> None:
    Image.fromarray(STACK[0, 0, 0].astype(np.uint8)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", STACK[0, 0], photometric="minisblack")  # two channels
    for path in (tmp_path / "a.png", tmp_path / "b.tif"):
        [plane] = planes(path)
        assert plane.name == ""
        np.testing.assert_array_equal(plane.image, read_image(path))


@pytest.mark.parametrize(
    ("how", "expected", "said"),
    [
        ({"photometric": "miniswhite"}, lambda plane: 255 - plane, "inverted greys (white is 0)"),
        ({"extratags": [(274, "H", 1, 6, True)], "photometric": "minisblack"},
         lambda plane: np.rot90(plane, -1), "turned (orientation 6)"),
    ],
    ids=["white", "turned"],
)  # fmt: skip
def test_what_a_stack_says_of_its_pixels_is_applied(tmp_path, how: dict, expected, said) -> None:
    stack = (STACK[:, :, 0].reshape(6, 9, 12) // 256).astype(np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack, **how)
    tifffile.imwrite(tmp_path / "one.tif", stack[2], **how)
    for found, plane in zip(planes(tmp_path / "stack.tif"), stack, strict=True):
        np.testing.assert_array_equal(found.image[0], expected(plane))
        assert found.said == (said,)
    np.testing.assert_array_equal(read_image(tmp_path / "one.tif")[0], expected(stack[2]))


def test_a_stack_is_read_as_a_folder_of_its_planes(tmp_path: Path) -> None:
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "TZCYX", "PhysicalSizeX": 0.25})
    assert [plane.name for plane in members(path)] == [plane.name for plane in planes(path)]
    for plane, expected in zip(members(path), STACK.reshape(6, 2, 9, 12), strict=True):
        np.testing.assert_array_equal(read_plane(plane).image, expected)
        assert plane.parent == path and pixel_size(plane) == 0.25
    np.testing.assert_array_equal(read_plane(path).image, STACK[0, 0])
    tifffile.imwrite(path, STACK[::-1], ome=True, metadata={"axes": "TZCYX"})
    np.testing.assert_array_equal(read_plane(path / "t0z0").image, STACK[2, 0])
    with pytest.raises(FileNotFoundError, match="no plane t9 in .*: check the name"):
        read_plane(path / "t9")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_plane(tmp_path / "none.tif")
    Image.fromarray(STACK[0, 0, 0].astype(np.uint8)).save(tmp_path / "a.png")
    assert members(tmp_path / "a.png") == [tmp_path / "a.png"]


def test_damaged_stacks_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    values = np.full((5, 9, 12), np.nan, np.float32)
    tifffile.imwrite(path, values, photometric="minisblack")
    with pytest.raises(ValueError, match="stack.tif cannot be read, .*: plane .0 holds NaN"):
        list(planes(path))
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZCYX"}, compression="zlib")
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(ValueError, match="stack.tif cannot be"):
        list(planes(path))


OME = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">
<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="16" SizeY="16" SizeZ="2" SizeC="1"
SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>
<TiffData IFD="0" FirstZ="0"><UUID FileName="own.ome.tif">urn:uuid:1</UUID></TiffData>
<TiffData IFD="0" FirstZ="1"><UUID FileName="other.tif">urn:uuid:2</UUID></TiffData>
</Pixels></Image></OME>"""


def test_a_stack_shows_no_other_file(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "other.tif", np.full((16, 16), 77, np.uint8))
    own = tmp_path / "own.ome.tif"
    tifffile.imwrite(own, np.zeros((16, 16), np.uint8), description=OME, metadata=None)
    with pytest.raises(ValueError, match="own.ome.tif cannot be"):
        list(planes(own))


BINARY_ONLY = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">
<BinaryOnly MetadataFile="a &amp; b&#x202e;.companion.ome" UUID="urn:uuid:2"/></OME>"""


@pytest.mark.parametrize("count", [1, 6])
def test_a_companion_file_is_named_and_not_read(tmp_path: Path, count: int) -> None:
    stack = STACK[:, :, 0].reshape(6, 9, 12)[:count]
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, stack, description=BINARY_ONLY, metadata=None, photometric="minisblack")
    found = list(planes(path))
    np.testing.assert_array_equal([plane.image[0] for plane in found], stack)
    sentence = r"metadata is in the companion file a & b\u202e.companion.ome, not read"
    assert {plane.said for plane in found} == {(sentence,)}
    tifffile.imwrite(path, stack, ome=True)
    assert {plane.said for plane in planes(path)} == {()}


@pytest.mark.parametrize(
    ("how", "size"),
    [
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "um"}}, 0.25),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "pixel"}}, None),
        ({"ome": True, "metadata": {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm"}}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.25}}, 0.25),
        ({"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (28, 28), "resolutionunit": "CENTIMETER"}, None),
        ({}, None),
    ],
)
def test_size_of_a_pixel(tmp_path: Path, how: dict, size: float | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0, 0, 0], **how)
    assert pixel_size(path) == (size if size is None else pytest.approx(size))


@pytest.mark.parametrize("how", [
    {"imagej": True, "resolution": (10, 5), "metadata": {"unit": "um"}},
    {"ome": True, "metadata": {"PhysicalSizeX": 0.1, "PhysicalSizeY": 0.2}},
])  # fmt: skip
def test_pixels_that_are_no_squares_are_refused(tmp_path: Path, how: dict) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0, 0, 0], **how)
    with pytest.raises(ValueError, match="a.tif has pixels of 0.1 × 0.2 µm: make them squares"):
        pixel_size(tmp_path / "a.tif")


def test_what_is_no_tiff_does_not_say_the_size_of_a_pixel(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    assert pixel_size(tmp_path / "a.tif") is None and axes_of(tmp_path / "a.tif") == ""


METRES = {"X": np.arange(12) * 0.25e-6}


def pretended(module: str, images: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that a reader is installed, with images of certain sizes and values."""

    class File:
        def __init__(self, path: Path) -> None:
            self.images = [SimpleNamespace(**image) for image in images]
            self.scenes = dict(enumerate(self.images))
            vars(self).update(images[0])

        def __enter__(self) -> "File":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    names = {"nd2": "ND2File", "liffile": "LifFile", "czifile": "CziFile"}
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{names[module]: File}))


def stack(values: np.ndarray, axes: str, **more: object) -> dict:
    sizes = dict(zip(axes, values.shape, strict=True))
    return {"sizes": sizes, "dtype": values.dtype, "asarray": lambda: values, **more}


@pytest.mark.parametrize("end", ["nd2", "lif", "czi"])
def test_formats_of_microscopes_are_read_plane_by_plane(tmp_path, end, monkeypatch) -> None:
    (path := tmp_path / f"A.{end.upper()}").write_bytes(b"-")
    module, more = {"nd2": ("nd2", {"voxel_size": lambda: SimpleNamespace(x=0.25)}),
                    "lif": ("liffile", {"coords": METRES}),
                    "czi": ("czifile", {"coords": METRES})}[end]  # fmt: skip
    pretended(module, [stack(STACK, "TZCYX", **more)], monkeypatch)
    found = list(planes(path))
    assert axes_of(path) == "TZ" and pixel_size(path) == pytest.approx(0.25)
    assert [plane.name for plane in found] == [plane.name for plane in members(path)]
    assert [plane.name for plane in found][:3] == ["t0z0", "t0z1", "t1z0"]
    np.testing.assert_array_equal([plane.image for plane in found], STACK.reshape(6, 2, 9, 12))


def test_several_images_in_a_file_and_colours(tmp_path: Path, monkeypatch) -> None:
    (path := tmp_path / "a.lif").write_bytes(b"-")
    colours = np.zeros((9, 12, 3), np.uint8)
    images = [stack(STACK[0, :, 0], "ZYX", coords={}), stack(colours, "YXS", coords={})]
    pretended("liffile", images, monkeypatch)
    assert [(plane.name, plane.image.shape) for plane in planes(path)] == [
        ("i0z0", (1, 9, 12)), ("i0z1", (1, 9, 12)), ("i1", (3, 9, 12))]  # fmt: skip
    assert members(path) == [path / name for name in ("i0z0", "i0z1", "i1")]
    assert pixel_size(path) is None
    pretended("liffile", [stack(STACK[0], "ZCXY", coords={})], monkeypatch)
    with pytest.raises(ValueError, match="a.lif cannot be read.*its axes are ZCXY"):
        list(planes(path))


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch) -> None:
    (path := tmp_path / "a.nd2").write_bytes(b"-")
    monkeypatch.setitem(sys.modules, "nd2", None)
    with pytest.raises(ValueError, match=r"needs nd2: pip install 'micranet-helpers\[mic"):
        list(planes(path))
    assert axes_of(path) == "" and pixel_size(path) is None


def test_a_damaged_file_of_a_microscope_is_refused_in_one_sentence(tmp_path, monkeypatch) -> None:
    (path := tmp_path / "a.nd2").write_bytes(b"-")
    broken = SimpleNamespace(ND2File=lambda _: Path("No such").read_bytes())
    monkeypatch.setitem(sys.modules, "nd2", broken)
    with pytest.raises(ValueError, match="a.nd2 cannot be read, copy or save it again: .*No such"):
        list(planes(path))
