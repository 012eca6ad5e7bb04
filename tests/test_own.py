"""A folder of one's own images: what is found in it, and the dataset that is made of it."""

import shutil
import tracemalloc
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from test_series import pretended, stack

from micranet_helpers.data import dataset, own
from micranet_helpers.data.crops import CropDataset, Rule
from micranet_helpers.data.own import Annotations, read_boxes, read_masks, read_table

ABOUT = {"source": "our microscope", "licence": "CC0"}


def picture(seed: int, shape: tuple[int, ...] = (20, 24), most: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, shape, np.uint16)


def labels(folder: Path, rows: dict[str, str]) -> Annotations:
    path = folder.parent / "labels.csv"
    lines = [f"{name},{row}" for name, row in rows.items()]
    path.write_text("\n".join(["file,ring,fibre", *lines]), encoding="utf-8")
    return read_table(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images of 5 specimens; every second shows rings, every fifth fibres."""
    for number in range(20):
        path = tmp_path / "images" / f"cell{number % 5}" / f"{number:02}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, picture(number))
    return tmp_path / "images"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tif"))


@pytest.fixture
def found(folder: Path) -> own.Survey:
    rows = {name: f"{n % 2},{int(n % 5 == 0)}" for n, name in enumerate(names(folder))}
    return own.survey(folder, labels(folder, rows))


# --- survey ------------------------------------------------------------------------------------


def test_survey_of_a_sound_folder(found) -> None:
    assert len(found.labelled) == 20 and not found.errors and not found.warnings
    assert {(item.shape, item.dtype) for item in found.images} == {((1, 20, 24), "uint16")}
    np.testing.assert_array_equal(found.pos_weight, [1, 4])
    text = own.report(found)
    assert "20 images, 20 of them with a label" in text and "put right: nothing" in text
    [line] = [line for line in text.splitlines() if line.startswith("fibre")]
    assert line.split() == ["fibre", "4", "16", "4", "4.00"]
    assert "uint16 (20 images)" in text


def test_survey_names_what_is_wrong(folder) -> None:
    some = names(folder)
    rows = {name: "1,0" for name in some} | {"cell9/none.tif": "0,1"}
    (folder / some[0]).write_bytes((folder / some[0]).read_bytes()[:-50])
    tifffile.imwrite(folder / some[1], np.minimum(picture(1), 3000).astype(np.float32))
    shutil.copy(folder / some[2], folder / "copy.tif")
    rows["copy.tif"] = "0,1"
    tifffile.imwrite(folder / some[3], np.stack([picture(3)] * 3, -1), photometric="rgb")
    tifffile.imwrite(folder / some[4], np.full((20, 24), 7, np.uint16))
    tifffile.imwrite(folder / some[5], picture(5, most=9000).clip(0, 4095))
    del rows[some[6]]
    found = own.survey(folder, labels(folder, rows))
    assert list(found.unreadable) == [some[0]] and found.unlabelled == (some[6],)
    assert found.missing == ("cell9/none.tif",)
    [twins] = found.duplicates
    assert {item.name for item in twins} == {"copy.tif", some[2]}
    for words in ("parts of it are missing", "same picture with different labels",
                  "different numbers of channels", "different types of numbers"):
        assert sum(words in error for error in found.errors) == 1, words
    for words, name in (("end of the range", some[5]), ("only one grey picture", some[3]),
                        ("the same value", some[4]), ("No label", some[6]),
                        ("without an image", "cell9/none.tif")):
        [warning] = [text for text in found.warnings if words in text]
        assert name in warning
    text = own.report(found)
    words = " ".join(text.split())  # lines are folded
    assert all(f"- {sentence}" in words for sentence in [*found.errors, *found.warnings])
    assert all(len(line) <= 76 or " " not in line.strip("- ") for line in text.splitlines()[1:])
    with pytest.raises(ValueError, match="Put this right") as caught:
        own.build(folder / "x.hdf5", found, **ABOUT)
    assert all(error in str(caught.value) for error in found.errors)
    assert not (folder / "x.hdf5").exists()


def test_labels_that_do_not_fit_their_image_are_errors(folder) -> None:
    path = folder.parent / "boxes.csv"
    rows = [f"{name},ring,1,{30 if n == 3 else 1},5,{40 if n == 3 else 5}"
            for n, name in enumerate(names(folder))]
    path.write_text("\n".join(["file,class,left,top,right,bottom", *rows]))
    found = own.survey(folder, read_boxes(path))
    assert list(found.contradictory) == [names(folder)[3]] and len(found.labelled) == 19
    assert any("outside the image" in error for error in found.errors)


def test_many_errors_of_a_kind_are_counted(folder) -> None:
    for name in names(folder)[:8]:
        (folder / name).write_bytes(b"II*\0")
    found = own.survey(folder, labels(folder, {name: "1,0" for name in names(folder)}))
    assert len(found.unreadable) == 8 and len(found.errors) == 6
    assert found.errors[-1] == "… and 3 more of this kind."


def test_classes_that_all_or_no_images_show(folder) -> None:
    found = own.survey(folder, labels(folder, {name: "1,0" for name in names(folder)}))
    np.testing.assert_array_equal(found.pos_weight, [0, np.inf])
    assert sum("images show" in text for text in found.warnings) == 2


def test_a_folder_can_be_looked_at_before_there_are_labels() -> None:
    found = own.survey(own.NUCLEI / "images")
    assert len(found.images) == 8 and not found.warnings and "no labels yet" in found.errors[0]
    assert "pos_weight" not in own.report(found) and "width      256 px" in own.report(found)


def test_folders_without_images(tmp_path, found) -> None:
    with pytest.raises(FileNotFoundError, match="check the path"):
        own.survey(tmp_path / "none", found.annotations)
    (tmp_path / "empty").mkdir()
    empty = own.survey(tmp_path / "empty", found.annotations)
    assert "No image has a label" in own.report(empty)


@pytest.mark.parametrize(("channels", "expected"), [(lambda a, b: (a, a, a), True),
                                                    (lambda a, b: (0 * a, a, 0 * a), True),
                                                    (lambda a, b: (a, b, 0 * a), False),
                                                    (lambda a, b: (a, b), False)])
def test_false_colour(channels, expected, tmp_path) -> None:
    image = np.stack(channels(picture(0), picture(1)))
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", metadata={"axes": "CYX"})
    (item,) = own.survey(tmp_path, Annotations(("ring",), {})).images
    assert item.false_colour == expected


# --- dataset -----------------------------------------------------------------------------------


def splits(path: Path) -> dict[str, list[dataset.Sample]]:
    return {split: list(dataset.read(path, split)) for split in dataset.describe(path)[1]}


def test_dataset_holds_every_image_once_with_its_label(found, folder, tmp_path) -> None:
    made = splits(own.build(tmp_path / "own.hdf5", found, pixel_size_um=0.02, **ABOUT))
    assert {split: len(items) for split, items in made.items()} == {
        "training": 14, "validation": 3, "testing": 3,
    }
    samples = {item.name: item for items in made.values() for item in items}
    assert sorted(samples) == names(folder)
    for number, name in enumerate(names(folder)):
        np.testing.assert_array_equal(samples[name].image[0], tifffile.imread(folder / name))
        assert samples[name].label.tolist() == [number % 2, int(number % 5 == 0)]
    about = dataset.describe(tmp_path / "own.hdf5")[0]
    assert about == dataset.About(("ring", "fibre"), "our microscope", "CC0", 0.02)
    assert own.check_split(tmp_path / "own.hdf5") == []


def test_dataset_of_masks(folder, tmp_path) -> None:
    for name in names(folder):
        mask = np.zeros((20, 24), np.uint8)
        mask[2:5, 3:9] = 2
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path.with_suffix(".tiff"), mask)
    found = own.survey(folder, read_masks(tmp_path / "masks", ["ring", "fibre"]))
    made = splits(own.build(tmp_path / "own.hdf5", found, **ABOUT))
    for sample in made["training"]:
        assert sample.label.shape == (2, 20, 24) and sample.present.tolist() == [0, 1]
        assert sample.label[1, 2:5, 3:9].all() and sample.label.sum() == 18


def test_normalisations(found, tmp_path) -> None:
    def pixels(kind: str) -> list[np.ndarray]:
        path = own.build(tmp_path / "own.hdf5", found, normalisation=kind, **ABOUT)
        return [item.pixels for item in splits(path)["training"]]

    for image in pixels("minmax"):
        np.testing.assert_allclose([image.min(), image.max()], [0, 1], atol=1e-6)
    for image in pixels("standard"):
        np.testing.assert_allclose([image.mean(), image.std()], [0, 1], atol=1e-5)
    together = np.stack(pixels("range"))
    np.testing.assert_allclose([together.min(), together.max()], [0, 1], atol=1e-6)
    assert len({image.max() for image in together}) > 1


def test_specimens_and_copies_stay_in_one_split(found, folder, tmp_path) -> None:
    tifffile.imwrite(folder / "cell4" / "copy.tif", tifffile.imread(folder / "cell0" / "00.tif"))
    rows = {name: "1,0" for name in names(folder)}
    found = own.survey(folder, labels(folder, rows))
    path = own.build(tmp_path / "own.hdf5", found, group=lambda name: name.split("/")[0],
                     shares=(0.4, 0.3, 0.3), **ABOUT)
    places = defaultdict(set)
    for split, samples in splits(path).items():
        for sample in samples:
            places[sample.name.split("/")[0]].add(split)
    assert all(len(place) == 1 for place in places.values())
    assert places["cell0"] == places["cell4"] and own.check_split(path) == []


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images; those without a label are left out."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(40):
        tifffile.imwrite(folder / f"{number:02}.tif", picture(number, (4, 4)))
    return folder


@settings(max_examples=8)
@given(st.integers(0, 9), st.integers(5, 40), st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0, 0.5)]))
@pytest.mark.slow
def test_splits_keep_shares_and_classes(many, seed, count, shares) -> None:
    objects = np.random.default_rng(count).integers(0, 2, (count, 2), np.uint8)
    found = own.survey(many, Annotations(("a", "b"), {
        f"{number:02}": lambda height, width, row=row: (row, None)
        for number, row in enumerate(objects)
    }))  # fmt: skip
    def built() -> dict[str, list[int]]:
        path = own.build(many / "a.hdf5", found, shares=shares, seed=seed, **ABOUT)
        return {split: [int(sample.name[:2]) for sample in samples]
                for split, samples in splits(path).items()}  # fmt: skip

    made = built()
    assert list(made) == [name for name, share in zip(dataset.SPLITS, shares, strict=True) if share]
    assert sorted(sum(made.values(), [])) == list(range(count))
    for numbers, share in zip(made.values(), filter(None, shares), strict=True):
        assert numbers and abs(len(numbers) - share * count) <= 3
        assert (np.abs(objects[numbers].sum(0) - share * objects.sum(0)) <= 2).all()
    assert built() == made


@pytest.mark.parametrize(
    ("options", "words"),
    [({"shares": (0.9, 0.2, 0)}, "add up to 1"), ({"shares": (0, 0.5, 0.5)}, "the first above 0"),
     ({"normalisation": "best"}, "'minmax', 'standard' or 'range'"),
     ({"group": lambda name: name[:4]}, "1 specimens for 3 splits")],
)
def test_wrong_options_are_refused(options, words, found, tmp_path) -> None:
    with pytest.raises(ValueError, match=words):
        own.build(tmp_path / "own.hdf5", found, **ABOUT, **options)
    assert not (tmp_path / "own.hdf5").exists()


def test_images_that_changed_since_the_survey_are_refused(found, folder, tmp_path) -> None:
    tifffile.imwrite(folder / names(folder)[7], picture(99))
    with pytest.raises(ValueError, match="changed since the survey"):
        own.build(tmp_path / "own.hdf5", found, **ABOUT)
    assert not list(tmp_path.glob("own*"))


def test_only_one_image_is_in_memory(tmp_path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(16):
        tifffile.imwrite(tmp_path / "images" / f"{number}.tif", picture(number, (512, 512)))
    table = labels(tmp_path / "images", {f"{n}.tif": f"{n % 2},{n // 8}" for n in range(16)})
    own.survey(tmp_path / "images", table)  # imports
    tracemalloc.start()
    own.build(tmp_path / "own.hdf5", own.survey(tmp_path / "images", table), **ABOUT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 512 * 512 * 2  # half of the images


def test_leaks_are_found(tmp_path) -> None:
    def sample(name: str, seed: int) -> dataset.Sample:
        return dataset.Sample(name, picture(seed)[None], np.ones(1, np.uint8))

    path = dataset.write(
        tmp_path / "leaky.hdf5",
        {"training": [sample("a", 1), sample("b", 2)], "testing": [sample("c", 2), sample("a", 3)]},
        dataset.About(("ring",), "here", "CC0"),
    )
    assert own.check_split(path) == [
        "c (testing) and b (training): same pixels.", "a (testing) and a (training): same name.",
    ]


def test_masks_belong_to_ome_tiffs_of_the_same_name(tmp_path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.ome.tif", np.full((16, 16), 7, np.uint8))
    tifffile.imwrite(tmp_path / "images" / "b.tif", np.full((16, 16), 9, np.uint8))
    tifffile.imwrite(tmp_path / "masks" / "a.tif", np.eye(16, dtype=np.uint8))
    tifffile.imwrite(tmp_path / "masks" / "b.ome.tif", np.eye(16, dtype=np.uint8))
    found = own.survey(tmp_path / "images", read_masks(tmp_path / "masks", ["cell"]))
    assert len(found.labelled) == 2 and not found.missing


def test_masks_among_the_images_are_no_images(tmp_path) -> None:
    for n in range(6):
        tifffile.imwrite(tmp_path / f"{n}.tif", picture(n))
        tifffile.imwrite(tmp_path / f"{n}_masks.tif", np.eye(20, 24, dtype=np.uint16) * (n % 2))
    found = own.survey(tmp_path, read_masks(tmp_path, ["cell"], instances=True))
    assert not found.errors and {item.name: item.objects for item in found.images} == {
        f"{n}.tif": (n % 2,) for n in range(6)
    }


@pytest.mark.parametrize("copied", [False, True])
def test_masks_that_are_the_images_are_an_error(copied, folder, tmp_path) -> None:
    masks = shutil.copytree(folder, tmp_path / "masks") if copied else folder
    found = own.survey(folder, read_masks(masks, ["cell"], instances=True))
    assert len(found.contradictory) == 20 and not found.labelled
    assert any("is the image" in error for error in found.errors)


def test_unknown_labels_are_kept_and_counted(folder, tmp_path) -> None:
    rows = {name: f"{n % 2},{'' if n % 4 else n % 8 // 4}" for n, name in enumerate(names(folder))}
    found = own.survey(folder, labels(folder, rows))
    assert found.objects.min() == -1 and (found.objects[:, 1] >= 0).sum() == 5
    np.testing.assert_allclose(found.pos_weight, [1, 3 / 2])
    path = own.build(tmp_path / "own.hdf5", found, **ABOUT)
    made = {item.name: item.label for items in splits(path).values() for item in items}
    for n, name in enumerate(names(folder)):
        expected = [n % 2, np.nan if n % 4 else n % 8 // 4]
        np.testing.assert_array_equal(made[name], np.float32(expected))
    crops = CropDataset(path, "training", 24, 24, Rule(("fibre", "ring")))
    assert crops.labels[:, 0].isnan().any() and not crops.labels[:, 1].isnan().any()


def test_what_files_say_is_listed(tmp_path) -> None:
    for n in range(2):
        tifffile.imwrite(tmp_path / f"{n}.tif", picture(n), photometric="miniswhite")
    found = own.survey(tmp_path, labels(tmp_path / "x", {f"{n}.tif": f"{n},1" for n in range(2)}))
    assert "files say  inverted greys (white is 0) (2 images)" in own.report(found)
    assert not any("Turned" in text for text in found.warnings)
    tag = [(274, "H", 1, 3, True)]  # turned by 180°: the size does not tell
    tifffile.imwrite(tmp_path / "0.tif", picture(0), photometric="miniswhite", extratags=tag)
    found = own.survey(tmp_path, found.annotations)
    assert any(text.startswith("Turned, as the files say: 0.tif") for text in found.warnings)


@pytest.mark.parametrize(("name", "label"), [
    ("a.tif", "gs/set/a.png"), ("sub/a.tif", "a"), ("set/sub/a.tif", "sub/a.tif"),
    ("sub/a.tif", "a-objects"), ("a.tif", "sub/a-rois"), ("sub/a-rois.tif", "a-rois"),
])  # fmt: skip
def test_labels_made_elsewhere_find_their_image(name, label, tmp_path) -> None:
    (tmp_path / "i" / name).parent.mkdir(parents=True)
    tifffile.imwrite(tmp_path / "i" / name, picture(0))
    tifffile.imwrite(tmp_path / "i" / "b.tif", picture(1))
    found = own.survey(tmp_path / "i", labels(tmp_path / "i", {label: "1,0", "b.tif": "0,1"}))
    assert len(found.labelled) == 2 and not found.missing


def test_an_image_called_as_predict_calls_its_files_keeps_its_own_label(tmp_path) -> None:
    for n, name in enumerate(("a.tif", "a-objects.tif")):
        tifffile.imwrite(tmp_path / name, picture(n))
    found = own.survey(tmp_path, labels(tmp_path / "x", {"a-objects": "1,0"}))
    assert found.unlabelled == ("a.tif",)


def test_a_label_that_may_belong_to_two_images_is_given_to_none(tmp_path) -> None:
    for name in ("x/a.tif", "y/a.tif"):
        (tmp_path / "i" / name).parent.mkdir(parents=True)
        tifffile.imwrite(tmp_path / "i" / name, picture(len(name)))
    found = own.survey(tmp_path / "i", labels(tmp_path / "i", {"a.tif": "1,0"}))
    assert found.missing == ("a.tif",) and not found.labelled


@pytest.mark.parametrize("positive", [1, 19])
def test_classes_too_rare_for_three_splits(positive, folder) -> None:
    rows = {name: f"1,{int(n < positive)}" for n, name in enumerate(names(folder))}
    found = own.survey(folder, labels(folder, rows))
    [warning] = [text for text in found.warnings if "show fibre" in text]
    assert f"{positive} of 20" in warning and "each of three splits" in warning


@pytest.mark.parametrize(("sizes", "given", "expected"), [
    ((0.1, 0.1), None, 0.1), ((0.1, 0.1), 0.1, 0.1), ((0.1, 0.2), None, None), ((0.1, 0.1), 0.5, 0),
])  # fmt: skip
def test_pixel_sizes_of_files_are_taken_or_refused(sizes, given, expected, tmp_path) -> None:
    (tmp_path / "i").mkdir()
    for n, size in enumerate(sizes):
        tifffile.imwrite(tmp_path / "i" / f"{n}.tif", picture(n), ome=True, metadata={
            "axes": "YX", "PhysicalSizeX": size, "PhysicalSizeXUnit": "µm"})  # fmt: skip
    rows = {f"{n}.tif": f"{n},1" for n in range(2)}
    found = own.survey(tmp_path / "i", labels(tmp_path / "i", rows))
    assert f"pixel      {sizes[0]} µm" in own.report(found)
    assert any("different sizes" in text for text in found.warnings) == (len({*sizes}) == 2)
    options = ABOUT | {"shares": (1, 0, 0), "pixel_size_um": given}
    if expected == 0:
        with pytest.raises(ValueError, match="pixels of .0.1. µm, not 0.5"):
            own.build(tmp_path / "own.hdf5", found, **options)
    else:
        path = own.build(tmp_path / "own.hdf5", found, **options)
        assert dataset.describe(path)[0].pixel_size_um == expected


@pytest.mark.parametrize("twins", [("é.tif", "e\u0301.tif"), ("a.tif", "a.png")])
def test_one_name_of_two_files_is_an_error(twins, tmp_path) -> None:
    (tmp_path / "i").mkdir()
    for n, name in enumerate(twins):
        data = picture(n)
        tifffile.imwrite(tmp_path / "i" / name, data)  # known by its content, not its ending
    found = own.survey(tmp_path / "i", labels(tmp_path / "i", {twins[0].split(".")[0]: "1,0"}))
    assert len(found.contradictory) == 2 and "spelling of accents" in found.errors[0]


def test_planes_of_stacks_and_files_of_microscopes_are_images(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        film = np.stack([picture(10 * number + n) for n in range(4)])
        tifffile.imwrite(folder / f"film{number}.tif", film, imagej=True, metadata={"axes": "TYX"})
    values = picture(99)[None]
    for name in ("a.nd2", "b.nd2"):
        (folder / name).write_bytes(b"-")
    where = {"voxel_size": lambda: SimpleNamespace(x=0.5)}
    pretended("nd2", [stack(values, "CYX", **where)], monkeypatch)
    rows = {f"film{number}.tif/t{n}": f"{n % 2},1" for number in range(3) for n in range(4)}
    found = own.survey(folder, labels(folder, rows | {"a": "1,0"}))
    assert len(found.labelled) == 13 and not found.errors and found.unlabelled == ("b.nd2",)
    assert {item.name: item.pixel_size_um for item in found.images}["a.nd2"] == 0.5
    path = own.build(tmp_path / "x.hdf5", found, **ABOUT, shares=(0.5, 0.25, 0.25))
    parts = splits(path)
    for split, samples in parts.items():
        for name in {sample.name.partition("/")[0] for sample in samples}:
            others = [each.name for other in parts if other != split for each in parts[other]]
            assert not [other for other in others if other.startswith(name)], "planes stay together"
    kept = {sample.name: sample.image for samples in parts.values() for sample in samples}
    assert len(kept) == 13
    np.testing.assert_array_equal(kept["film2.tif/t3"][0], picture(23))
    np.testing.assert_array_equal(kept["a.nd2"], values)
