"""Contacts have their definition; frames, masks and splits are the right ones; faults are told."""

from pathlib import Path

import drawn
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.measure import label as components

from micranet_helpers.data import ctc, dataset
from micranet_helpers.data.crops import label_crops
from micranet_helpers.files.archives import unpack

HOST = "data.celltrackingchallenge.net/training-datasets"
TRAIN = (
    "raw.githubusercontent.com/oist/Usiigaci/9501d80c747cf82870dd596818fcf5c28c94d733/"
    "Mask R-CNN/train"
)
PSC, HELA, USIIGACI = "PhC-C2DL-PSC", "Fluo-N2DL-HeLa", "Usiigaci"


# --- contacts ----------------------------------------------------------------------------------


def disc(radius: float, row: float, column: float, size: int = 64) -> np.ndarray:
    return np.hypot(*np.ogrid[-row : size - row, -column : size - column]) <= radius


@given(st.integers(3, 10), st.integers(3, 10), st.integers(0, 9), st.booleans())
def test_discs_are_in_contact_up_to_the_distance(first, second, gap, turned) -> None:
    cells = np.zeros((64, 64), int)
    cells[disc(first, 32, 15)] = 7
    cells[disc(second, 32, 15 + first + gap + second + 1)] = 3  # gap pixels lie between
    cells = cells.T if turned else cells
    distance, found = ctc.CONTACT, ctc.contacts(cells)
    assert found.max() == (gap <= distance)
    if gap <= distance:
        where = np.argwhere(found) if not turned else np.argwhere(found)[:, ::-1]
        assert abs(where.mean(0)[0] - 32) < 0.5
        assert abs(where.mean(0)[1] - (15 + first + (gap + 1) / 2)) <= 1
        # It is as wide as it must be to be seen, and no wider.
        assert distance + 2 <= np.ptp(where[where[:, 0] == 32][:, 1]) + 1 <= distance + 2 + gap


def test_each_contact_has_its_number() -> None:
    cells = np.zeros((20, 60), int)
    cells[5:15, 2:10], cells[5:15, 12:30], cells[5:15, 31:45], cells[5:15, 52:58] = 1, 2, 3, 4
    found = ctc.contacts(cells)
    assert set(found[10, 10:12]) == {1} and found[10, 30] == 2 and found.max() == 2
    assert not found[:, 48:].any()
    assert not ctc.contacts(np.ones((9, 9), int)).any() and not ctc.contacts(0 * cells).any()


def test_contacts_of_a_dense_layer_are_told_apart() -> None:
    cells = 1 + np.add.outer(8 * (np.arange(128) // 16), np.arange(128) // 16)
    found = ctc.contacts(cells)
    # The sides between two of the 8 x 8 cells; where four meet, two of them in addition.
    assert found.max() == 2 * 7 * 8 + 7 * 7
    places = np.array([0, 32, 64])
    present, kept = label_crops(
        np.stack([cells, found]), places, places, 64, ctc.Rule(("c", "t"), visible_share=0.25),
        ("c", "t"),
    )
    assert present.all() and kept.all()


# --- classes -----------------------------------------------------------------------------------


def test_classes_are_two_a_line() -> None:
    assert ctc.classes([USIIGACI, PSC]) == (
        "Usiigaci cell", "Usiigaci contact", "PhC-C2DL-PSC cell", "PhC-C2DL-PSC contact",
    )  # fmt: skip
    assert ctc.rule([PSC]).classes == ctc.classes([PSC])
    assert ctc.CLASSES == ctc.RULE.classes == ctc.classes(ctc.DRAWN)
    for wrong in ([], [PSC, PSC], ["HeLa"]):
        with pytest.raises(ValueError, match="must be some of DIC-C2DH-HeLa"):
            ctc.classes(wrong)


# --- official folders --------------------------------------------------------------------------


def names(pairs: ctc.Pairs) -> list[tuple[str, str]]:
    return [(frame.parent.name, frame.name[1:4]) for frame, _ in pairs]


def test_second_sequence_is_for_testing(tmp_path: Path) -> None:
    drawn.sequence(tmp_path, "01", range(40), "_ST/SEG")
    drawn.sequence(tmp_path, "02", range(3), "_ST/SEG")
    found = ctc.find(tmp_path, HELA)
    assert names(found["training"]) == [("01", f"{t:03d}") for t in range(32)]
    assert names(found["validation"]) == [("01", f"{t:03d}") for t in range(34, 40)]
    assert names(found["testing"]) == [("02", f"{t:03d}") for t in range(3)]


@settings(max_examples=20)
@given(n=st.integers(5, 300))
def test_blocks_of_time_have_gaps(tmp_path_factory: pytest.TempPathFactory, n: int) -> None:
    folder = tmp_path_factory.mktemp("frames")
    for place in ("01", "01_ST/SEG"):
        (folder / place).mkdir(parents=True)
    for number in range(n):
        (folder / "01_ST/SEG" / f"man_seg{number:03}.tif").touch()
    found = ctc.find(folder, PSC)
    times = [[int(frame.stem[1:]) for frame, _ in found[split]] for split in ctc.SPLITS]
    assert times[0][0] == 0 and times[2][-1] == n - 1
    for before, after in zip(times, times[1:], strict=False):
        assert after[0] - before[-1] - 1 >= max(1, int(0.045 * n))
    assert sum(map(len, times)) >= 0.6 * n - 2


def test_silver_masks_come_before_gold_before_automatic_ones(tmp_path: Path) -> None:
    for place, prefix in reversed(ctc.MASKS):
        drawn.sequence(tmp_path, "01", range(5), place, prefix)
        drawn.sequence(tmp_path, "01", range(5), "_GT/TRA", "man_track")
        masks = {mask.parent for pairs in ctc.find(tmp_path, HELA).values() for _, mask in pairs}
        assert masks == {tmp_path / f"01{place}"}


def test_sparse_gold_masks_are_left_out(tmp_path: Path) -> None:
    drawn.sequence(tmp_path, "01", range(12), "_GT/SEG")
    drawn.sequence(tmp_path, "01", range(8), "_GT/TRA", "man_track")  # none for 8 to 11
    for number in (2, 5):  # only one of two cells is drawn
        path = tmp_path / "01_GT" / "SEG" / f"man_seg{number:03d}.tif"
        tifffile.imwrite(path, (tifffile.imread(path) == 1).astype(np.uint16))
    # Of the other six, two gaps of one are left out.
    used = {time for pairs in ctc.find(tmp_path, HELA).values() for _, time in names(pairs)}
    assert used <= {f"{t:03}" for t in (0, 1, 3, 4, 6, 7)} and len(used) == 4


def test_sets_without_an_image_are_left_out(tmp_path: Path) -> None:
    drawn.usiigaci(tmp_path, {1: True, 2: False, 3: True, 6: True, 12: False})
    found = ctc.find(tmp_path, USIIGACI)
    assert {split: len(pairs) for split, pairs in found.items()} == dict.fromkeys(ctc.SPLITS, 1)


def test_missing_or_too_few_frames_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames of PhC-C2DL-PSC with complete masks"):
        ctc.find(tmp_path, PSC)
    with pytest.raises(ValueError, match="too few sets"):
        ctc.find(tmp_path, USIIGACI)
    drawn.sequence(tmp_path, "01", range(4), "_ST/SEG")
    with pytest.raises(ValueError, match="too few frames.*leave the line out"):
        ctc.find(tmp_path, PSC)


def test_read_cuts_the_border_scales_the_frame_and_fills_its_own_planes(tmp_path: Path) -> None:
    drawn.sequence(tmp_path, "01", range(5), "_ST/SEG")
    pair = ctc.find(tmp_path, HELA)["testing"]
    (sample,) = ctc.read(pair, HELA, [PSC, HELA])
    assert sample.name == f"{tmp_path.name}/01/t004.tif"
    assert sample.image.shape == (1, 10, 20) and sample.image.dtype == np.uint16
    cells = np.zeros((10, 20), int)
    cells[1:9, 5:11], cells[1:9, 13:20] = 1, 2
    np.testing.assert_array_equal(sample.label[2], cells)
    assert sample.present.tolist() == [0, 0, 1, 1] and sample.label[3].max() == 1
    np.testing.assert_allclose(sample.pixels[0], np.array([0, 0.2, 1])[cells], atol=1e-6)


def test_broken_numbers_are_made_anew(tmp_path: Path) -> None:
    squares = np.kron(np.eye(22, dtype=np.uint8), np.pad(np.ones((3, 3), np.uint8), 3))
    whole = squares * np.arange(1, 199, dtype=np.uint8)[:, None]  # rows of one number
    for name, cells in (("squares", squares), ("stripes", whole)):
        Image.fromarray(cells).save(tmp_path / f"{name}.png")
        (sample,) = ctc.read([(tmp_path / f"{name}.png",) * 2], USIIGACI, [USIIGACI])
        np.testing.assert_array_equal(sample.label[0] > 0, squares > 0)
        # 22 pieces with the number 1 are 22 cells; stripes of their own numbers are kept.
        assert sample.label[0].max() == (22 if name == "squares" else 66)


def test_faults_name_the_file(tmp_path: Path) -> None:
    drawn.sequence(tmp_path, "01", range(5), "_ST/SEG")
    frame, mask = ctc.find(tmp_path, PSC)["testing"][0]
    for change, message in (
        (lambda: tifffile.imwrite(frame, np.zeros((60, 71), np.uint16)), "t004.*expected are"),
        (lambda: tifffile.imwrite(frame, np.zeros((60, 70), np.float32)), "t004.*expected are"),
        (lambda: frame.write_bytes(frame.read_bytes()[:-50]), "t004.*copy it again"),
    ):
        change()
        with pytest.raises(ValueError, match=message):
            list(ctc.read([(frame, mask)], PSC, [PSC]))
    frame.unlink()
    with pytest.raises(FileNotFoundError, match=r"t004\.tif"):
        list(ctc.read([(frame, mask)], PSC, [PSC]))
    for path in (frame, mask):
        tifffile.imwrite(path, np.zeros((50, 60), np.uint16))
    with pytest.raises(ValueError, match=r"t004.*all border of 25 px"):
        list(ctc.read([(frame, mask)], PSC, [PSC]))


# --- datasets of real frames -------------------------------------------------------------------


def test_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what lies in the folder of Usiigaci, only what was asked for is used."""
    sets = drawn.usiigaci(tmp_path, dict.fromkeys([1, 2, 3, 6, 9, 12], True))
    asked_for = [file for file in sets if file.parent.name in ("set1", "set3", "set6")]
    hela = drawn.sequence(drawn.sequence(tmp_path / HELA, "01", range(6), "_ST/SEG"), "02",
                          range(2), "_GT/SEG")  # fmt: skip
    drawn.sequence(hela, "02", range(2), "_GT/TRA", "man_track")
    asked = drawn.offer(monkeypatch, ctc, {"phase-cells": asked_for, HELA: [hela]})
    path = ctc.build(tmp_path / "a.hdf5", "open", lines=[USIIGACI, HELA], subset="small")
    about, counts = dataset.describe(path)
    assert asked == [("phase-cells", "small"), (HELA, None)]
    assert about.classes == ctc.classes([USIIGACI, HELA]) and about.pixel_size_um is None
    assert about.licence == (
        "MIT (phase-cells); Cell Tracking Challenge terms of use (Fluo-N2DL-HeLa)"
    )
    assert "Tsai" in about.source and "Ulman" in about.source
    assert counts == {"training": 5, "validation": 2, "testing": 3}
    stored = {split: [sample.name for sample in dataset.read(path, split)] for split in counts}
    assert stored == {
        "training": ["train/set1/phase.png", *(f"{HELA}/01/t00{n}.tif" for n in range(4))],
        "validation": ["train/set3/phase.png", f"{HELA}/01/t005.tif"],
        "testing": ["train/set6/phase.png", f"{HELA}/02/t000.tif", f"{HELA}/02/t001.tif"],
    }
    usiigaci, frame, _ = dataset.read(path, "testing")
    assert usiigaci.image.shape == (1, 40, 40) and usiigaci.present.tolist() == [1, 0, 0, 0]
    assert frame.image.shape == (1, 10, 20) and frame.present.tolist() == [0, 0, 1, 1]


@pytest.mark.data
def test_real_psc(mirror: Path, tmp_path: Path) -> None:
    folder = unpack(mirror / HOST / f"{PSC}.zip", tmp_path / "psc")
    found = ctc.find(folder, PSC)
    assert {split: len(pairs) for split, pairs in found.items()} == {
        "training": 18, "validation": 4, "testing": 4,
    }  # fmt: skip
    first, second = ctc.read(found["training"][::17], PSC, [PSC])
    assert first.image.shape == (1, 936, 936)  # 44 px of 1024 on each side
    assert first.label[0].max() == 67 and second.label[0].max() > 120
    assert components(first.label[0] > 0).max() == 67
    assert first.pixels.min() >= 0 and first.pixels.max() <= 1
    # Cells are bright.
    inside = first.label[0] > 0
    assert first.image[0][inside].mean() > first.image[0][~inside].mean() + 40


@pytest.mark.data
def test_real_usiigaci(mirror: Path) -> None:
    found = ctc.find(mirror / TRAIN, USIIGACI)
    sets = {split: [int(frame.parent.name[3:]) for frame, _ in pairs]
            for split, pairs in found.items()}  # fmt: skip
    assert sets == {
        "training": [1, 2, 4, 5, 7, 8, 10, 11], "validation": [3, 9], "testing": [6, 12],
    }  # fmt: skip
    (sample,) = ctc.read(found["training"][:1], USIIGACI, [USIIGACI])
    assert sample.image.shape == (1, 1022, 1024) and sample.label[0].max() == 66
    assert 20 < sample.label[1].max() < 66


@pytest.mark.data
def test_real_hela(mirror: Path, tmp_path: Path) -> None:
    found = ctc.find(unpack(mirror / HOST / f"{HELA}.zip", tmp_path / "hela"), HELA)
    assert [names(found[split])[0] for split in ctc.SPLITS] == [
        ("02", "000"), ("02", "006"), ("02", "010"),
    ]  # fmt: skip
    (sample,) = ctc.read(found["testing"][:1], HELA, [HELA])
    assert sample.image.shape == (1, 650, 1050) and sample.present.tolist() == [1, 1]


# --- simulated frames --------------------------------------------------------------------------


@settings(max_examples=4)
@given(st.integers(0, 10**6), st.sampled_from([1, 40, 96]))
def test_simulated_frames(seed: int, size: int) -> None:
    for number, sample in enumerate(ctc.simulate(3, size, seed)):
        assert sample.image.shape == (1, size, size) and sample.image.dtype == np.uint16
        assert sample.label.shape == (6, size, size) and sample.label.dtype == np.uint16
        others = np.delete(sample.label, [2 * number, 2 * number + 1], 0)
        assert not others.any()
        assert ctc.line_of(sample) == number or not sample.label.any()
        for plane in sample.label:
            assert len(np.unique(np.append(plane, 0))) == plane.max() + 1


def test_every_class_is_present_and_absent_in_crops() -> None:
    tops = np.arange(0, 256, 64)
    present = []
    for sample in ctc.simulate(9, 256):
        found, kept = label_crops(sample.label, tops, tops, 64, ctc.RULE, ctc.CLASSES)
        present.append(found[kept])
    share = np.concatenate(present).mean(0)
    assert (share > 0.01).all() and (share < 0.5).all()


def test_simulated_cells_are_no_mere_threshold() -> None:
    """As in real frames, specks are as bright as cells, and Usiigaci's cells as grey as ground."""
    for line, best in ((HELA, 0.97), (PSC, 0.95), (USIIGACI, 0.5)):
        (sample,) = ctc.simulate(1, 512, 3, [line])
        cells = sample.label[0] > 0
        values = np.sort(sample.image[0].ravel())
        dice = []
        for level in values[:: len(values) // 200]:
            above = sample.image[0] > level
            dice.append(2 * (above & cells).sum() / (above.sum() + cells.sum()))
        assert max(dice) < best
        if line != USIIGACI:
            assert sample.image[0][cells].mean() > sample.image[0][~cells].mean()
