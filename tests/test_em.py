"""Electron micrographs: simulated sections, the real stack, damaged files, splits."""

from pathlib import Path

import drawn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.measure import label as components
from sklearn.metrics import roc_auc_score

from micranet_helpers.data import dataset, em
from micranet_helpers.data.simulated import neuropil

STACK = (
    "raw.githubusercontent.com/unidesigner/groundtruth-drosophila-vnc/"
    "4a5f051466d24d8dc1e855ab55658bb1b1dcd6bf/stack1"
)


# --- simulated sections ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sections() -> list[dataset.Sample]:
    return em.simulate(16, 256, seed=1)


@settings(max_examples=25)
@given(size=st.integers(neuropil.SMALLEST, 150), seed=st.integers(0, 1000))
def test_labels_number_objects_exactly(size: int, seed: int) -> None:
    (sample,) = em.simulate(1, size, seed)
    assert sample.image.dtype == np.uint8 and sample.image.shape == (1, size, size)
    assert sample.label.dtype == np.uint16 and sample.label.shape == (3, size, size)
    mitochondria, membranes, synapses = sample.label
    for plane in (mitochondria, synapses):
        # Each number is one connected piece, no two pieces touch, and no number is left out.
        assert components(plane > 0).max() == plane.max() == len(np.unique(plane[plane > 0]))
        assert components(plane, background=0).max() == plane.max()
    assert membranes.max() <= 1 and not (membranes & (mitochondria > 0)).any()


def test_sections_resemble_the_stack(sections: list[dataset.Sample]) -> None:
    """Bounds around what the real sections 00–15 give."""
    images = np.stack([sample.image[0] for sample in sections]).astype(float)
    labels = np.stack([sample.label for sample in sections]) > 0
    assert 118 < images.mean() < 138 and 48 < images.std() < 60
    assert 0.02 < labels[:, 0].mean() < 0.075  # 16 sections are few: the mean is 0.047
    assert 0.18 < labels[:, 1].mean() < 0.23
    assert 0.003 < labels[:, 2].mean() < 0.01
    assert 75 < images[labels[:, 0]].mean() < 100
    assert 50 < images[labels[:, 1]].mean() < 75
    assert images[labels[:, 2]].mean() < 50


def test_a_threshold_does_not_find_mitochondria(sections: list[dataset.Sample]) -> None:
    smooth = [gaussian_filter(-sample.image[0].astype(float), 6)[::4, ::4] for sample in sections]
    truth = [sample.label[0, ::4, ::4] > 0 for sample in sections]
    # In the real sections 00 and 08 it is 0.84.
    assert 0.7 < roc_auc_score(np.ravel(truth), np.ravel(smooth)) < 0.88


# --- the stack ---------------------------------------------------------------------------------


@pytest.fixture
def masks() -> dict[str, np.ndarray]:
    """Two mitochondria with smooth edges, membranes of one bit, no synapse."""
    mitochondria = np.zeros((40, 64), np.uint8)
    mitochondria[2:12, 2:12] = mitochondria[20:30, 40:60] = 127
    mitochondria[3:11, 3:11] = mitochondria[21:29, 41:59] = 128
    membranes = np.zeros((40, 64), bool)
    membranes[:, 30:33] = True
    mitochondria[5:9, 5:9] = 255
    return {
        "mitochondria": mitochondria, "membranes": membranes,
        "synapses": np.zeros((40, 64), np.uint8),
    }  # fmt: skip


def test_masks_are_cut_at_half_of_their_maximum(tmp_path: Path, masks: dict) -> None:
    (sample,) = em.read([drawn.section(tmp_path, 0, masks)])
    expected = np.zeros((3, 40, 64), np.uint16)
    expected[0, 3:11, 3:11], expected[0, 21:29, 41:59], expected[1, :, 30:33] = 1, 2, 1
    np.testing.assert_array_equal(sample.label, expected)
    np.testing.assert_allclose(sample.pixels, np.full((1, 40, 64), 9 / 255, np.float32))
    assert sample.name == "00.tif" and sample.image.dtype == np.uint8


@pytest.mark.parametrize("name", ["raw/00.tif", *(f"{name}/00.png" for name in em.CLASSES)])
def test_missing_and_damaged_files_are_named(tmp_path: Path, masks: dict, name: str) -> None:
    section = drawn.section(tmp_path, 0, masks)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:60])
    with pytest.raises(ValueError, match=name):
        list(em.read([section]))
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        list(em.read([section]))


@pytest.mark.data
def test_masks_of_the_stack_lie_on_their_objects(mirror: Path) -> None:
    samples = em.read([mirror / STACK / f"raw/{number:02}.tif" for number in (0, 8)])
    for sample, mitochondria, synapses in zip(samples, (26, 16), (3, 13), strict=True):
        image, label = sample.image[0], sample.label
        assert image.shape == (1024, 1024)
        assert label[0].max() == mitochondria and label[2].max() == synapses
        assert 0.04 < (label[0] > 0).mean() < 0.08 and 0.18 < label[1].mean() < 0.23
        # Mitochondria, membranes, synapses: each darker than the one before.
        greys = [image[plane > 0].mean() for plane in (label.max(0) == 0, *label)]
        assert (np.diff(greys) < -15).all()


# --- datasets ----------------------------------------------------------------------------------


def test_the_open_dataset(tmp_path, masks, monkeypatch) -> None:
    sections = [drawn.section(tmp_path / "stack1", number, masks) for number in range(16)]
    files = sorted(path for path in (tmp_path / "stack1").rglob("*.*"))
    asked = drawn.offer(monkeypatch, em, {"em": files})
    path = em.build(tmp_path / "em.hdf5", "open", subset="small")
    found = {split: list(dataset.read(path, split)) for split in em.BLOCKS}
    assert {split: [sample.name for sample in samples] for split, samples in found.items()} == {
        "training": [f"{number:02}.tif" for number in range(8)],
        "validation": ["10.tif", "11.tif"],
        "testing": ["14.tif", "15.tif"],
    }
    (expected,) = em.read(sections[:1])
    np.testing.assert_array_equal(found["testing"][1].label, expected.label)
    about, _ = dataset.describe(path)
    assert "CC BY-NC-SA 3.0" in about.licence and "10.6084/m9.figshare.856713" in about.source
    assert asked == [("em", "small")] and about.pixel_size_um == em.PIXEL_SIZE


def test_sections_can_be_shrunk(tmp_path, masks, monkeypatch) -> None:
    for number in range(16):
        drawn.section(tmp_path / "stack1", number, masks)
    files = sorted(path for path in (tmp_path / "stack1").rglob("*.*"))
    drawn.offer(monkeypatch, em, {"em": files})
    pairs = zip(*(dataset.read(em.build(tmp_path / f"{n}.hdf5", "open", shrink=n), "testing")
                  for n in (1, 2)), strict=True)  # fmt: skip
    for whole, half in pairs:
        bins = whole.image[0].reshape(half.image.shape[1], 2, half.image.shape[2], 2)
        np.testing.assert_allclose(half.image[0], bins.mean((1, 3)), atol=0.5)
        assert half.label.shape[1:] == half.image.shape[1:]
        np.testing.assert_array_equal(half.label, whole.label[:, 1::2, 1::2])
    assert dataset.describe(tmp_path / "2.hdf5")[0].pixel_size_um == 2 * em.PIXEL_SIZE
    with pytest.raises(ValueError, match="shrink must be 1, 2 or 4, not 3"):
        em.build(tmp_path / "3.hdf5", "open", shrink=3)
