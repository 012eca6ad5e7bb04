"""Labels of crops as a table: read, checked, stored in a dataset, trained on."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch.utils.data import TensorDataset

from micranet_helpers.data import dataset, own
from micranet_helpers.data.crops import CropDataset, Rule
from micranet_helpers.data.own.crops_table import read_crops, write_crops
from micranet_helpers.label.questions import crops_of_mask
from micranet_helpers.maps import thresholds
from micranet_helpers.networks import MICRANet
from micranet_helpers.train import fit

HEAD = "file,top,left,side,cell,dirt\n"
RULE = Rule(("cell",))
NAN = np.nan


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "crops.csv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images; the brighter one is twice as bright."""
    place = tmp_path / "images"
    place.mkdir()
    for n in range(3):
        pixels = np.random.default_rng(n).integers(0, 100 * (1 + (n == 2)), (64, 80), np.uint8)
        tifffile.imwrite(place / f"{n}.tif", pixels)
    return place


def test_empty_cells_are_unknown(path: Path) -> None:
    path.write_text(HEAD + "a.png,0,32,32,1,\na.png,32,0,32,,0\nb.png,0,0,32,,\n")
    found = read_crops(path)
    assert found.classes == ("cell", "dirt")
    np.testing.assert_array_equal(found.crops["a.png"], [[0, 32, 32, 1, NAN], [32, 0, 32, NAN, 0]])
    np.testing.assert_array_equal(found.images["a.png"](64, 64)[0], [1, 0])
    np.testing.assert_array_equal(found.images["b.png"](64, 64)[0], [0, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [("file,left,top,side,cell\na.png,0,0,32,1\n", "the first line must be: file,top,left,side"),
     ("file,top,left,side\na.png,0,0,32\n", "the first line must be"),
     (HEAD + "a.png,0,0,32,1,0\na.png,0,-8,32,1,0\n", "line 3: top, left and side must be whole"),
     (HEAD + "a.png,0,0,0,1,0\n", "line 2: top, left and side"),
     (HEAD + "a.png,0,0,32,yes,0\n", "line 2: write 1, 0 or nothing"),
     (HEAD + "a.png,0,0,32,1,0\na.png,0,0,32,0,0\n", "line 3: this crop was named before")],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_line(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(ValueError, match=f"correct or export it again: {message}"):
        read_crops(path)


def test_a_crop_outside_its_image_is_an_error_of_the_survey(path: Path, folder: Path) -> None:
    path.write_text(HEAD + "0.tif,64,0,32,1,0\n1.tif,32,64,32,1,0\n")
    assert own.survey(folder, read_crops(path)).contradictory == {
        "0.tif": "a crop begins outside the image, which is 64 × 80 px."}  # fmt: skip


def test_what_was_written_is_read(path: Path) -> None:
    grid = np.full((2, 3, 2), NAN, np.float32)
    grid[0, 1], grid[1, 2] = (1, NAN), (0, 1)
    write_crops(path, {"a, b.png": grid}, ("cell", "dirt"), 32)
    np.testing.assert_array_equal(
        read_crops(path).crops["a, b.png"], [[0, 32, 32, 1, NAN], [32, 64, 32, 0, 1]]
    )


@pytest.fixture
def built(path: Path, folder: Path, tmp_path: Path) -> Path:
    rows = ["0.tif,0,0,32,1,", "0.tif,32,48,32,,1", "2.tif,0,64,32,0,0", "2.tif,32,0,32,1,0"]
    path.write_text(HEAD + "\n".join(rows) + "\n")
    found = own.survey(folder, read_crops(path))
    assert not found.errors and found.unlabelled == ("1.tif",)
    return own.build(
        tmp_path / "crops.hdf5", found, source="mine", licence="CC0", normalisation="minmax",
        shares=(1, 0, 0),
    )  # fmt: skip


def test_crops_of_a_dataset_are_those_of_the_table_scaled_with_their_image(built: Path) -> None:
    first, second = dataset.read(built, "training")
    np.testing.assert_array_equal(first.crops, [[0, 0, 32, 1, NAN], [32, 48, 32, NAN, 1]])
    crops = CropDataset(built, "training", 32, 32, Rule(("cell", "dirt")))
    np.testing.assert_array_equal(crops.positions, [[0, 0, 0], [0, 32, 48], [1, 0, 64], [1, 32, 0]])
    np.testing.assert_array_equal(crops.labels, [[1, NAN], [NAN, 1], [0, 0], [1, 0]])
    beyond = crops[2][0][0]
    np.testing.assert_array_equal(beyond[:, :16], second.pixels[0, :32, 64:])
    assert not beyond[:, 16:].any()


def test_crops_of_which_the_rules_classes_are_unknown_are_left_out(built: Path) -> None:
    crops = CropDataset(built, "training", 32, 32, RULE, ratio=(2, 1))
    np.testing.assert_array_equal(crops.labels, [[1], [0], [1]])


def test_crops_of_another_side_are_refused(built: Path) -> None:
    with pytest.raises(ValueError, match="labels are of crops of 32 px: take one side, not 64"):
        CropDataset(built, "training", 64, 32, RULE)


def test_crops_must_fit_the_classes(tmp_path: Path) -> None:
    image, label = np.zeros((1, 8, 8), np.uint8), np.zeros(1, np.uint8)
    sample = dataset.Sample("a", image, label, crops=np.zeros((1, 5), np.float32))
    with pytest.raises(ValueError, match=r"its crops are \(1, 5\) for 1 classes"):
        dataset.write(tmp_path / "a.hdf5", {"training": [sample]}, dataset.About(("c",), "", ""))


@pytest.mark.slow
def test_training_ignores_what_is_unknown(built: Path, tmp_path: Path) -> None:
    crops = CropDataset(built, "training", 32, 32, Rule(("cell", "dirt")))
    model = fit(crops, crops, tmp_path / "run", 1, batch_size=4)
    assert all(weights.isfinite().all() for weights in model.parameters())


class Flat(TensorDataset):
    """Crops of one value each, in one image."""

    def __init__(self, values: list[float], labels: list[float]) -> None:
        self.labels = torch.tensor(labels)[:, None]
        self.positions = np.zeros((len(values), 3), int)
        images = torch.tensor(values)[:, None, None, None].expand(-1, 1, 32, 32)
        super().__init__(images, self.labels)


def test_thresholds_ignore_what_is_unknown(model: MICRANet, monkeypatch) -> None:
    crops = Flat([5.0, 4.5, 4.2, 4.0, 3.0, 2.0], [1, NAN, NAN, NAN, 1, 0])
    monkeypatch.setattr(thresholds, "evidence", lambda _, images: images)
    assert thresholds.from_labels(model, crops).tolist() == [2.5]


def test_the_sample_is_whole_and_its_labels_are_what_its_masks_say() -> None:
    files = own.annotations.image_files(own.NUCLEI / "images")
    masks = own.read_masks(own.NUCLEI / "masks", ["nucleus"], instances=True)
    found = own.survey(own.NUCLEI / "images", own.read_crops(own.NUCLEI / "labels.csv"))
    assert not found.errors and len(files) == len(masks.images) == 8
    assert len({item.digest for item in found.labelled}) == 8
    for item in found.labelled:
        mask, _ = masks.images[item.name.removesuffix(".png")](*item.shape[1:])
        rows = found.annotations.crops[item.key]
        grid = crops_of_mask(mask[0] > 0, 32)
        top, left = (rows[:, :2].T // 32).astype(int)
        assert len(rows) == grid.size and (grid[top, left] == rows[:, 3]).all()
    about = (own.NUCLEI / "README.md").read_text(encoding="utf-8")
    assert "CC0" in about and "10.1038/s41592-019-0612-7" in about


def test_answers_and_names_in_two_spellings_are_refused(path: Path) -> None:
    path.write_text("file,top,left,side,class,answer,time,who\na.tif,0,0,8,cell,yes,,ann\n")
    with pytest.raises(ValueError, match="these are answers.*crops.csv"):
        read_crops(path)
    path.write_text("file,top,left,side,Zelle,zelle\na.tif,0,0,8,1,0\n")
    with pytest.raises(ValueError, match="a name of its own"):
        read_crops(path)
    path.write_text("file,top,left,side,Fa\u0308den\na.tif,0,0,8,1\n", encoding="utf-8")
    assert read_crops(path).classes == ("F\u00e4den",)
