"""Datasets in HDF5: round trips, files in the original's style, kills, full disks, damage."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from damage import damaged, elsewhere, link, replace, virtual
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micranet_helpers.data import dataset
from micranet_helpers.data.dataset import About, Sample

ABOUT = About(("rings", "fibres"), "Ångström, doi 10.0/0", "CC0", 0.02)
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")


def sample(seed: int = 0, shape: tuple = (1, 40, 50), dtype: str = "uint8", **other: Any) -> Sample:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 200, shape).astype(dtype)
    label = rng.integers(0, 4, (2, *shape[1:])).astype(np.uint8)
    return Sample(**{"name": f"image {seed}", "image": image, "label": label} | other)


def assert_same(found: Sample, expected: Sample) -> None:
    assert found.name == expected.name
    for array, other in [(found.image, expected.image), (found.label, expected.label)]:
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    if expected.boxes is not None and len(expected.boxes):
        np.testing.assert_array_equal(found.boxes, expected.boxes)
    else:
        assert found.boxes is None or len(found.boxes) == 0


# --- round trips -------------------------------------------------------------------------------


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes (count, 5) that cover the first pixel of an image, and maybe reach beyond it."""
    far = rng.integers(1, 50, (count, 2))
    return np.concatenate([rng.integers(0, 3, (count, 1)), -far, far], 1).astype(np.float32)


@st.composite
def samples(draw: st.DrawFn) -> list[Sample]:
    """One to four images of one kind and of any sizes."""
    dtype = draw(st.sampled_from(["uint8", "uint16", "float32"]))
    labels = draw(st.sampled_from(["uint8", "uint16"]))
    channels, whole, seed = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.integers(0, 99))
    rng, made = np.random.default_rng(seed), []
    for name in draw(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")),
                              min_size=1, max_size=4)):
        side = st.integers(1, 40) | st.just(150)
        size = draw(side), draw(side)
        image = rng.integers(0, np.iinfo("uint8").max, (channels, *size)).astype(dtype)
        label = rng.integers(0, 2, (2, *(() if whole else size))).astype(labels)
        boxes = draw(st.none() | st.integers(0, 3))
        made.append(Sample(
            name, image, label, rng.normal(size=channels), draw(st.sampled_from([1 / 255, 2.0])),
            None if boxes is None else random_boxes(rng, boxes),
        ))  # fmt: skip
    return made


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=samples())
def test_what_was_written_is_read(tmp_path: Path, made: list[Sample]) -> None:
    path = dataset.write(tmp_path / "a.hdf5", {"training": made, "testing": iter(made[:1])}, ABOUT)
    assert dataset.describe(path) == (ABOUT, {"training": len(made), "testing": 1})
    for found, expected in zip(dataset.read(path, "training"), made, strict=True):
        assert_same(found, expected)
    assert os.listdir(tmp_path) == ["a.hdf5"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=samples(), data=st.data())
def test_crop_is_a_part_of_the_image_with_zeros_outside(tmp_path, made, data) -> None:
    path = dataset.write(tmp_path / "a.hdf5", {"training": made}, ABOUT)
    number = data.draw(st.integers(0, len(made) - 1))
    pixels, side = made[number].pixels, data.draw(st.integers(1, 60))
    top, left = (data.draw(st.integers(0, length - 1)) for length in pixels.shape[1:])
    expected = np.zeros((len(pixels), side, side), np.float32)
    inside = pixels[:, top : top + side, left : left + side]
    expected[:, : inside.shape[1], : inside.shape[2]] = inside
    with h5py.File(path) as file:
        found = dataset.Split(file["training"]).crop(number, top, left, side)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_file_is_chunked_compressed_and_says_what_it_holds(tmp_path: Path) -> None:
    made = [sample(n, (3, 300, 200)) for n in range(2)]
    with h5py.File(dataset.write(tmp_path / "new" / "a.hdf5", {"training": made}, ABOUT)) as file:
        assert json.loads(file.attrs["classes"]) == ["rings", "fibres"]
        assert file.attrs["source"] and file.attrs["licence"] and file.attrs["version"]
        assert file["training"].attrs["split"] == b"training"
        assert file["training/label"].attrs["shapes"].tolist() == [[300, 200]] * 2
        for name, planes in [("data", 3), ("label", 2)]:
            stack = file["training"][name]
            assert stack.chunks == (1, planes, dataset.CHUNK, dataset.CHUNK)
            assert stack.compression == "gzip" and stack.fletcher32


def test_original_file_is_read(tmp_path: Path) -> None:
    """No names, normalisation or classes; several groups; object numbers of another type."""
    path = tmp_path / "training_01-04-19.hdf5"
    rng = np.random.default_rng(0)
    data, label = rng.random((2, 60, 70)), rng.integers(0, 3, (2, 3, 60, 70)).astype(np.int64)
    with h5py.File(path, "w") as file:
        for name in ("a", "b"):
            group = file.create_group(name)
            group["data"], group["label"] = data, label
            group["label"].attrs["shapes"] = [(60, 50), (40, 70)]
    about, splits = dataset.describe(path)
    assert (about.classes, splits) == (("0", "1", "2"), {"a": 2, "b": 2})
    assert about.source == about.licence == "unknown"
    first, second = dataset.read(path, "b")
    assert (first.name, second.image.shape, second.boxes) == ("b-0", (1, 40, 70), None)
    np.testing.assert_array_equal(first.image[0], data[0, :, :50])
    np.testing.assert_array_equal(second.label, label[1, :, :40])
    assert second.label.dtype == np.uint16 and second.pixels.dtype == np.float32
    np.testing.assert_array_equal(second.pixels[0], data[1, :40].astype(np.float32))


def test_present_tells_which_classes_an_image_shows() -> None:
    label = np.zeros((2, 40, 50), np.uint8)
    label[1, 3, 4] = 7
    assert sample(label=label).present.tolist() == [0, 1]
    assert sample(label=np.array([1, 0], np.uint8)).present.tolist() == [1, 0]


# --- what is not written -----------------------------------------------------------------------

REFUSED = {
    "dtype": ([sample(dtype="float64")], "image is float64"),
    "grey": ([Sample("a", np.zeros((4, 4), "u1"), np.zeros((2, 4, 4), "u1"))], r"\(4, 4\)"),
    "classes": ([sample(label=np.zeros((3, 40, 50), "u1"))], "for 2 classes"),
    "signed": ([sample(label=np.zeros((2, 40, 50), "i4"))], "label is int32"),
    "sizes": ([sample(label=np.zeros((2, 40, 40), "u1"))], "another size"),
    "empty": ([sample(shape=(1, 0, 9))], "is empty"),
    "NaN": ([sample(image=np.full((1, 40, 50), np.nan, "f4"))], "NaN"),
    "offset": ([sample(offset=np.inf)], "NaN"),
    "beyond float32": ([sample(factor=1e39)], "large"),
    "boxes": ([sample(boxes=np.zeros((2, 4), "f4"))], r"boxes are \(2, 4\), not \(M, 5\)"),
    "box outside": ([sample(boxes=np.array([[0, 900, 2, 950, 9]], "f4"))], "outside the image"),
    "empty box": ([sample(boxes=np.array([[0, 5, 2, 5, 9]], "f4"))], "empty or lies outside"),
    "crops": ([sample(crops=np.zeros((1, 4), "f4"))], r"crops are \(1, 4\) for 2 classes"),
    **{f"crop at {place}": ([sample(crops=np.array([[*place, 0, 1]], "f4"))], "crop .*outside")
       for place in ((-8, 0, 8), (0, 50, 8), (0, 0, 0), (0.5, 0, 8), (np.nan, 0, 8))},
    "mixed dtypes": ([sample(), sample(1, dtype="uint16")], "All data of a split must be alike"),
    "mixed labels": ([sample(), sample(1, label=np.ones(2, "u1"))], "All label of a split"),
    "mixed channels": ([sample(shape=(2, 9, 9)), sample(1, (3, 9, 9))], "All data of a split"),
    "none": ([], "would hold no image"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "message"), REFUSED.values(), ids=REFUSED)
def test_contradictory_samples_are_refused(tmp_path: Path, made: list, message: str) -> None:
    old = dataset.write(tmp_path / "a.hdf5", {"training": [sample()]}, ABOUT).read_bytes()
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        dataset.write(tmp_path / "a.hdf5", {"training": [sample()], "testing": made}, ABOUT)
    assert (tmp_path / "a.hdf5").read_bytes() == old
    assert os.listdir(tmp_path) == ["a.hdf5"]


def test_splits_and_files_need_names(tmp_path: Path) -> None:
    for splits in ({}, {"": [sample()]}, {"a/b": [sample()]}, {".": [sample()]}):
        with pytest.raises(ValueError, match="Name one split or more"):
            dataset.write(tmp_path / "a.hdf5", splits, ABOUT)
    with pytest.raises(ValueError, match="is a folder: name a file"):
        dataset.write(tmp_path, {"training": [sample()]}, ABOUT)
    assert os.listdir(tmp_path) == []


# --- kills, full disks, memory -----------------------------------------------------------------

SCRIPT = """
    import os, resource, signal, sys
    sys.path.insert(0, {tests!r})
    os.environ["TQDM_DISABLE"] = "1"
    from test_dataset import ABOUT, dataset, sample
    read = []
    def images(number, stop=None):
        for n in range(number):
            if n == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            read.append(n)
            yield sample(n, (1, 512, 512))
"""


def run(script: str, folder: Path) -> subprocess.CompletedProcess:
    head = textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", head + textwrap.dedent(script)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


@posix
@pytest.mark.parametrize("old", [False, True])
def test_killed_writer_leaves_no_file_and_is_run_again(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "a [1].hdf5"
    if old:
        dataset.write(path, {"training": [sample()]}, ABOUT)
    before = path.read_bytes() if old else None
    done = run('dataset.write("a [1].hdf5", {"training": images(9, stop=5)}, ABOUT)', tmp_path)
    assert done.returncode == -9, done.stderr
    assert (path.read_bytes() if path.exists() else None) == before
    assert len(list(tmp_path.glob("*.part"))) == 1
    dataset.write(path, {"training": [sample(n) for n in range(3)]}, ABOUT)
    assert os.listdir(tmp_path) == [path.name]
    assert [found.name for found in dataset.read(path, "training")] == [
        "image 0", "image 1", "image 2",
    ]  # fmt: skip


@posix
def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """HDF5 told of the failure would crash when the program ends."""
    path = dataset.write(tmp_path / "a.hdf5", {"training": [sample()]}, ABOUT)
    before = path.read_bytes()
    done = run(
        """
        for limit in (0, 100, 10_000, 1_000_000, 2_000_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                dataset.write("a.hdf5", {"training": images(20), "testing": images(1)}, ABOUT)
            except OSError as error:
                print(error, f"after {len(read)} images")
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Could not write a.hdf5.") == 5, done.stdout
    assert done.stdout.count("File too large): free some space and run again") == 5
    assert int(done.stdout.split()[-2]) < 5 * 20, "noticed only when all images were read"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.hdf5"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    done = run(
        """
        peaks = []
        for number in (10, 120):  # 8 and 94 MB of pixels and labels
            dataset.write("a.hdf5", {"training": images(number)}, ABOUT)
            assert sum(1 for _ in dataset.read("a.hdf5", "training")) == number
            # Of this program; getrusage would tell that of pytest, which started it, if larger.
            with open("/proc/self/status") as status:
                peaks += [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
        print((peaks[1] - peaks[0]) / 1024)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 40, "MB; HDF5 itself remembers up to 32 MB of its tables"


# --- damaged and hostile files -----------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Sample]]:
    boxes = np.array([[0, 1, 2, 3, 4]], np.float32)
    made = [sample(0, (1, 24, 20), offset=2, factor=0.5, boxes=boxes), sample(1, (1, 20, 24))]
    path = tmp_path_factory.mktemp("small") / "a.hdf5"
    return dataset.write(path, {"training": made}, ABOUT).read_bytes(), made


@pytest.mark.slow
def test_damaged_file_gives_an_error_or_the_right_arrays(tmp_path: Path, small: tuple) -> None:
    data, made = small
    path, errors = tmp_path / "a.hdf5", 0
    for changed in damaged(data, 300):
        path.write_bytes(changed)
        try:
            about, splits = dataset.describe(path)
            found = list(dataset.read(path, "training"))
        except ValueError as error:
            assert "a.hdf5: " in str(error)
            errors += 1
            continue
        assert (about, splits) == (ABOUT, {"training": 2})
        for one, expected in zip(found, made, strict=True):
            assert_same(one, expected)
    assert errors > 125


def attribute(key: str, value: Any, owner: str = "/") -> Callable[[h5py.Group], None]:
    return lambda group: group.file[owner].attrs.__setitem__(key, value)


NAN = np.full((2, 24, 24), np.nan, np.float32)
HUGE = {"dtype": "u1", "chunks": (1, 1, 1024, 1024)}
HOSTILE = {
    "no data": (replace("data"), "has no 'data'"),
    "no label": (replace("label"), "has no 'label'"),
    "external link": (link("data", h5py.ExternalLink("secret.hdf5", "/x")), "link"),
    "soft link": (link("data", h5py.SoftLink("/training/label")), "link"),
    "external link to names": (link("name", h5py.ExternalLink("secret.hdf5", "/x")), "link"),
    "external storage": (elsewhere("data", (2, 24, 24)), "in another file"),
    "virtual": (virtual("data", (2, 24, 24)), "in another file"),
    "text": (replace("data", data=np.full((2, 24, 24), b"a")), "not numbers"),
    "objects": (replace("data", data=[["a"] * 3] * 2), "not numbers"),
    "complex": (replace("data", data=np.ones((2, 24, 24), complex)), "not numbers"),
    "no shape": (replace("data", data=h5py.Empty("u1")), "not numbers"),
    "empty": (replace("data", shape=(0, 24, 24), dtype="u1"), "belong together"),
    "other length": (replace("data", data=np.ones((3, 24, 24), "u1")), "belong together"),
    "other size": (replace("data", data=np.ones((2, 24, 20), "u1")), "belong together"),
    "NaN": (replace("data", data=NAN), "NaN"),
    "infinite": (replace("data", data=NAN + np.inf), "NaN or infinite"),
    "label NaN": (replace("label", data=np.stack([NAN, NAN], 1)), "numbers 0 … 65535"),
    "label negative": (replace("label", data=np.full((2, 2, 24, 24), -1)), "numbers 0 … 65535"),
    "label large": (replace("label", data=np.full((2, 2, 24, 24), 1 << 40)), "numbers 0 … 65535"),
    "huge images": (replace("label", shape=(2, 1, 2**20, 2**20), **HUGE), "can hold"),
    "huge number": (replace("label", shape=(2**40, 1, 24, 24), dtype="u1",
                            chunks=(1, 1, 24, 24)), "can hold"),
    "shapes": (attribute("shapes", [(24, 25), (20, 24)], "training/label"), "shapes .* do not fit"),
    "no pixels": (attribute("shapes", [(24, 0), (20, 24)], "training/label"), "do not fit"),
    "text for shapes": (attribute("shapes", "many", "training/label"), "invalid|fit"),
    "scale": (replace("normalization", data=np.ones((2, 2, 2), "f4")), r"expected is \(2, 1, 2\)"),
    "scale NaN": (replace("normalization", data=np.full((2, 1, 2), np.nan)), "normalization .*NaN"),
    "boxes": (replace("boxes", data=np.ones((2, 5), "f4")), "boxes .*expected"),
    "crops": (replace("crops", data=np.ones((2, 5), "f4")), "crops .*expected"),
    **{f"crop {place}": (replace("crops", data=np.float32([[*place, 0, 1]])), "lies in no image")
       for place in ((2, 0, 0, 8), (-1, 0, 0, 8), (np.nan, 0, 0, 8), (0, -8, 0, 8), (0, 24, 0, 8),
                     (0, np.nan, 0, 8), (0, 0.5, 0, 8), (0, 0, 0, 0))},
    "names": (replace("name", data=np.ones(2)), "name .*expected"),
    "long names": (replace("name", shape=(2,), dtype="S1000000000"), "can hold"),
    "classes": (attribute("classes", '["rings"]'), "does not name the 2 planes"),
    "classes number": (attribute("classes", 3), "damaged|classes"),
    "classes deep": (attribute("classes", "[" * 30_000), "damaged|classes"),
    "classes list": (attribute("classes", ["rings", "fibres"]), "neither numbers nor one text"),
    "pixel size": (attribute("pixel_size_um", "small"), "could not convert"),
    "stray member": (lambda group: group.file.create_dataset("notes", data=1), "is a Dataset"),
    "no split": (lambda group: group.file.clear(), "holds no split|has no 'training'"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path, small, change, message) -> None:
    path = tmp_path / "a.hdf5"
    path.write_bytes(small[0])
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["x"] = np.ones((2, 24, 24), np.float32)
    with h5py.File(path, "a") as file:
        change(file["training"])
    with pytest.raises(ValueError, match=f"Cannot load .*a.hdf5: .*(?:{message})"):
        dataset.describe(path), list(dataset.read(path, "training"))


def test_missing_files_and_splits_are_named(tmp_path: Path, small: tuple) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file .*a.hdf5"):
        dataset.describe(tmp_path / "a.hdf5")
    (tmp_path / "a.hdf5").write_bytes(small[0])
    with pytest.raises(ValueError, match="has no 'testing', only: training"):
        list(dataset.read(tmp_path / "a.hdf5", "testing"))


def test_padding_beyond_what_can_be_read_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dataset, "MOST_PIXELS", 9000)
    shapes = ((1, 100, 40), (1, 40, 100))
    long = [sample(shape=shape, label=np.ones(2, np.uint8)) for shape in shapes]
    for one in long:
        dataset.describe(dataset.write(tmp_path / "a.hdf5", {"training": [one]}, ABOUT))
    with pytest.raises(ValueError, match=r"would be .*100, 100.*: cut the images"):
        dataset.write(tmp_path / "a.hdf5", {"training": long}, ABOUT)
