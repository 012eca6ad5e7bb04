"""F-actin: simulated dendrites, real images and their marks, the original's files, splits."""

from pathlib import Path

import drawn
import h5py
import numpy as np
import pytest
from damage import replace
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.measure import label as components
from sklearn.metrics import roc_auc_score

from micranet_helpers.data import actin, crops, dataset
from micranet_helpers.data.simulated import dendrites

GITHUB = "raw.githubusercontent.com/FLClab"
AXONS = f"{GITHUB}/STEDActinFCN/180e0974f67dca957c17eb295cd2a8eb3a2c7a98/STEDActinAxonFCN"
DENDRITES = f"{GITHUB}/STEDActinFCN/180e0974f67dca957c17eb295cd2a8eb3a2c7a98/STEDActinDendriteFCN"
TAGAN = f"{GITHUB}/TA-GAN/97de4c2e5bf5d88a505192ee9341d70edd2a506b"


# --- simulated images ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images() -> list[dataset.Sample]:
    return actin.simulate(32, 256, seed=1)


def spectrum(counts: np.ndarray) -> np.ndarray:
    """Power at each wave number of 224 px, where the noise of counted photons is 1."""
    counts = counts[:224, :224]
    window = np.outer(np.hanning(224), np.hanning(224))
    power = np.abs(np.fft.fft2((counts - counts.mean()) * window)) ** 2
    wave = np.hypot(*np.meshgrid(*[np.fft.fftfreq(224, 1 / 224)] * 2)).astype(int).ravel()
    return np.bincount(wave, power.ravel()) / np.bincount(wave) / (window**2 * counts).sum()


@settings(max_examples=20)
@given(size=st.integers(dendrites.SMALLEST, 150), seed=st.integers(0, 1000))
@pytest.mark.slow
def test_labels_number_objects_exactly(size: int, seed: int) -> None:
    (sample,) = actin.simulate(1, size, seed)
    assert sample.image.dtype == np.float32 and sample.image.shape == (1, size, size)
    assert sample.image.min() >= 0 and sample.image.max() <= 1
    assert sample.label.dtype == np.uint16 and sample.label.shape == (3, size, size)
    for plane in sample.label:
        # Each number is one connected piece, no two pieces touch, and no number is left out.
        assert components(plane > 0).max() == plane.max() == components(plane).max()
        assert (np.bincount(plane.ravel())[1:] > dendrites.LEAST).all()
        assert plane.max() == len(np.unique(plane[plane > 0]))
    small = dendrites.LEAST  # pieces of dendrites that are dropped, at the edge, may be marked
    assert ((sample.label[:2] > 0).any(0) & (sample.label[2] == 0)).sum() <= small


@pytest.mark.slow
def test_images_resemble_real_ones(images: list[dataset.Sample]) -> None:
    """Bounds around what 12 open images and the paper's sample give."""
    counts = [sample.image[0] * actin.FULL for sample in images]
    for image in counts:
        np.testing.assert_allclose(image, image.round(), atol=1e-3)  # whole photons
        power = spectrum(image)
        assert 0.85 < power[100:111].mean() < 1.25  # no finer detail than the microscope resolves
        slope = np.polyfit(np.log(np.arange(3, 40)), np.log(power[3:40]), 1)[0]
        assert -3.8 < slope < -1.5
        assert np.percentile(image, 5) <= 3
    means = np.array([image.mean() for image in counts])
    assert 4 < np.median(means) < 15 and means.min() > 1 and means.max() < 45


@pytest.mark.slow
def test_brightness_does_not_tell_rings_but_their_period_does(images: list[dataset.Sample]) -> None:
    for plane in (0, 1):
        contrasts = []
        for sample in images:
            there = sample.label[plane] > 0
            rest = (sample.label[2] > 0) & ~there
            if min(there.sum(), rest.sum()) > 1000:
                contrasts.append(sample.image[0][there].mean() / sample.image[0][rest].mean())
        assert min(contrasts) < 1 < max(contrasts) and 0.8 < np.median(contrasts) < 1.5
    ringed = [(sample.label[0] > 0).mean() > 0.05 for sample in images]
    power = np.array([spectrum(sample.image[0] * actin.FULL) for sample in images])
    # 224 px / 9.5 px = 23.6 waves: there is more than a smooth spectrum would have.
    beside = np.sqrt(power[:, 15:18].mean(1) * power[:, 30:33].mean(1))
    ringing = power[:, 22:26].mean(1) / beside
    assert roc_auc_score(ringed, ringing) > 0.65


# --- real images ---------------------------------------------------------------------------------


@given(
    counts=arrays.arrays(np.uint16, (3, 4), elements=st.integers(0, 30_000)),
    offset=st.sampled_from([0, 2**15]),
)
def test_normalization(counts: np.ndarray, offset: int) -> None:
    found = actin.normalized(counts + np.uint16(offset))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.minimum(counts / 459.49416, 1), rtol=1e-5)


@pytest.mark.data
def test_dendrites_of_stedactinfcn_are_counts_with_an_offset(mirror: Path) -> None:
    files = sorted((mirror / DENDRITES / "images_to_predict").glob("*.tif"))
    assert len(files) == 4
    for file in files:
        image = actin.normalized(actin.read_image(file))
        assert image.min() == 0 and 0.2 < image.max() < 0.4
        assert 0.9 < spectrum(image[0] * actin.FULL)[100:111].mean() < 1.2  # photons, counted


@pytest.mark.data
def test_axons_of_stedactinfcn(mirror: Path) -> None:
    folder = mirror / AXONS / "dataset" / "data"
    samples = list(actin.read(folder / f"actin_{number}.tiff" for number in (1, 2, 3)))
    assert [sample.name for sample in samples] == ["actin_1.tiff", "actin_2.tiff", "actin_3.tiff"]
    assert [sample.label[0].max() for sample in samples] == [4, 3, 0]  # clear rings only
    for sample in samples:
        assert sample.image.shape == (1, 224, 224) and sample.label.shape == (3, 224, 224)
        assert not sample.label[1:].any()
    np.testing.assert_allclose(samples[0].image.max(), 93 / actin.FULL, rtol=1e-6)
    inside, outside = (samples[0].image[0][mask].mean() for mask in (
        samples[0].label[0] > 0, samples[0].label[0] == 0))  # fmt: skip
    assert inside > 1.3 * outside  # rows and columns are not swapped


@pytest.mark.data
@pytest.mark.parametrize(
    ("pattern", "brightest", "present"),
    [
        ("DendriticFActinDataset/train/*.tif", 322, [1, 1, 0]),
        ("FixedLiveDataset/train_fixed/*.tif", 125, [1, 1, 0]),
        ("AxonalRingsDataset/train/*.tif", 63, [1, 0, 0]),
    ],
)
def test_stacks_of_tagan(mirror: Path, pattern: str, brightest: int, present: list[int]) -> None:
    (sample,) = actin.read((mirror / TAGAN).glob(pattern))
    np.testing.assert_allclose(sample.image.max(), brightest / actin.FULL, rtol=1e-6)
    assert sample.present.tolist() == present
    marked = sample.image[0][sample.label.any(0)].mean()
    assert marked > 1.3 * sample.image[0][~sample.label.any(0)].mean()


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        (None, FileNotFoundError, "a.polys.txt"),
        ("4 (1, 1), (5, 1), (5, 5)", ValueError, "number from 0 to 3"),
        ("0 (1, 1), (5, x), (5, 5)", ValueError, "a.polys.txt"),
        ("\n0 (1, 2), (3, 4)", ValueError, "Line 2 of"),
        ("0 (1, 2), (3, 4), (5, 6) 7", ValueError, "Line 1 of"),
        ("ring (1, 2), (3, 4), (5, 6)", ValueError, "Line 1 of"),
        ("0 (1, 2), (3, 4), (5, 1e9)", ValueError, "Line 1 of"),
    ],
)
def test_wrong_polygons_are_refused(tmp_path, lines, error, message) -> None:
    image = drawn.outlined(tmp_path, "a")
    outlines = image.with_name("a.polys.txt")
    outlines.unlink() if lines is None else outlines.write_text(lines)
    with pytest.raises(error, match=message):
        list(actin.read([image]))


def test_polygons_become_numbered_objects(tmp_path: Path) -> None:
    squares = ((0, 0, 0), (1, 20, 0), (3, 0, 20), (2, 20, 20), (0, 10, 10))  # number, x, y
    (sample,) = actin.read([drawn.outlined(tmp_path, "a", *squares)])
    expected = np.zeros((3, 40, 30), int)
    expected[0, :8, :8], expected[0, 10:18, 10:18] = 1, 2
    expected[1, 20:28, :8] = expected[2, 20:28, 20:28] = 1
    np.testing.assert_array_equal(sample.label, expected)


# --- the original's files ------------------------------------------------------------------------


def test_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = drawn.original_actin(tmp_path, actin.SPLITS)
    asked = drawn.offer(monkeypatch, actin, {"micranet": [folder]})
    path = actin.build(tmp_path / "actin.hdf5", "original")
    about, counts = dataset.describe(path)
    assert counts == {"training": 4, "validation": 4, "testing": 4}
    assert about.classes == actin.CLASSES and "Bilodeau" in about.source
    assert about.licence == "MICRA-Net License for Non-Commercial Use"
    assert asked == [("micranet", "archive")]
    samples = list(dataset.read(path, "testing"))
    assert samples[1].image.shape == (1, 15, 25)
    with h5py.File(folder / "datasets" / "testing_01-04-19.hdf5") as file:
        np.testing.assert_allclose(samples[1].pixels[0], file["Block/data"][1, :15, :25], rtol=1e-6)
        np.testing.assert_array_equal(samples[3].label, file["Glu-Gly/label"][1, :, :15, :25])


def counts(group: h5py.Group) -> None:
    group["data"][0, 0, 0] = 37


BROKEN = replace("label", data=np.full((2, 3, 20, 30), np.nan))
TWO_PLANES = replace("label", data=np.zeros((2, 2, 20, 30), np.uint8))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("change", [counts, BROKEN, TWO_PLANES, None])
def test_other_contents_are_refused(tmp_path, change, monkeypatch) -> None:
    folder = drawn.original_actin(tmp_path, actin.SPLITS, change) if change else tmp_path
    drawn.offer(monkeypatch, actin, {"micranet": [folder]})
    with pytest.raises((ValueError, FileNotFoundError), match="training_01-04-19.hdf5"):
        actin.build(tmp_path / "actin.hdf5", "original")
    assert not (tmp_path / "actin.hdf5").exists()


# --- datasets ------------------------------------------------------------------------------------


def test_the_open_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axons = [drawn.outlined(tmp_path, f"actin_{n}", (0, 4, 4)) for n in (1, 2, 3)]
    stacks = [drawn.stack(tmp_path, *place) for place in (
        ("DendriticFActinDataset", "train", 4), ("FixedLiveDataset", "train_fixed", 3),
        ("FixedLiveDataset", "train_live", 2), ("AxonalRingsDataset", "test", 3),
        ("DendriticFActinDataset", "valid", 4),
    )]  # fmt: skip
    asked = drawn.offer(monkeypatch, actin, {"actin": axons, "tagan-actin": stacks})
    path = actin.build(tmp_path / "a.hdf5", "open", subset="small")
    about = dataset.describe(path)[0]
    assert about.licence == "MIT (actin); none stated (tagan-actin)"
    assert about.pixel_size_um is None
    assert asked == [("actin", None), ("tagan-actin", "small")]
    found = {split: list(dataset.read(path, split)) for split in actin.SPLITS}
    assert {split: [sample.name for sample in samples] for split, samples in found.items()} == {
        "training": ["actin_1.tiff", "actin_3.tiff", "DendriticFActinDataset/train/1.tif",
                     "FixedLiveDataset/train_fixed/1.tif"],
        "validation": ["actin_2.tiff", "DendriticFActinDataset/valid/1.tif"],
        "testing": ["AxonalRingsDataset/test/1.tif"],
    }  # fmt: skip
    about, counts = dataset.describe(actin.build(tmp_path / "b.hdf5", "open", subset="axons"))
    assert about.licence == "MIT" and counts == {"training": 2, "validation": 1}
    present = {sample.name: sample.present.tolist() for sample in found["training"]}
    assert list(present.values()) == [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]]
    (rings,) = found["testing"]
    np.testing.assert_allclose(rings.image[0, :12], 1 / actin.FULL, rtol=1e-6)  # channel 1
    assert rings.label[0, :12].all() and not rings.label[0, 12:].any()
    crop = crops.CropDataset(path, "training", 40, 40, crops.Rule(("rings", "fibres"), 0.05))
    assert crop.labels.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(ValueError, match="No crop"):  # no dendrite is marked
        crops.CropDataset(path, "training", 40, 40, actin.RULE)
