"""Images larger than the memory: block by block, with the result of the whole."""

import csv
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
import zarr
from bright import bright_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image as OmeImage
from ome_zarr_models.v05.image_label import ImageLabel
from scipy import ndimage
from torch import Tensor, nn

from micranet_helpers import zoo
from micranet_helpers.data.own.annotations import image_files
from micranet_helpers.files import large as files
from micranet_helpers.files import series
from micranet_helpers.files.microscopes import READERS
from micranet_helpers.maps import segmentation
from micranet_helpers.predict import large, objects, predict, ways

pytestmark = pytest.mark.slow

SETTINGS = {"TILE": 128, "STRIDE": 48, "TILES": 2, "CHUNK": 64}  # blocks of 96 px


class Blur(nn.Module):
    """Logits of a class that is bright, and of one that is brighter, in means of 5 × 5 px."""

    in_channels, num_classes = 1, 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1, 5, 5) / 25)

    def forward(self, images: Tensor) -> Tensor:
        grey = nn.functional.conv2d(images, self.weight, padding=2)
        return torch.cat([grey - 0.5, grey - 0.6], 1)


def networks(**usage) -> ways.Networks:
    usage = {"scaling": "minmax", "dtype": "uint16", **usage}
    usage = zoo.Usage(("bright", "brighter"), recipe="self-trained", **usage)
    return ways.Networks(None, SimpleNamespace(models=[Blur()]), usage)


def small_tiles(monkeypatch) -> None:
    for name in ("TILE", "STRIDE"):
        monkeypatch.setattr(segmentation, name, SETTINGS[name])
    for name, value in SETTINGS.items():
        monkeypatch.setattr(large, name, value)
    monkeypatch.setattr(files, "WHOLE", 150**2)


@pytest.fixture
def tiles_of_128(monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)


def blobs(height: int, width: int, sigma: float = 5, seed: int = 0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), sigma)
    return ((noise - noise.min()) / np.ptp(noise) * 60000).astype(np.uint16)


def renumbered(labels: np.ndarray) -> np.ndarray:
    """The same parts, numbered by their first pixels."""
    numbers, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.where(numbers == 0, -1, first).argsort().argsort()
    return (rank + (numbers[0] != 0))[inverse].reshape(labels.shape)


def labels_of(out: Path) -> np.ndarray:
    return zarr.open_array(out / "labels" / "objects" / "0")[:]


def equals_the_whole(path, image, net, way, area, width, out, rounding=0.0) -> objects.Found:
    """Scores, labels and table of the blocks are those of the whole image.

    But for a few pixels between two objects that a watershed may give to either.
    """
    with torch.no_grad():
        found = large.find(path, net, way, area, width, out, os.urandom(16).hex(), None)
    masks, scores = ways.find(net, image, [way])[way]
    np.testing.assert_allclose(zarr.open_array(out / "0")[:], scores, 0, rounding)
    whole = objects.found_in(image, masks, scores, area, width)
    assert len(found.table) == len(whole.table)
    differ = np.count_nonzero(labels_of(out) != renumbered(whole.labels))
    assert differ <= (whole.labels.size * 1e-4 if width else 0)
    order = np.unique(whole.labels[whole.labels > 0], return_index=True)[1].argsort()
    np.testing.assert_array_equal(found.classes, whole.classes[order])
    np.testing.assert_allclose(found.table, whole.table[order],
                               *((0.02, 1.5) if differ else (5e-4, 1e-5)))  # fmt: skip
    assert found.covered == pytest.approx(whole.covered)
    return found


@pytest.mark.parametrize("scaling", ["minmax", "standard", "fixed"])
@pytest.mark.parametrize("shape", [(300, 410), (129, 500), (257, 224)])
@pytest.mark.parametrize("width", [None, 12.0])
def test_blocks_give_the_scores_and_objects_of_the_whole(
    tmp_path, tiles_of_128, scaling, shape, width
) -> None:
    image = blobs(*shape)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), compression="zlib")
    found = equals_the_whole(tmp_path / "a.tif", image[None], networks(scaling=scaling),
                             "self-trained", 9, width, tmp_path / "a.ome.zarr")  # fmt: skip
    assert len(found.table) > 10 or scaling != "minmax"


@pytest.mark.parametrize("times", [1.0, 1.5])
def test_classes_that_are_no_objects_are_left_out(tmp_path, tiles_of_128, times) -> None:
    image = np.where(blobs(300, 410) > 33000, np.uint16(60000), np.uint16(100))
    tifffile.imwrite(tmp_path / "a.tif", image)
    both = networks(magnification=times, levels=(0.013, 0.0171), objects=["brighter"])
    one = ways.objects_only(both)
    assert (one.usage.classes, one.usage.levels) == (("brighter",), (0.0171,))
    whole, part = (ways.find(net, image[None], ["self-trained"])["self-trained"].scores
                   for net in (both, one))  # fmt: skip
    np.testing.assert_array_equal(part, whole[1:])
    equals_the_whole(tmp_path / "a.tif", image[None], one, "self-trained", 9, 12,
                     tmp_path / "a.ome.zarr", 1e-4)  # fmt: skip


@pytest.mark.parametrize("way", ["plain, bright", "plain, dark"])
def test_a_plain_threshold_is_that_of_the_whole_image(tmp_path, tiles_of_128, way) -> None:
    image = blobs(300, 410)
    tifffile.imwrite(tmp_path / "a.tif", image)
    equals_the_whole(tmp_path / "a.tif", image[None], networks(), way, 9, None,
                     tmp_path / "a.ome.zarr", 1e-5)  # fmt: skip


@pytest.mark.parametrize("times", [0.7, 1.5, 2.0])
def test_magnified_images_have_the_same_objects(tmp_path, tiles_of_128, times) -> None:
    """Up to rounding of the places that are interpolated, so no pixel lies near the level."""
    image = np.where(blobs(300, 410) > 33000, np.uint16(60000), np.uint16(100))
    tifffile.imwrite(tmp_path / "a.tif", image, rowsperstrip=7, compression="zlib")
    net = networks(magnification=times, levels=(0.013, 0.0171))
    equals_the_whole(tmp_path / "a.tif", image[None], net, "self-trained", 9, 12,
                     tmp_path / "a.ome.zarr", 1e-4)  # fmt: skip


drawn = st.lists(st.tuples(st.integers(0, 319), st.integers(0, 287), st.integers(2, 90),
                           st.integers(2, 90)), min_size=1, max_size=12)  # fmt: skip


SNAKE = [(8 + 16 * n, 4, 4, 280) for n in range(19)]  # winds through all blocks
SNAKE += [(12 + 16 * n, 4 if n % 2 else 280, 12, 4) for n in range(18)]


@settings(max_examples=25)
@example(SNAKE, None, 9)
@given(drawn, st.sampled_from([None, 8.0, 30.0]), st.sampled_from([1, 9, 400]))
def test_objects_across_borders_and_corners_are_joined(tmp_path_factory, boxes, width, area):
    folder, image = tmp_path_factory.mktemp("drawn"), np.zeros((320, 288), np.uint16)
    for top, left, height, wide in boxes:
        image[top : top + height, left : left + wide] ^= 60000  # frames, snakes and crosses
    image[0, 0] = 60000
    tifffile.imwrite(folder / "a.tif", image)
    with pytest.MonkeyPatch.context() as patch:
        small_tiles(patch)
        equals_the_whole(folder / "a.tif", image[None], networks(scaling="fixed"), "self-trained",
                         area, width, folder / "a.ome.zarr")  # fmt: skip


# --- files -------------------------------------------------------------------------------------


def write_zarr(path: Path, image: np.ndarray, version: str = "0.5", **more) -> None:
    """An OME-Zarr as other programs write it: five axes, pixels of 0.2 µm."""
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *axes]
    scale = [{"type": "scale", "scale": [1, 1, 1, 0.2, 0.2]}]
    sets = [{"path": "0", "coordinateTransformations": scale}]
    about = {"multiscales": [{"version": version, "axes": axes, "datasets": sets}]}
    new = version == "0.5"
    group = zarr.open_group(path, mode="w", zarr_format=3 if new else 2,
                            attributes={"ome": {"version": version, **about}} if new else about)
    group.create_array("0", data=image[None, None, None], chunks=(1, 1, 1, 50, 60), **more)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_predict_takes_blocks_where_an_image_is_large(
    tmp_path, tiles_of_128, monkeypatch, version
) -> None:
    image, folder = blobs(160, 200, 8), tmp_path / "images"
    (folder / "day").mkdir(parents=True)
    write_zarr(folder / "day" / "large.zarr", image, version)
    write_zarr(folder / "small.zarr", image[:100, :120], version)
    usage = zoo.Usage(("cell",), "minmax", dtype="uint16", object_px=20)
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", bright_model(), {}, usage=usage)
    report = predict(folder, tmp_path / "zoo.hdf5", tmp_path / "out")
    rows = {row["file"]: row for row in csv.DictReader((tmp_path / "out/summary.csv").open())}
    place = tmp_path / "out" / "images" / "day" / "large.zarr"
    assert sorted(path.name for path in place.iterdir()) == [
        "done.json", "large-objects.csv", "large-overlay.png", "large.ome.zarr"]  # fmt: skip
    labels = labels_of(place / "large.ome.zarr")
    table = [*csv.DictReader((place / "large-objects.csv").open())]
    assert len(table) == int(rows["day/large.zarr"]["objects"]) == labels.max() > 1
    for row in table:
        area = np.count_nonzero(labels == int(row["id"]))
        assert float(row["area_px"]) == area and float(row["area_um2"]) == pytest.approx(area / 25)
    monkeypatch.setattr(files, "WHOLE", 2**24)
    predict(folder, tmp_path / "zoo.hdf5", tmp_path / "whole")
    whole = {row["file"]: row for row in csv.DictReader((tmp_path / "whole/summary.csv").open())}
    assert "large.zarr" in report.read_text() and whole.keys() == rows.keys()
    for name, row in whole.items():
        for key in ("error", "objects", "median area, px", "note"):
            assert rows[name][key] == row[key]
        for key in ("covered, %", "certainty"):
            assert float(rows[name][key]) == pytest.approx(float(row[key]), rel=1e-4)
    there = (tmp_path / "whole/images/day/large.zarr/large-objects.csv").read_text()
    assert [line.split(",")[1:] for line in there.split()[:1]] == [[*table[0]][1:]]
    assert len(there.split()) == len(table) + 1


def test_the_ome_zarr_is_valid_and_calibrated(tmp_path, tiles_of_128) -> None:
    tifffile.imwrite(tmp_path / "a.tif", blobs(300, 2000))
    out = tmp_path / "a.ome.zarr"
    large.find(tmp_path / "a.tif", networks(), "plain, bright", 9, None, out, "a", 0.25)
    image = OmeImage.from_zarr(zarr.open_group(out, mode="r"))
    label = ImageLabel.from_zarr(zarr.open_group(out / "labels" / "objects", mode="r"))
    for found, kind in ((image, "float32"), (label, "uint32")):
        [scales] = found.attributes.ome.multiscales
        assert [axis.unit for axis in scales.axes] == [None, "micrometer", "micrometer"]
        assert [each.coordinateTransformations[0].scale for each in scales.datasets] == [
            [1, 0.25, 0.25], [1, 0.5, 0.5]]  # fmt: skip
        assert found.members["1"].shape == (2, 150, 1000) and found.members["0"].data_type == kind
    assert zarr.open_group(out / "labels").attrs["ome"]["labels"] == ["objects"]
    np.testing.assert_array_equal(zarr.open_array(out / "labels/objects/1")[:],
                                  labels_of(out)[:, ::2, ::2])  # fmt: skip


def test_stacks_are_no_large_images(tmp_path, tiles_of_128) -> None:
    stack = np.stack([blobs(200, 200)] * 9)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "b.tif", stack[:2], imagej=True, metadata={"axes": "CYX"})
    assert not files.is_large(tmp_path / "a.tif") and files.is_large(tmp_path / "b.tif")
    with files.parts_of(tmp_path / "b.tif") as (shape, read):
        assert shape == (2, 200, 200)
        np.testing.assert_array_equal(read(slice(5, 50), slice(7, 30)), stack[:2, 5:50, 7:30])


def test_a_zarr_is_one_image_of_a_folder(tmp_path) -> None:
    write_zarr(tmp_path / "a.zarr", blobs(60, 60))
    (tmp_path / "b.tif").touch()
    assert [path.name for path in image_files(tmp_path, READERS)] == ["a.zarr", "b.tif"]
    assert series.pixel_size(tmp_path / "a.zarr") == pytest.approx(0.2)
    [plane] = series.planes(tmp_path / "a.zarr")
    assert not files.is_large(tmp_path / "a.zarr")
    np.testing.assert_array_equal(plane.image, blobs(60, 60)[None])


@pytest.mark.parametrize(("name", "words"), [
    ("turned.tif", "turned"), ("nan.tif", "NaN"),
    ("bomb.zarr", "larger than 256 MiB"), ("pickle.zarr", "cannot be read"),
    ("declared.tif", "declares"), ("damaged.tif", "a part of it cannot be read"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_sentence(tmp_path, tiles_of_128, name, words) -> None:
    path, image = tmp_path / name, blobs(200, 200)
    if name == "turned.tif":
        tifffile.imwrite(path, image, extratags=[(274, 3, 1, 6, True)])
    elif name == "damaged.tif":
        tifffile.imwrite(path, image, tile=(64, 64), compression="zlib")
        with tifffile.TiffFile(path) as file:
            place = file.pages[0].dataoffsets[5]
        data = bytearray(path.read_bytes())
        data[place : place + 20] = b"x" * 20
        path.write_bytes(data)
    elif name == "nan.tif":
        tifffile.imwrite(path, np.full((200, 200), np.nan, np.float32))
    elif name == "bomb.zarr":
        write_zarr(path, image)
        about = path / "0" / "zarr.json"
        text = json.loads(about.read_text())
        text["chunk_grid"]["configuration"]["chunk_shape"] = [1, 1, 1, 2**15, 2**15]
        about.write_text(json.dumps(text))
    elif name == "pickle.zarr":
        write_zarr(path, image, "0.4")
        about = path / "0" / ".zarray"
        text = {**json.loads(about.read_text()), "compressor": {"id": "pickle"}}
        about.write_text(json.dumps(text))
    else:
        tifffile.imwrite(path, np.zeros((20000, 20000), np.uint8), tile=(16384, 16384),
                         compression="zstd")  # fmt: skip
    with pytest.raises(ValueError, match=words):
        if not files.is_large(path):
            [*series.planes(path)]
        large.find(path, networks(), "plain, bright", 9, None, tmp_path / "o.ome.zarr", "a", None)


# --- memory --------------------------------------------------------------------------------


def find_in_blocks(path: Path, out: Path) -> None:
    """Work in small tiles, here or in a process of its own."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        small_tiles(patch)
        large.find(path, networks(), "self-trained", 9, 12, out, "key", None)


def find_until_killed(path: Path, out: Path, calls: int, stage: str) -> None:
    """Work in small tiles, and end by SIGKILL in the middle of a stage, after some blocks."""
    with pytest.MonkeyPatch.context() as patch:
        small_tiles(patch)
        place, left = large.put, [calls]

        def killing(levels, *rest) -> None:
            place(levels, *rest)
            left[0] -= str(levels[0].dtype) == stage
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        patch.setattr(large, "put", killing)
        large.find(path, networks(), "self-trained", 9, 12, out, "key", None)


def test_a_killed_run_goes_on_block_by_block(tmp_path, tiles_of_128, monkeypatch) -> None:
    path, out = tmp_path / "a.tif", tmp_path / "a.ome.zarr"
    tifffile.imwrite(path, blobs(300, 410))
    with torch.no_grad():
        large.find(path, networks(), "self-trained", 9, 12, tmp_path / "b.ome.zarr", "key", None)
    for stage in ("float32", "uint32"):
        process = multiprocessing.get_context("spawn").Process(
            target=find_until_killed, args=(path, out, 5, stage))  # fmt: skip
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    scored = []
    scores = large.pixel_scores
    monkeypatch.setattr(large, "pixel_scores", lambda *given: scored.append(1) or scores(*given))
    with torch.no_grad():
        large.find(path, networks(), "self-trained", 9, 12, out, "key", None)
    assert not scored, "the network's part was done by the second run"
    np.testing.assert_array_equal(labels_of(out), labels_of(tmp_path / "b.ome.zarr"))


def megabytes_of(path: Path, out: Path) -> None:
    """Print what the memory of a process grows by."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        large.find(path, networks(), "self-trained", 9, 12, out, "key", None)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)


def test_memory_is_bounded_and_the_result_that_of_the_whole(tmp_path) -> None:
    image = np.tile(blobs(1500, 1500), (2, 2))
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(256, 256), compression="zlib")
    code = (f"import test_large; from pathlib import Path; p = Path({str(tmp_path)!r}); "
            "test_large.megabytes_of(p / 'a.tif', p / 'a.ome.zarr')")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], check=True, text=True,
                          capture_output=True, cwd=Path(__file__).parent)  # fmt: skip
    assert int(done.stdout) < 700
    net = networks()
    with torch.no_grad():
        whole = ways.find(net, image[None], ["self-trained"])["self-trained"]
    expected = renumbered(objects.numbered(whole.masks, 9, 12))
    labels = labels_of(tmp_path / "a.ome.zarr")
    assert labels.max() == expected.max()
    # A pixel between two objects may be the first of one, and so change the numbers of both.
    assert np.count_nonzero(labels != expected) < expected.size * 1e-3
