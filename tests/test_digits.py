"""Canvases: labels, counts and masks agree; digits are shared by no two sets; files are checked."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import idx
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label, regionprops

from micranet_helpers.data import digits as dg

quick = settings(max_examples=12, deadline=None)


@pytest.fixture(scope="module")
def bundled() -> dg.Digits:
    return dg.load()


def squares() -> dg.Digits:
    """Ten solid squares of 20×20 px: each stays one piece however it is turned."""
    images = np.zeros((10, 28, 28), np.float32)
    images[:, 4:24, 4:24] = 1
    return dg.Digits(images, np.arange(10))


# Single digits


def test_bundled_digits_have_mnists_format(bundled: dg.Digits) -> None:
    assert bundled.images.shape == (1797, 28, 28)
    assert bundled.images.dtype == np.float32 and bundled.classes.dtype == np.int64
    assert bundled.images.min() == 0 and bundled.images.max() == 1
    assert set(bundled.classes) == set(range(10))
    border = np.ones((28, 28), bool)
    border[4:24, 4:24] = False
    assert not bundled.images[:, border].any()
    heights = (bundled.images > dg.INK).any(2).sum(1)
    assert 18 <= np.median(heights) <= 20


def test_split_shares_no_digit_and_keeps_the_classes(bundled: dg.Digits) -> None:
    numbered = dg.Digits(np.arange(1797)[:, None, None] + np.zeros((1, 2, 2)), bundled.classes)
    parts = dg.split(numbered)
    ids = np.concatenate([part.images[:, 0, 0] for part in parts])
    assert sorted(ids) == list(range(1797))
    for part, share in zip(parts, (0.7, 0.15, 0.15), strict=True):
        own_ids = part.images[:, 0, 0].astype(int)
        np.testing.assert_array_equal(part.classes, bundled.classes[own_ids])
        counts = np.bincount(part.classes, minlength=10)
        assert np.abs(counts - share * np.bincount(bundled.classes)).max() <= 2
    first, again, other = (dg.split(bundled, seed)[0].images for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


# Canvases


@quick
@given(
    st.integers(0, 999), st.integers(1, 4), st.sampled_from([40, 64, 96]),
    st.tuples(st.integers(0, 3), st.integers(0, 6)), st.integers(0, 4),
)  # fmt: skip
def test_labels_counts_and_masks_agree(bundled, seed, n, side, span, margin) -> None:
    span = (span[0], sum(span))
    canvases = dg.make_canvases(bundled, n, side, span, margin, seed)
    assert canvases.images.shape == (n, 1, side, side)
    assert canvases.labels.shape == canvases.counts.shape == (n, 10)
    assert canvases.class_map.shape == (n, side, side)
    dtypes = [tensor.dtype for tensor in canvases]
    assert dtypes == [torch.float32, torch.float32, torch.uint8, torch.int64, torch.int16]
    assert canvases.images.min() >= 0 and canvases.images.max() <= 1
    assert torch.equal(canvases.labels, (canvases.counts > 0).float())
    masks = dg.class_masks(canvases.class_map)
    assert torch.equal(masks.any((2, 3)), canvases.labels > 0)
    assert torch.equal(masks.sum(1), (canvases.class_map > 0).long())
    numbers = masks * canvases.objects[:, None]
    assert torch.equal(numbers.amax((2, 3)), canvases.counts)
    assert torch.equal((canvases.objects > 0), canvases.class_map > 0)
    assert canvases.counts.sum(1).max() <= span[1]
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[margin : side - margin, margin : side - margin] = True
    assert not canvases.class_map[:, ~inside].any()


def test_number_of_digits_covers_its_range(bundled: dg.Digits) -> None:
    counts = dg.make_canvases(bundled, 300, 128, (1, 4)).counts
    assert set(counts.sum(1).tolist()) == {1, 2, 3, 4}
    share = counts.sum(0) / counts.sum()
    assert (share - 0.1).abs().max() < 0.05


def test_every_digit_on_a_canvas_is_a_piece_of_its_own() -> None:
    """Squares neither overlap nor touch, on the fullest canvases of the book."""
    canvases = dg.make_canvases(squares(), 12, 256, (4, 60), seed=3)
    assert canvases.counts.sum(1).max() > 20
    for class_map, counts in zip(canvases.class_map.numpy(), canvases.counts, strict=True):
        pieces = regionprops(label(class_map > 0, connectivity=2), class_map)
        assert len(pieces) == counts.sum()
        classes = [int(piece.intensity_max) - 1 for piece in pieces]
        assert np.bincount(classes, minlength=10).tolist() == counts.tolist()
        assert all(piece.intensity_min == piece.intensity_max for piece in pieces)
        areas = [piece.area for piece in pieces]  # scaled by 1 to 1.2
        assert min(areas) >= 20**2 and max(areas) <= 25**2


def test_digits_are_numbered_even_where_strokes_are_broken() -> None:
    """Digits of two pieces, a bar and a dot below it."""
    broken = np.zeros((10, 28, 28), np.float32)
    broken[:, 4:16, 12:16] = broken[:, 20:24, 12:16] = 1
    canvases = dg.make_canvases(dg.Digits(broken, np.arange(10)), 4, 256, (20, 40), seed=3)
    for class_map, objects, counts in zip(
        canvases.class_map.numpy(), canvases.objects.numpy(), canvases.counts, strict=True
    ):
        for cls in range(10):
            numbers = np.where(class_map == cls + 1, objects, 0)
            assert np.unique(numbers[numbers > 0]).tolist() == list(range(1, counts[cls] + 1))
        whole = 100 * class_map.astype(int) + objects
        pieces = label(np.where(objects > 0, whole, 0), connectivity=2)
        assert pieces.max() == 2 * counts.sum()
        heights = [np.ptp(np.nonzero(whole == number)[0]) for number in np.unique(whole)[1:]]
        assert min(heights) >= 16 and max(heights) <= 30


def test_digits_without_a_place_or_ink_are_not_counted() -> None:
    canvases = dg.make_canvases(squares(), 5, 32, (8, 8))
    assert canvases.counts.sum(1).tolist() == [1] * 5
    assert torch.equal(canvases.labels.sum(1), torch.ones(5))
    blank = dg.Digits(np.zeros((1, 28, 28), np.float32), np.array([4]))
    canvases = dg.make_canvases(blank, 3, 32, (2, 2))
    assert not canvases.labels.any() and not canvases.class_map.any()


@pytest.mark.parametrize("n", [3, dg.CHUNK + 1])
def test_canvases_follow_their_seed(bundled: dg.Digits, n: int) -> None:
    first, again, other = (dg.make_canvases(bundled, n, 32, (0, 1), seed=s) for s in (7, 7, 8))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.counts, other.counts)
    assert len({image.numpy().tobytes() for image in first.images}) == n


def test_empty_canvases_show_the_background(bundled: dg.Digits) -> None:
    """Poisson noise of mean 8 grey levels; half of the canvases are blurred after it."""
    canvases = dg.make_canvases(bundled, 200, 64, (0, 0))
    assert not canvases.counts.any() and not canvases.class_map.any()
    levels = 255 * canvases.images[:, 0]
    assert (levels.mean((1, 2)) - 8).abs().max() < 0.3
    assert levels.mean() == pytest.approx(8, abs=0.02)
    deviations = levels.std((1, 2))
    sharp = deviations > 2
    assert 0.35 < sharp.float().mean() < 0.65
    assert deviations[sharp].mean() == pytest.approx(8**0.5, abs=0.03)
    torch.testing.assert_close(levels[sharp].round(), levels[sharp], atol=1e-3, rtol=0)
    # A Gaussian of sigma s divides the deviation by about 2 s sqrt(pi): here s = 0.8 … 2.
    assert deviations[~sharp].min() > 8**0.5 / 7.3 and deviations[~sharp].max() < 8**0.5 / 2.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"side": side}, f"multiple of 8 .* not {side} px") for side in (0, 24, 36, 65, -64)]
    + [({"margin": margin}, f"margins of {margin} px") for margin in (17, -1, -8)]
    + [({"num_canvases": n, "num_digits": span}, "at least one canvas")
       for n, span in ((0, (0, 3)), (-1, (0, 3)), (1, (3, 2)), (1, (-1, 2)))],
)  # fmt: skip
def test_settings_are_checked(bundled: dg.Digits, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dg.make_canvases(bundled, **{"num_canvases": 1} | settings)


# MNIST files


@pytest.fixture
def mnist() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (7, 28, 28), np.uint8), np.array([3, 0, 9, 1, 1, 8, 2], np.uint8)


def written(folder: Path, images: bytes, labels: bytes, suffix: str = "") -> tuple[Path, Path]:
    pack = gzip.compress if suffix == ".gz" else bytes
    paths = folder / f"images-idx3-ubyte{suffix}", folder / f"labels-idx1-ubyte{suffix}"
    for path, data in zip(paths, (images, labels), strict=True):
        path.write_bytes(pack(data))
    return paths


@pytest.mark.parametrize(("suffix", "kind"), [("", str), (".gz", Path)])
def test_mnist_files_are_read(tmp_path: Path, mnist, suffix: str, kind: type) -> None:
    images, labels = mnist
    paths = written(tmp_path, idx(images), idx(labels), suffix)
    loaded = dg.load(*map(kind, paths))
    assert loaded.images.dtype == np.float32 and loaded.classes.dtype == np.int64
    np.testing.assert_array_equal(loaded.images * 255, images)
    np.testing.assert_array_equal(loaded.classes, labels)


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-20],
    "a web page": lambda data: b"<html>not found</html>",
}
INSIDE = DAMAGE | {
    "head only": lambda data: data[:4],
    "too long": lambda data: data + b"\0",
    "floats": lambda data: b"\0\0\x0d\3" + data[4:],
    "labels": lambda data: b"\0\0\x08\1" + data[4:],
}
PACKED = DAMAGE | {
    "spoilt": lambda data: data[:10] + bytes([data[10] | 0b110]) + data[11:],  # type of a block
}


@pytest.mark.parametrize("damage", INSIDE.values(), ids=INSIDE)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_mnist_images_are_refused(tmp_path: Path, mnist, damage, suffix: str) -> None:
    images, labels = written(tmp_path, damage(idx(mnist[0])), idx(mnist[1]), suffix)
    with pytest.raises(ValueError, match=f"{images.name} is no idx file of 3 dimensions"):
        dg.load(images, labels)


@pytest.mark.parametrize("damage", PACKED.values(), ids=PACKED)
def test_damaged_gzip_files_are_refused(tmp_path: Path, mnist, damage) -> None:
    images, labels = written(tmp_path, idx(mnist[0]), idx(mnist[1]), ".gz")
    images.write_bytes(damage(images.read_bytes()))
    with pytest.raises(ValueError, match=images.name):
        dg.load(images, labels)


def test_packed_file_that_unpacks_to_any_size_is_refused(tmp_path, mnist, monkeypatch) -> None:
    monkeypatch.setattr(dg, "MOST_BYTES", 10**5)
    images = np.zeros((1024, 28, 28), np.uint8)
    paths = written(tmp_path, idx(images), idx(mnist[1]), ".gz")
    with pytest.raises(ValueError, match=r"images-idx3-ubyte\.gz is no idx file.*download it"):
        dg.load(*paths)


@pytest.mark.parametrize(
    ("images", "labels"),
    [((6, 28, 28), [0] * 7), ((2, 28, 27), [0] * 2), ((2, 28, 28), [0, 10])],
    ids=["count", "size", "class"],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, images, labels) -> None:
    paths = written(tmp_path, idx(np.zeros(images, np.uint8)), idx(np.array(labels, np.uint8)))
    with pytest.raises(ValueError, match="do not belong together"):
        dg.load(*paths)


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        with pytest.raises(ValueError, match="labels"):
            dg.load(**{name: "some file"})
    with pytest.raises(FileNotFoundError, match=r"none\.gz"):
        dg.load(tmp_path / "none.gz", tmp_path / "none.gz")


@pytest.mark.data
def test_real_mnist(mirror: Path) -> None:
    files = ([*mirror.rglob(f"t10k-{kind}-*ubyte.gz")][0] for kind in ("images", "labels"))
    digits = dg.load(*files)
    assert digits.images.shape == (10_000, 28, 28)
    assert np.bincount(digits.classes).tolist()[:3] == [980, 1135, 1032]
    assert digits.classes[:5].tolist() == [7, 2, 1, 0, 4]  # as everyone knows
    canvases = dg.make_canvases(dg.split(digits)[2], 20, 128, (4, 12))
    assert canvases.counts.sum(1).min() >= 4
    assert torch.equal(dg.class_masks(canvases.class_map).any((2, 3)), canvases.counts > 0)
