"""The explorer: session, files and widgets, with a tiny network and without a browser."""

import csv
import datetime
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from bright import bright_model
from conftest import random_images, random_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

from micranet_helpers import zoo
from micranet_helpers.data.own import read_rois
from micranet_helpers.explore import (
    Session,
    picture,
    recipe,
    save_mask,
    save_objects,
    save_recipe,
    save_rois,
    show,
)
from micranet_helpers.explore.widgets import Explorer, explore
from micranet_helpers.files.images import read_mask
from micranet_helpers.maps.cam import grad_cam
from micranet_helpers.maps.combination import combine, gaussian
from micranet_helpers.maps.detect import drop_small, pieces
from micranet_helpers.maps.outlines import rois
from micranet_helpers.maps.segmentation import Recipe, from_maps, segment
from micranet_helpers.maps.thresholds import otsu
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.networks.unet import UNet
from micranet_helpers.plots.png import BLANK, COLOURS, levels
from micranet_helpers.predict import find, open_zoo, predict

SIDE = 40


def saying(says: list[bool], in_channels: int = 1, seed: int = 0) -> MICRANet:
    """A network that always predicts some classes and never the others."""
    model = random_model(in_channels, len(says), seed)
    with torch.no_grad():
        model.linear1.weight *= 0.01
        model.linear1.bias.copy_(torch.tensor(says).float() * 2 - 1 + torch.arange(len(says)) / 9)
    return model


@pytest.fixture(scope="module")
def zoo_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "zoo.hdf5"
    zoo.save(path, "MICRANet", saying([True, False, True]), {"size": SIDE})
    zoo.save(path, "rgb", saying([True], 3), {"size": SIDE})
    zoo.save(path, "never", saying([False, False]), {"size": SIDE})
    torch.manual_seed(0)
    zoo.save(path, "unet", UNet(1, 2, depth=2, filters=4), {})
    return path


def blobs(height: int, width: int, channels: int = 1) -> np.ndarray:
    noise = random_images(channels, height, width).numpy()
    smooth = ndimage.gaussian_filter(noise, (0, 1, 1))
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


@pytest.fixture(scope="module")
def image_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "field.tif"
    tifffile.imwrite(path, blobs(56, 64)[0])
    return path


@pytest.fixture
def session(zoo_path: Path, image_path: Path) -> Session:
    return Session(zoo_path, "MICRANet", image_path, top=10, left=20)


# --- session -----------------------------------------------------------------------------------


def test_session_computes_what_the_package_computes_step_by_step(session, image_path) -> None:
    assert list(session.predicted) == [2, 0] and session.cls == 2, "the most probable comes first"
    session.choose(cls=0, layers=("2a", "1b"), area=5)
    image = torch.from_numpy(tifffile.imread(image_path)[None, None] / np.float32(255))
    crop = image[..., 10:50, 20:60]
    cams = grad_cam(saying([True, False, True]), crop, lambda logits: logits > 0)
    torch.testing.assert_close(session.maps, cams.maps[0, 0])
    torch.testing.assert_close(session.prediction.probabilities, cams.logits[0].sigmoid())
    score = gaussian(combine(cams.maps[0, 0], "pca", [1, 2]), 1.0)
    torch.testing.assert_close(session.score, score)
    expected = drop_small(ndimage.label(otsu(score))[0], 5)
    np.testing.assert_array_equal(session.labels, expected)
    assert session.count == expected.max() > 1
    assert session.area_px == (expected > 0).sum() and session.area_um2 is None
    session.choose(pixel_size_um=0.5)
    assert session.area_um2 == session.area_px / 4


CHANGES = {
    "image": {"scaling": "minmax"}, "crop": {"left": 3},
    "class": {"cls": 0}, "layers": {"layers": ("1a",)}, "sigma": {"sigma": 2.0},
    "threshold": {"threshold": "triangle"}, "area": {"area": 9}, "split": {"split": 3},
    "size": {"pixel_size_um": 0.1},
}  # fmt: skip
@pytest.mark.slow
@settings(max_examples=10)
@given(order=st.lists(st.sampled_from(sorted(CHANGES)), max_size=6),
       back=st.lists(st.booleans(), min_size=6, max_size=6))  # fmt: skip
def test_after_any_changes_a_session_is_like_a_new_one(
    zoo_path: Path, image_path: Path, order: list[str], back: list[bool]
) -> None:
    old = Session(zoo_path, "MICRANet", image_path)
    start = old.choice
    for name, undo in zip(order, back, strict=False):
        old.choose(**CHANGES[name])
        assert old.labels is not None
        if undo:
            old.choose(**{key: getattr(start, key) for key in CHANGES[name]})
    new = Session(**vars(old.choice))
    np.testing.assert_array_equal(old.labels, new.labels)
    assert torch.equal(old.score, new.score) and old.area_um2 == new.area_um2


def test_files_that_changed_are_read_again(zoo_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "field.tif"
    tifffile.imwrite(path, blobs(56, 64)[0])
    session = Session(zoo_path, "MICRANet", path)
    before = session.labels
    tifffile.imwrite(path, blobs(48, 80)[0])
    assert session.raw.shape == (1, 48, 80) and (session.labels != before).any()


def test_side_of_the_crop_comes_from_the_zoo_or_fits_the_image(zoo_path, image_path) -> None:
    session = Session(zoo_path, "MICRANet", image_path)
    assert session.place == (0, 0, SIDE)
    session.networks.main.params["size"] = "huge"  # of a careless or hostile file
    assert session.place == (0, 0, 56)


def test_folds_and_thresholds_of_a_zoo_are_used_as_by_segment(tmp_path, image_path) -> None:
    models = [saying([True, False, True], seed=1), saying([True, True, False], seed=2)]
    thresholds = [0.6, 0.45, 0.9]
    zoo.save(tmp_path / "zoo.hdf5", "folds", models, {"size": SIDE}, thresholds)
    session = Session(tmp_path / "zoo.hdf5", "folds", image_path)
    last = Recipe("4b", from_maps(lambda maps, _: maps[:, :, 7]), lambda scores, _: scores > 0)
    done = segment(models, session.crop, last, thresholds=thresholds)
    torch.testing.assert_close(session.prediction.maps[:, 7], done.scores[0])
    torch.testing.assert_close(session.prediction.probabilities, done.probabilities[0])
    said = done.probabilities[0] >= torch.tensor(thresholds)
    assert session.prediction.predicted.tolist() == said.tolist() == [True, True, False]


# --- ways of predict ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A zoo with a classifier and a U-Net, and a square image of bright squares."""
    folder = tmp_path_factory.mktemp("fields")
    usage = zoo.Usage(("cell", "dot"), "minmax", object_px=10, levels=(0.5, -1))
    zoo.save(folder / "zoo.hdf5", "MICRANet", bright_model(classes=2), {}, usage=usage)
    pixels = np.random.default_rng(0).integers(0, 60, (56, 56)).astype(np.uint8)
    for row, column in ((8, 8), (8, 34), (30, 20), (30, 31), (50, 50)):
        pixels[row : row + 10, column : column + 10] = 220
    torch.manual_seed(0)
    student = UNet(1, 2, depth=3, filters=4).eval()
    with torch.no_grad():
        logits = student(torch.from_numpy(usage.scaled(pixels[None]))[None, :, :48, :48])
    levels = logits.flatten(2).quantile(0.7, -1)[0].tolist()
    zoo.save(folder / "zoo.hdf5", "UNet", student, {}, usage=replace(usage, levels=levels))
    (folder / "images").mkdir()
    tifffile.imwrite(folder / "images" / "field.tif", pixels)
    return folder / "zoo.hdf5", folder / "images" / "field.tif"


@pytest.mark.parametrize("group, way", [
    ("MICRANet", "evidence"), ("MICRANet", "Otsu inside evidence"), ("UNet", "self-trained"),
    ("UNet", "plain, bright"), ("MICRANet", "plain, dark"),
])  # fmt: skip
def test_every_way_marks_what_predict_marks(fields, group: str, way: str) -> None:
    session = Session(fields[0], group, fields[1], how=way, cls=1, side=40, top=9, left=11)
    masks, scores = find(open_zoo(fields[0], group), session.raw, [way])[way]
    np.testing.assert_array_equal(session.found, masks[1])
    np.testing.assert_array_equal(session.score, scores[1, 9:49, 11:51])
    np.testing.assert_array_equal(session.mask, masks[1, 9:49, 11:51])
    assert session.mask.any() and not session.mask.all()
    session.choose(sigma=5.0, threshold="none", layers=("1a",))
    np.testing.assert_array_equal(session.mask, masks[1, 9:49, 11:51], "these are for maps")


@pytest.mark.parametrize("group", ["MICRANet", "UNet"])
def test_a_whole_image_has_the_objects_that_predict_counts(fields, group, tmp_path: Path) -> None:
    start = Session(fields[0], group, fields[1]).networks.ways[0]
    predicted = open_zoo(fields[0], group).usage
    report = predict(fields[1].parent, fields[0], tmp_path / "out", group=group)
    [row] = csv.DictReader((report.parent / "summary.csv").open())
    least = max(4, round(0.1 * np.pi / 4 * predicted.object_px**2))
    session = Session(fields[0], group, fields[1], how=start, side=56, area=least, split=5)
    counts = []
    for cls in session.classes:
        session.choose(cls=cls)
        counts.append(session.count)
    assert counts == [int(row["objects, cell"]), int(row["objects, dot"])] and sum(counts) > 1


def test_an_absolute_level_of_evidence_is_that_of_the_usage(fields) -> None:
    session = Session(fields[0], "MICRANet", fields[1], how="evidence", above=1.5)
    changed = open_zoo(fields[0], "MICRANet", levels=(2.0, 0.5))
    for cls in (0, 1):
        session.choose(cls=cls)
        masks = find(changed, session.raw, ["evidence"])["evidence"].masks
        np.testing.assert_array_equal(session.found, masks[cls])
    session.choose(above=-50.0)
    assert session.found.all()


def test_a_u_net_has_no_maps_and_says_so(fields) -> None:
    session = Session(fields[0], "UNet", fields[1])
    assert session.how == "self-trained" and session.classes == {0: "cell", 1: "dot"}
    with pytest.raises(ValueError, match="holds a U-Net, which has no maps: choose a group with"):
        _ = session.maps
    for how in ("pca", "evidence"):
        session.choose(how=how)
        with pytest.raises(ValueError, match=f"without {how}: combine by one of self-trained, pl"):
            _ = session.labels
    session.choose(how=None)
    assert session.labels.shape == (56, 56)
    show(session)


# --- bad input ---------------------------------------------------------------------------------


BAD = {
    "small": (lambda: (blobs(56, 32)[0], {}), "MICRANet",
              r"56 × 32 px is smaller than a crop of 40 px: choose a smaller side"),
    "colours": (lambda: (np.moveaxis(blobs(56, 64, 3), 0, -1), {"photometric": "rgb"}), "MICRANet",
                "has 3 channels and the network takes 1: save those"),
    "NaN": (lambda: (np.full((56, 64), np.nan, np.float32), {}), "MICRANet", "NaN"),
    "16 bits": (lambda: (blobs(56, 64)[0].astype(np.uint16), {}), "MICRANet",
                "16 bits.*give the scaling minmax or standard"),
    "no class": (lambda: (blobs(56, 64)[0], {}), "never",
                 r"No class is predicted in this crop \(the most probable, 1, has 0.2\d\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gives_one_sentence_and_the_session_goes_on(
    session: Session, image_path: Path, tmp_path: Path, kind: str
) -> None:
    make, group, sentence = BAD[kind]
    pixels, options = make()
    tifffile.imwrite(tmp_path / "bad.tif", pixels, **options)
    session.choose(group=group, image=tmp_path / "bad.tif")
    for _ in range(2):
        with pytest.raises((ValueError, TypeError), match=sentence):
            _ = session.labels
    session.choose(group="MICRANet", image=tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="gone"):
        _ = session.labels
    session.choose(group="MICRANet", image=str(image_path))
    assert session.count


@pytest.mark.parametrize("change, sentence", [
    ({"layers": ("5a",)}, "at least one of"), ({"how": "median"}, "how must be one of pca"),
    ({"pixel_size_um": float("nan")}, "pixel size must be"),
])  # fmt: skip
def test_wrong_choices_change_nothing(session: Session, change: dict, sentence: str) -> None:
    before = session.choice
    with pytest.raises(ValueError, match=sentence):
        session.choose(**change)
    assert session.choice is before


def test_a_class_that_is_not_predicted_cannot_be_looked_at(session: Session) -> None:
    session.choose(cls=1)
    with pytest.raises(ValueError, match="Class 1 is not predicted .* choose one of 2, 0"):
        _ = session.labels


# --- files -------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
@example(mask=np.pad(np.pad([[False, True], [True, False]], 1), 2, constant_values=True))
def test_rois_read_back_give_the_same_objects(tmp_path_factory, mask: np.ndarray) -> None:
    """Also with holes, at borders and where objects touch at corners."""
    labels = pieces(mask)
    folder = tmp_path_factory.mktemp("rois")
    for roi in rois(labels, "cell"):
        roi.tofile(folder / "a.zip")
    [label], _ = read_rois(folder).images["a"](*mask.shape) if mask.any() else ([labels], None)
    np.testing.assert_array_equal(label > 0, labels > 0)
    assert label.max() == labels.max()


def test_all_files_tell_the_same_objects_in_the_whole_image(session, tmp_path: Path) -> None:
    session.choose(area=3, pixel_size_um=0.5)
    for save, name in ((save_mask, "a.tif"), (save_objects, "a.csv"), (save_rois, "a.zip")):
        save(tmp_path / name, session)
    mask = read_mask(tmp_path / "a.tif")
    assert mask.shape == (56, 64) and mask.dtype == np.uint8 and session.count > 2
    np.testing.assert_array_equal(mask[10:50, 20:60], session.labels)
    assert (mask > 0).sum() == session.area_px
    found = read_rois(tmp_path)
    [label], _ = found.images["a"](56, 64)
    assert found.classes == ("class2",)
    np.testing.assert_array_equal(label, mask)
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == session.count
    assert sum(float(row["area_um2"]) for row in rows) == pytest.approx(session.area_um2)
    for row in rows:
        inside = np.argwhere(mask == int(row["label"]))
        np.testing.assert_allclose([float(row["row"]), float(row["column"])], inside.mean(0))


def test_nothing_found_is_a_result_too(session: Session, tmp_path: Path) -> None:
    session.choose(area=10**6)
    save_mask(tmp_path / "a.tif", session)
    save_objects(tmp_path / "a.csv", session)
    save_rois(tmp_path / "a.zip", session)
    assert not read_mask(tmp_path / "a.tif").any()
    assert (tmp_path / "a.csv").read_text() == "label,area_px,row,column,score\n"
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == []


@pytest.mark.parametrize("change", [
    {}, {"how": "prod", "layers": ("4b", "3a"), "sigma": 0.0}, {"threshold": "triangle", "cls": 0},
    {"threshold": "percentile", "level": 92.5, "split": 4, "area": 6, "how": "sum"},
    {"scaling": "standard", "side": 24, "top": 99, "how": "mean"},
    {"how": "evidence"}, {"how": "Otsu inside evidence", "above": -1e6, "cls": 1, "split": 4},
    {"how": "plain, dark", "scaling": "standard", "threshold": "none"},
])  # fmt: skip
def test_the_recipe_pasted_gives_exactly_the_same_objects(session, change, capsys) -> None:
    session.choose(**change)
    names: dict[str, Any] = {}
    exec(recipe(session), names)
    np.testing.assert_array_equal(names["labels"], session.labels)
    np.testing.assert_array_equal(names["mask"], session.mask)
    assert names["mask"].any() and names["place"] == session.window
    printed = capsys.readouterr().out
    assert printed == f"{session.count} objects, {session.area_px} px\n"


def test_a_path_in_the_recipe_cannot_become_code(zoo_path, tmp_path: Path) -> None:
    path = tmp_path / "a'); raise SystemExit('ran\n.tif"
    tifffile.imwrite(path, blobs(56, 64)[0])
    session = Session(zoo_path, "MICRANet", path)
    names: dict[str, Any] = {}
    exec(recipe(session), names)
    np.testing.assert_array_equal(names["labels"], session.labels)


SAVES = {"a.tif": save_mask, "a.csv": save_objects, "a.zip": save_rois, "a.py": save_recipe}


@pytest.mark.parametrize("name", SAVES)
def test_files_are_whole_and_never_replaced_unasked(session, tmp_path, name, monkeypatch) -> None:
    save, path = SAVES[name], tmp_path / name
    with pytest.raises(ValueError, match=f"ends in {path.suffix}: rename a.txt"):
        save(tmp_path / "a.txt", session)
    path.write_text("old")
    with pytest.raises(FileExistsError, match="give another name"):
        save(path, session)
    assert path.read_text() == "old"
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="disk has room"):
            save(path, session, overwrite=True)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    save(path, session, overwrite=True)
    assert path.stat().st_size > 50
    session.choose(threshold="none")
    assert session.count == session.area_px == 0
    with pytest.raises(ValueError, match="no mask without a threshold"):
        save(path, session, overwrite=True)


# --- pictures ----------------------------------------------------------------------------------


def test_objects_have_the_colour_of_their_class_and_the_rest_is_the_image(session) -> None:
    factor = picture.LARGE // SIDE + 1
    clear, full = (picture.overlay(session, opacity)[::factor, ::factor] for opacity in (0, 1))
    crop = tifffile.imread(session.choice.image)[10:50, 20:60].astype(float)
    grey = (255 * (crop - crop.min()) / np.ptp(crop)).round()
    assert abs(full[~session.mask] - grey[~session.mask][:, None]).max() <= 1
    assert (full[session.mask] == [0, 158, 115]).all()  # the third of the book's colours
    inner = ndimage.binary_erosion(session.mask)
    assert inner.any() and abs(clear[inner] - grey[inner][:, None]).max() <= 1
    edge = session.mask & ~ndimage.binary_erosion(session.mask, border_value=1)
    assert (clear[edge] == [0, 158, 115]).all()


@pytest.mark.parametrize("side", [64, 20])
def test_the_overview_frames_the_crop(session: Session, side: int) -> None:
    shown = picture.overview(session, side)
    step = 64 // side + (64 % side > 0)
    frame = (shown == [230, 159, 0]).all(-1)
    rows, columns = np.nonzero(frame)
    assert shown.shape == (-(-56 // step), 64 // step, 3)
    assert (rows.min(), columns.min()) == (10 // step, 20 // step)
    assert rows.max() - rows.min() + 1 == 40 // step == columns.max() - columns.min() + 1


def test_the_figure_shows_what_the_explorer_shows(session: Session) -> None:
    import matplotlib.pyplot as plt

    session.choose(layers=("1b", "4b"))
    show(session)
    titles = [axis.get_title() for axis in plt.gcf().axes]
    plt.close()
    assert len(titles) == 11
    assert [text for text in titles if "✓" in text] == ["✓ 1b", "✓ 4b"]
    assert picture.summary(session) in [text.replace("\n", " ") for text in titles]


# --- widgets -----------------------------------------------------------------------------------


@pytest.fixture
def widget(zoo_path: Path, image_path: Path, tmp_path: Path, monkeypatch) -> Explorer:
    monkeypatch.chdir(tmp_path)
    return explore(zoo_path, image_path, top=10, left=20)


def shown(widget: Explorer) -> dict[str, bytes]:
    names = ("overview", "picture", "score")
    maps = b"".join(each.value for each in widget.maps)
    return {name: getattr(widget, name).value for name in names} | {"maps": maps}


def blank(widget: Explorer) -> set[str]:
    """What shows nothing; maps all eight, or none."""
    pictures = {"overview": [widget.overview], "picture": [widget.picture],
                "score": [widget.score], "maps": widget.maps}  # fmt: skip
    empty = {name: {each.value == BLANK for each in some}
             for name, some in pictures.items()}  # fmt: skip
    assert all(len(each) == 1 for each in empty.values())
    return {name for name, each in empty.items() if each == {True}}


def changed(widget: Explorer, before: dict[str, bytes]) -> set[str]:
    assert widget.message.value == ""
    return {name for name, value in shown(widget).items() if value != before[name]}


def test_the_widget_shows_what_the_session_says(widget: Explorer) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(widget.picture.value)))
    np.testing.assert_array_equal(pixels, picture.overlay(widget.session, 0.4))
    assert widget.summary.value == picture.summary(widget.session)
    names = {"class 2 (probability 0.77)": 2, "class 0 (probability 0.73)": 0}
    assert dict(widget.controls["cls"].options) == names
    assert widget.controls["group"].options[0] == "MICRANet"
    assert (widget.controls["side"].value, widget.controls["top"].max) == (SIDE, 16)
    assert all(bytes(each.value).startswith(b"\x89PNG") for each in widget.maps)
    assert widget.code.value == recipe(widget.session)


@pytest.mark.parametrize("name, value, pictures", [
    ("threshold", "triangle", {"picture"}), ("sigma", 3.0, {"picture", "score"}),
    ("cls", 0, {"picture", "score", "maps"}),
    ("top", 2, {"picture", "score", "maps", "overview"}),
    ("pixel_size_um", 0.2, set()),
])  # fmt: skip
def test_each_control_changes_its_pictures_and_no_other(widget, name, value, pictures) -> None:
    before, text = shown(widget), widget.summary.value
    widget.controls[name].value = value
    assert changed(widget, before) == pictures and widget.summary.value != text
    assert getattr(widget.session.choice, name) == value


def test_ticks_and_opacity_change_the_picture(widget: Explorer) -> None:
    before = shown(widget)
    widget.ticks[0].value = False
    assert widget.session.choice.layers == ("1b", "2a", "2b", "3a", "3b", "4a")
    assert changed(widget, before) == {"picture", "score"}
    before = shown(widget)
    widget.opacity.value = 0.9
    assert changed(widget, before) == {"picture"}


def test_without_a_threshold_the_combined_map_lies_on_the_crop(widget, tmp_path) -> None:
    before = shown(widget)
    widget.controls["threshold"].value = "none"
    assert changed(widget, before) == {"picture"} and widget.summary.value.endswith("no threshold")
    widget.opacity.value = 1
    pixels = np.asarray(Image.open(io.BytesIO(widget.picture.value)))[::10, ::10]
    np.testing.assert_array_equal(pixels, COLOURS[levels(widget.session.score)])
    for button in widget.buttons.values():
        button.click()
        assert "no mask without a threshold" in widget.saved.value
    assert widget.code.value == "" and not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_u_net_disables_what_is_for_maps_and_says_why(widget: Explorer) -> None:
    for_maps = [*widget.ticks, *(widget.controls[name] for name in ("sigma", "threshold"))]
    assert not any(each.disabled for each in for_maps) and widget.reason.value == ""
    widget.controls["group"].value = "unet"
    assert changed(widget, shown(widget)) == set() and widget.session.how == "self-trained"
    assert widget.controls["how"].options == ("self-trained", "plain, bright", "plain, dark")
    assert all(each.disabled and "For maps only" in each.tooltip for each in for_maps)
    assert "self-trained has a level of its own: layers" in widget.reason.value
    assert blank(widget) == {"maps"}
    assert widget.summary.value == picture.summary(widget.session)
    before = shown(widget)
    widget.controls["above"].value = float(widget.session.score.min()) - 0.1  # all is marked
    assert changed(widget, before) == {"picture"}
    names: dict[str, Any] = {}
    exec(widget.code.value, names)
    np.testing.assert_array_equal(names["labels"], widget.session.labels)
    widget.controls["group"].value = "MICRANet"
    assert widget.message.value == "" and widget.session.how == "pca"
    assert not any(each.disabled for each in for_maps) and widget.controls["above"].disabled
    assert not blank(widget) and widget.reason.value == ""


def test_a_click_centres_the_crop_there(widget: Explorer) -> None:
    widget.controls["side"].value = 16
    calls = []
    widget.picture.observe(calls.append, "value")
    widget.grid.children[1].children[37].click()  # row 3, column 7 of ten
    assert widget.session.place == (round(0.35 * 56 - 8), round(0.75 * 64 - 8), 16)
    assert len(calls) == 1, "one click, one picture"
    widget.grid.children[1].children[99].click()
    assert widget.session.place == (40, 48, 16)
    assert (widget.controls["top"].value, widget.controls["left"].value) == (40, 48)


def test_errors_are_sentences_in_the_widget_and_go_away(widget: Explorer, tmp_path) -> None:
    good = widget.controls["image"].value
    widget.controls["image"].value = "<b>gone</b>.tif"
    assert "There is no file &lt;b&gt;gone" in widget.message.value
    assert blank(widget) == {"overview", "picture", "score", "maps"}
    assert not widget.summary.value + widget.code.value
    widget.controls["image"].value = good
    assert widget.message.value == "" and not blank(widget)
    for tick in widget.ticks:
        tick.value = False
    assert "at least one of the layers" in widget.message.value and "overview" not in blank(widget)
    widget.ticks[3].value = True
    widget.controls["group"].value = "rgb"
    assert "channels" in widget.message.value
    widget.controls["group"].value = "never"
    assert "No class is predicted" in widget.message.value
    assert blank(widget) == {"picture", "score", "maps"}
    assert widget.controls["cls"].options == ()
    widget.controls["group"].value = "MICRANet"
    assert widget.message.value == "" and not blank(widget)


def test_a_new_zoo_brings_its_groups_and_side(widget: Explorer, tmp_path: Path) -> None:
    zoo.save(tmp_path / "b.hdf5", "other", saying([True]), {"size": 24})
    zoo.save(tmp_path / "b.hdf5", "MICRANet-1:5", saying([True]), {"size": 32})
    widget.controls["zoo"].value = str(tmp_path / "b.hdf5")
    assert widget.controls["group"].options == ("MICRANet-1:5", "other")
    assert widget.message.value == "" and widget.session.place[2] == 32
    widget.controls["group"].value = "other"
    assert widget.session.place[2] == 24
    (tmp_path / "c.hdf5").write_bytes(b"no zoo")
    widget.controls["zoo"].value = str(tmp_path / "c.hdf5")
    assert "no HDF5 file or is damaged" in widget.message.value
    assert widget.controls["group"].options == () and "picture" in blank(widget)


def test_choices_to_begin_with_are_kept(zoo_path, image_path) -> None:
    choices = {"group": "MICRANet", "cls": 0, "threshold": "percentile", "level": 70.0, "left": 9,
               "side": 24, "layers": ("2a",), "pixel_size_um": 0.3, "sigma": 12.0}
    choice = explore(zoo_path, image_path, **choices).session.choice
    assert {name: getattr(choice, name) for name in choices} == choices


def upload(widget: Explorer, name: str, file: str, content: bytes) -> None:
    sent = {"name": file, "type": "", "size": len(content), "content": memoryview(content),
            "last_modified": datetime.datetime.now()}  # fmt: skip
    widget.uploads[name].value = (sent,)


def test_uploads_stay_in_their_folder_and_replace_nothing(widget, zoo_path, tmp_path) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, blobs(64, 48)[0])
    upload(widget, "image", "../../C:\\evil.tif", buffer.getvalue())
    assert widget.message.value == "" and widget.session.raw.shape == (1, 64, 48)
    assert widget.session.choice.image == str(Path("uploads/evil.tif"))
    assert {path.name for path in tmp_path.rglob("*")} == {"uploads", "evil.tif"}
    upload(widget, "image", "evil.tif", b"something else")
    assert "exists and is another file" in widget.message.value
    assert (tmp_path / "uploads/evil.tif").read_bytes() == buffer.getvalue()
    upload(widget, "image", "..", b"x")
    assert "has no name" in widget.message.value
    upload(widget, "zoo", "new.hdf5", zoo_path.read_bytes())
    assert widget.message.value == "" and widget.session.choice.zoo.endswith("new.hdf5")


def test_buttons_save_what_is_shown(widget: Explorer, tmp_path: Path) -> None:
    for button in widget.buttons.values():
        button.click()
        assert "Saved explored/objects" in widget.saved.value
    folder = tmp_path / "explored"
    assert sorted(path.suffix for path in folder.iterdir()) == [".csv", ".py", ".tif", ".zip"]
    assert (read_mask(folder / "objects.tif") > 0).sum() == widget.session.area_px
    names: dict[str, Any] = {}
    exec((folder / "objects.py").read_text(), names)
    np.testing.assert_array_equal(names["labels"], widget.session.labels)
    widget.buttons["mask"].click()
    assert "exists: give another name" in widget.saved.value and not blank(widget)
    widget.name.value = "explored/again"
    widget.buttons["mask"].click()
    assert "Saved explored/again.tif" in widget.saved.value
    widget.controls["area"].value = 20  # what was saved is not shown any more
    assert widget.saved.value == ""
    widget.overwrite.value = True
    widget.buttons["mask"].click()
    assert (read_mask(folder / "again.tif") > 0).sum() == widget.session.area_px
