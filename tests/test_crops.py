"""Crops: labels against counting by hand, pixels against the image, the same for any workers."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from micranet_helpers.data import dataset
from micranet_helpers.data.crops import CropDataset, Rule, augmented, crop_grid, label_crops
from micranet_helpers.data.dataset import About, Sample

NAMES = ("cell", "fibre", "dendrite", "difficult")
ABOUT = About(NAMES, "made up", "CC0")
CELLS = Rule(("cell",))


def sample(seed: int, height: int = 40, width: int = 56, channels: int = 1) -> Sample:
    """Noise with a few square objects of each class; offset and factor are not trivial."""
    rng = np.random.default_rng(seed)
    label = np.zeros((len(NAMES), height, width), np.uint8)
    for plane in label:
        for number in range(1, 1 + int(rng.integers(3))):
            top, left, side = rng.integers(0, height), rng.integers(0, width), rng.integers(2, 12)
            plane[top : top + side, left : left + side] = number
    image = rng.integers(0, 256, (channels, height, width)).astype(np.uint8)
    image += (label[:1] > 0) * np.uint8(50)
    return Sample(f"image {seed}", image, label, 30.0, 1 / 60)


def write(path: Path, made: list[Sample]) -> Path:
    return dataset.write(path, {"training": made}, ABOUT)


@pytest.fixture(scope="module")
def images() -> list[Sample]:
    return [sample(n, *size) for n, size in enumerate([(40, 56), (24, 24), (16, 90), (64, 64)])]


@pytest.fixture(scope="module")
def path(images: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("crops") / "a.hdf5", images)


# --- where crops are ---------------------------------------------------------------------------


@given(length=st.integers(1, 300), side=st.integers(8, 64), data=st.data())
def test_grid_covers_the_image_and_no_crop_is_needless(length, side, data) -> None:
    stride = data.draw(st.integers(1, side))
    starts = crop_grid(length, side, stride)
    assert starts[0] == 0 and (np.diff(starts) == stride).all()
    assert starts[-1] + side >= length > starts[-1]
    assert len(starts) == 1 or starts[-2] + side < length


# --- what is present in them -------------------------------------------------------------------


def by_hand(label: np.ndarray, top: int, left: int, side: int, rule: Rule) -> tuple[list, bool]:
    """The rule in its own words, for one crop."""
    crop = dict(zip(NAMES, label[:, top : top + side, left : left + side], strict=True))
    whole = dict(zip(NAMES, label, strict=True))
    present, kept = [], True
    for name in rule.classes:
        covered = np.count_nonzero(crop[name])
        numbers = np.unique(crop[name][crop[name] > 0])
        visible = [np.sum(crop[name] == n) / np.sum(whole[name] == n) for n in numbers]
        shown = rule.visible_share == 0 or max(visible, default=0) >= rule.visible_share
        present.append(covered > rule.positive_share * side**2 and shown)
        kept &= shown or covered == 0
    if rule.foreground:
        kept &= np.count_nonzero(crop[rule.foreground]) >= rule.foreground_share * side**2
    if rule.ignore:
        kept &= any(present) or not crop[rule.ignore].any()
    return present, bool(kept)


rules = st.builds(
    Rule,
    classes=st.sampled_from([("cell",), ("fibre", "cell")]),
    positive_share=st.sampled_from([0.0, 0.05, 1 / 64, 0.25]),
    visible_share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    foreground=st.sampled_from([None, "dendrite"]),
    foreground_share=st.sampled_from([0.0, 0.1]),
    ignore=st.sampled_from([None, "difficult"]),
)


@settings(max_examples=150)
@given(rules, st.integers(0, 50), st.integers(5, 40), st.integers(5, 40), st.integers(1, 8))
def test_labels_are_those_counted_by_hand(rule, seed, height, width, stride) -> None:
    label = sample(seed, height, width).label
    tops, lefts = (crop_grid(length, 8, stride) for length in (height, width))
    present, kept = label_crops(label, tops, lefts, 8, rule, NAMES)
    assert present.shape == (len(tops), len(lefts), len(rule.classes))
    for t, top in enumerate(tops):
        for c, left in enumerate(lefts):
            assert (present[t, c].tolist(), kept[t, c]) == by_hand(label, top, left, 8, rule)


# --- the dataset -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [
    Rule(("cell", "fibre"), 0.05, foreground="dendrite", foreground_share=0.02),
    Rule(("cell",), visible_share=0.5, ignore="difficult"),
])  # fmt: skip
def test_items_are_the_crops_that_the_rule_keeps(path, images, rule) -> None:
    data = CropDataset(path, "training", 16, 12, rule)
    expected = {
        (number, top, left): by_hand(image.label, top, left, 16, rule)
        for number, image in enumerate(images)
        for top in crop_grid(image.label.shape[1], 16, 12).tolist()
        for left in crop_grid(image.label.shape[2], 16, 12).tolist()
    }
    kept = {place: labels for place, (labels, keep) in expected.items() if keep}
    assert 0 < len(kept) < len(expected)
    assert list(map(tuple, data.positions.tolist())) == list(kept)
    assert data.labels.dtype == torch.float32
    assert data.labels.bool().tolist() == list(kept.values())
    for (number, top, left), (pixels, labels), row in zip(
        kept, data, data.labels, strict=True
    ):
        whole = np.pad(images[number].pixels, [(0, 0), (0, 16), (0, 16)])
        expected_pixels = whole[:, top : top + 16, left : left + 16]
        assert pixels.dtype == torch.float32 and torch.equal(labels, row)
        np.testing.assert_array_equal(pixels, expected_pixels)


def whole_labels(path: Path, side: int = 20) -> Path:
    made = [
        replace(sample(n, side, 16), label=np.array([n % 2, 1, 0, 1], np.uint8)) for n in range(4)
    ]
    return write(path, made)


def test_image_level_labels_give_one_item_an_image(tmp_path: Path) -> None:
    rule = Rule(("dendrite", "cell"), 0.5, ignore="difficult")
    data = CropDataset(whole_labels(tmp_path / "a.hdf5"), "training", 24, 8, rule)
    assert data.labels.tolist() == [[0, 0], [0, 1], [0, 0], [0, 1]]
    assert data.positions.tolist() == [[n, 0, 0] for n in range(4)]
    np.testing.assert_array_equal(data[3][0][:, :20, :16], sample(3, 20, 16).pixels)
    with pytest.raises(ValueError, match=r"image 0 \(20 × 16 px\) has a label for the whole image"):
        CropDataset(tmp_path / "a.hdf5", "training", 16, 16, rule)


@pytest.mark.parametrize("ratio", [(2, 1), (1, 1), (1, 2), (1, 5)])
def test_ratio_is_exact_and_as_large_as_can_be(path: Path, ratio: tuple[int, int]) -> None:
    everything = CropDataset(path, "training", 16, 4, CELLS)
    data = CropDataset(path, "training", 16, 4, CELLS, ratio=ratio)
    counts = np.array([data.labels.sum(), len(data) - data.labels.sum()], int)
    there = np.array([everything.labels.sum(), len(everything) - everything.labels.sum()], int)
    times, rest = divmod(counts, ratio)
    assert not rest.any() and times[0] == times[1] == min(there // ratio)
    rows = list(map(tuple, data.positions.tolist()))
    assert len(set(rows)) == len(rows) and rows == sorted(rows)
    assert set(rows) < set(map(tuple, everything.positions.tolist()))
    again, other = (
        CropDataset(path, "training", 16, 4, CELLS, ratio=ratio, seed=seed) for seed in (0, 1)
    )
    assert np.array_equal(again.positions, data.positions)
    assert not np.array_equal(other.positions, data.positions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 20}, "multiple of 8 px, not 20"),
        ({"side": 0}, "multiple of 8 px, not 0"),
        ({"stride": 0}, "stride must be 1 to 16 px"),
        ({"stride": 17}, "stride must be 1 to 16 px"),
        ({"rule": Rule(("rings", "cell"))}, "asks for rings, but .* labels: cell, fibre, dendrite"),
        ({"rule": Rule(("cell",), foreground="soma")}, "asks for soma"),
        ({"rule": Rule(("cell",), ignore="soma")}, "asks for soma"),
        ({"rule": Rule(())}, "asks for no class"),
        ({"rule": Rule(("cell",), foreground="fibre", foreground_share=1)}, "No crop of 'train"),
        ({"rule": Rule(("cell",), positive_share=5)}, "from 0 to 1"),
        ({"ratio": (0, 1)}, "must be 1 or more"),
        ({"ratio": (1, 1000)}, "too few for the ratio 1:1000"),
        ({"split": "testing"}, "has no 'testing', only: training"),
        ({"path": "none.hdf5"}, "no file none.hdf5"),
    ],
)
def test_what_cannot_be_cut_is_refused(path: Path, options: dict, message: str) -> None:
    asked = {"path": path, "split": "training", "side": 16, "stride": 8, "rule": CELLS} | options
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        CropDataset(**asked)


# --- augmentation ------------------------------------------------------------------------------


def test_augmentation_turns_flips_and_changes_gamma_and_intensity() -> None:
    """By the formula, from what the lowest, the highest and one more pixel became."""
    image = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    low, high = image.min(), image.max()
    scaled = (image - low) / (high - low)
    one = scaled.flat[0]
    turns, changed = set(), []
    for seed in range(200):
        made = augmented(image, np.random.default_rng(seed))
        assert made.dtype == np.float32 and made.flags.c_contiguous and np.isfinite(made).all()
        factor = made.max() / high
        for turn, flip in np.ndindex(4, 2):
            back = np.rot90(made[..., :: 1 - 2 * flip], -turn, (1, 2))
            gamma = np.log((back.flat[0] / factor - low) / (high - low)) / np.log(one)
            expected = factor * ((high - low) * scaled**gamma + low)
            if np.allclose(back, expected, atol=1e-4):
                turns.add((turn, flip))
                changed.append((abs(gamma - 1) > 1e-4, abs(factor - 1) > 1e-4))
    assert len(turns) == 8 and len(changed) == 200, "one symmetry fits, alike in all channels"
    assert (abs(np.mean(changed, 0) - 0.5) < 0.15).all(), "half keep gamma, half the intensity"


def test_augmentation_leaves_a_flat_image() -> None:
    flat = np.full((1, 8, 8), 0.5, np.float32)
    for seed in range(20):
        assert np.ptp(augmented(flat, np.random.default_rng(seed))) == 0


def loaded(data: CropDataset, workers: int) -> Tensor:
    return torch.cat([images for images, _ in DataLoader(data, 4, num_workers=workers)])


def test_augmentation_is_that_of_seed_and_epoch_for_any_number_of_workers(path: Path) -> None:
    def data(seed: int = 0, epoch: int = 0) -> CropDataset:
        made = CropDataset(path, "training", 16, 12, CELLS, augment=True, seed=seed)
        made.set_epoch(epoch)
        return made

    base = loaded(data(), 0)
    assert torch.equal(base, loaded(data(), 0))
    for workers in (1, 2):
        assert torch.equal(base, loaded(data(), workers))
    for other in (data(seed=1), data(epoch=1)):
        assert not torch.equal(base, loaded(other, 0))
    assert not torch.equal(base, loaded(CropDataset(path, "training", 16, 12, CELLS), 0))
    crop = data()[-1][0]
    assert torch.equal(crop, base[-1])


# --- processes ---------------------------------------------------------------------------------


def test_file_is_opened_in_each_process_when_it_is_needed(path: Path) -> None:
    data = CropDataset(path, "training", 16, 12, CELLS)
    with unchanged_time(path), h5py.File(path, "a"):  # refused if the file were still open
        pass
    expected = data[0][0]
    copied = pickle.loads(pickle.dumps(data))
    assert torch.equal(copied[0][0], expected)
    # Forked workers of a dataset that is open here, and this process afterwards.
    before = loaded(data, 0)
    for _ in range(2):
        assert torch.equal(loaded(data, 2), before)
    assert torch.equal(loaded(data, 0), before)


@contextmanager
def unchanged_time(path: Path) -> Iterator[None]:
    """Hide from CropDataset that a file is changed."""
    before = path.stat()
    yield
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_that_was_replaced_is_not_mixed_with_the_old_labels(path: Path) -> None:
    data = CropDataset(path, "training", 16, 12, CELLS)
    write(path, [sample(9, 64, 64)])
    with pytest.raises(ValueError, match="replaced meanwhile: make the CropDataset anew"):
        data[0]


def test_damaged_file_gives_an_error_or_the_right_crops(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", [sample(1, 24, 24)])
    errors = 0

    def everything() -> tuple[Tensor, Tensor]:
        data = CropDataset(path, "training", 16, 8, CELLS)
        return loaded(data, 0), data.labels

    pixels, labels = everything()
    for changed in damaged(path.read_bytes(), 150):
        path.unlink()  # HDF5 takes a file at the same place on the disk for the same, if open
        path.write_bytes(changed)
        try:
            found = everything()
        except ValueError as error:
            assert "a.hdf5: " in str(error)
            errors += 1
            continue
        assert torch.equal(found[0], pixels) and torch.equal(found[1], labels)
    assert errors > 50


def test_damage_that_only_a_crop_meets_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", [sample(1, 24, 24)])
    data = CropDataset(path, "training", 16, 8, CELLS)
    with h5py.File(path) as file:
        chunk = file["training/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20] ^= 1
    with unchanged_time(path):
        path.write_bytes(content)
    with pytest.raises(ValueError, match="Cannot load crop 0 of 'training' from .*damaged"):
        data[0]
