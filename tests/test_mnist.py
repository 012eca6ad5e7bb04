"""Canvases as datasets: numbered digits agree with the truth; no digit is in two splits."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micranet_helpers.data import dataset, digits, mnist

FILES = "raw.githubusercontent.com/fgnt/mnist/ae608a02b796c9ee908c082585a5f006fe05258e"
TEST_FILES = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


@pytest.fixture(scope="module")
def files(mirror: Path) -> tuple[Path, Path]:
    return tuple(mirror / FILES / name for name in TEST_FILES)


@settings(max_examples=5)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([32, 64, 128]))
def test_labels_number_the_digits(seed: int, n: int, size: int) -> None:
    samples = mnist.simulate(n, size, seed, (8, 60))
    again = mnist.simulate(n, size, seed, (8, 60))
    for sample, same in zip(samples, again, strict=True):
        np.testing.assert_array_equal(sample.image, same.image)
        np.testing.assert_array_equal(sample.label, same.label)
        assert sample.image.shape == (1, size, size) and sample.image.dtype == np.uint16
        assert sample.label.shape == (10, size, size) and sample.label.dtype == np.uint8
        for plane in sample.label:
            numbers = np.unique(plane)
            assert numbers.tolist() == list(range(len(numbers)))
        assert (np.count_nonzero(sample.label, 0) <= 1).all()
        # Ink is bright, the ground is dark.
        ink = sample.label.any(0)
        if ink.any():
            assert sample.pixels[0][ink].mean() > sample.pixels[0][~ink].mean() + 0.2


def test_numbers_of_digits_are_exact_even_where_strokes_are_broken(
    files: tuple[Path, Path],
) -> None:
    single = digits.load(*files)
    drawn = digits.make_canvases(single, 16, 256, (30, 60), seed=3)
    masks = digits.class_masks(drawn.class_map).numpy()
    pieces = 0
    for planes, counts in zip(masks, drawn.counts.tolist(), strict=True):
        for mask, count in zip(planes, counts, strict=True):
            numbers = mnist._numbered(mask, count)
            assert numbers.max() == count
            np.testing.assert_array_equal(numbers > 0, mask)
            pieces += mnist._numbered(mask, 10**6).max()
            heights = [np.ptp(np.nonzero(numbers == i + 1)[0]) + 1 for i in range(count)]
            assert not heights or (max(heights) <= 32 and min(heights) >= 8)
    assert pieces > drawn.counts.sum()  # some strokes are broken


def test_numbers_of_broken_strokes() -> None:
    mask = np.zeros((12, 12), bool)
    mask[:4, 0] = mask[5, 0] = mask[:4, 8] = mask[9:, 8] = True
    one, other, far = ((0, 0), (5, 0)), ((0, 8),), ((9, 8),)
    for count, groups in ((4, [one[:1], one[1:], other, far]), (3, [one, other, far])):
        numbers = mnist._numbered(mask, count)
        found = [{int(numbers[place]) for place in group} for group in groups]
        assert all(len(group) == 1 for group in found) and len(set.union(*found)) == count


def test_classes_are_present_and_absent() -> None:
    present = np.array([sample.present for sample in mnist.simulate(20, 128)])
    assert (present.any(0) & ~present.all(0)).all()


def test_simulated_file(tmp_path: Path) -> None:
    path = mnist.build(tmp_path / "a.hdf5", num_images=20, size=64, seed=5)
    about, counts = dataset.describe(path)
    assert about.classes == mnist.CLASSES == mnist.RULE.classes
    assert "scikit-learn" in about.source and about.licence == "CC BY 4.0"
    assert counts == {"training": 14, "validation": 3, "testing": 3}
    images = [s.image.tobytes() for split in counts for s in dataset.read(path, split)]
    assert len(set(images)) == 20


def test_no_digit_is_in_two_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    draw = digits.make_canvases

    def spy(single: digits.Digits, *args, **settings) -> digits.Canvases:
        seen.append({image.tobytes() for image in single.images})
        return draw(single, *args, **settings)

    monkeypatch.setattr(digits, "make_canvases", spy)
    mnist.build(tmp_path / "a.hdf5", num_images=3, size=32)
    assert len(seen) == 3 and sum(map(len, seen)) == len(set.union(*seen)) > 1700


def test_read(files: tuple[Path, Path]) -> None:
    single = digits.load(*files)
    for number, sample in zip(range(50), mnist.read(*files), strict=False):
        np.testing.assert_allclose(sample.pixels[0], single.images[number], atol=1e-6)
        assert sample.image.dtype == np.uint8
        assert np.flatnonzero(sample.present).tolist() == [single.classes[number]]
    assert single.classes[:5].tolist() == [7, 2, 1, 0, 4]  # as everyone knows


def test_open_file(
    mirror_url: str, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    monkeypatch.setenv("MICRANET_DATA", str(tmp_path))
    path = mnist.build(tmp_path / "a.hdf5", "open", subset="test", num_images=4, size=64)
    about, counts = dataset.describe(path)
    assert about.licence == "none stated (MNIST)" and "LeCun" in about.source
    assert counts == {"training": 2, "validation": 1, "testing": 1}


def test_both_pairs_of_mnist_are_joined(tmp_path: Path) -> None:
    files = []
    for name, shift in (("t10k", 0), ("train", 5)):
        images, labels = np.full((5, 28, 28), shift, np.uint8), np.arange(5, dtype=np.uint8)
        files += [tmp_path / f"{name}-images-idx3-ubyte.gz", tmp_path / f"{name}-labels-idx1.gz"]
        head = bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 28, 0, 0, 0, 28])
        files[-2].write_bytes(gzip.compress(head + images.tobytes()))
        files[-1].write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 5]) + labels.tobytes()))
    joined = mnist._mnist(files[::-1])
    np.testing.assert_allclose(joined.images[:, 0, 0] * 255, [0] * 5 + [5] * 5, atol=1e-4)
    assert joined.classes.tolist() == [0, 1, 2, 3, 4] * 2


def test_packed_file_that_unpacks_to_any_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "MOST_BYTES", 10**5)
    images = tmp_path / "images.gz"
    head = bytes([0, 0, 8, 3, 0, 0, 4, 0, 0, 0, 0, 28, 0, 0, 0, 28])
    images.write_bytes(gzip.compress(head + bytes(1024 * 784)))
    with pytest.raises(ValueError, match=r"images\.gz is no idx file.*download it again"):
        list(mnist.read(images, images))


@pytest.mark.parametrize("settings", [{"source": "original"}, {"num_images": 2}, {"size": 20}])
def test_wrong_settings_are_refused(tmp_path: Path, settings: dict) -> None:
    with pytest.raises(ValueError, match="never published|at least 3|multiple of 8"):
        mnist.build(tmp_path / "a.hdf5", **settings)
    assert not list(tmp_path.iterdir())
