"""From a folder of images to masks, tables, outlines and a report."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from bright import bright_model
from conftest import random_images, random_model
from filelock import FileLock
from PIL import Image
from skimage.draw import polygon2mask

from micranet_helpers import zoo
from micranet_helpers.data.own import read_geojson, read_masks, survey
from micranet_helpers.data.own.answers import read_answers
from micranet_helpers.data.own.rois import read_rois
from micranet_helpers.files.tables import csv_bytes
from micranet_helpers.lessons import command
from micranet_helpers.maps.cam import evidence
from micranet_helpers.maps.detect import pieces, refined
from micranet_helpers.maps.segmentation import pixel_scores
from micranet_helpers.networks.unet import UNet
from micranet_helpers.predict import find, open_zoo, predict, ways
from micranet_helpers.zoo.usage import misfit, wrong_size

USAGE = zoo.Usage(("cell",), "range", (100,), (1 / 800,), "uint16", pixel_size_um=0.2, side=64)
CENTRES = [(14, 16), (14, 48), (44, 30)]


def field(shift: int = 0, radius: int = 6) -> np.ndarray:
    """Bright discs on dim noise, 56 × 64 px."""
    pixels = np.random.default_rng(shift).integers(90, 130, (56, 64)).astype(np.uint16)
    rows, columns = np.mgrid[:56, :64]
    for row, column in CENTRES:
        pixels[(rows - row) ** 2 + (columns - column - shift) ** 2 < radius**2] = 900
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images with µm, one in a sub-folder."""
    place = tmp_path / "images"
    (place / "day 2").mkdir(parents=True)
    for number, name in enumerate(("a.tif", "day 2/b.tif")):
        tifffile.imwrite(place / name, field(number), imagej=True, resolution=(5, 5),
                         metadata={"unit": "um"})  # fmt: skip
    return place


@pytest.fixture
def model(tmp_path: Path) -> Path:
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", bright_model(), {}, usage=USAGE)
    return tmp_path / "zoo.hdf5"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(out: Path) -> dict[str, bytes]:
    """All that does not depend on the time, by name."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*")
            if path.is_file() and path.name not in ("provenance.json", ".lock")}  # fmt: skip


# --- what is written ---------------------------------------------------------------------------


def test_every_file_says_the_same_about_the_objects(folder, model, tmp_path) -> None:
    report = predict(folder, model, tmp_path / "out")
    for name in ("a.tif", "day 2/b.tif"):
        place = tmp_path / "out" / "images" / name
        stem = Path(name).stem
        with tifffile.TiffFile(place / f"{stem}-mask.ome.tif") as file:
            labels = file.asarray()
            assert file.is_ome and 'PhysicalSizeX="0.2"' in file.ome_metadata
        pixels = tifffile.imread(folder / name)
        expected = evidence(bright_model(), torch.from_numpy(USAGE.scaled(pixels[None]))[None])
        np.testing.assert_array_equal(labels, pieces(expected[0, 0].numpy() >= 0, 9))
        table = rows_of(place / f"{stem}-objects.csv")
        assert len(table) == labels.max() == 3
        for row in table:
            inside = labels == int(row["id"])
            assert row["class"] == "cell" and int(float(row["area_px"])) == inside.sum()
            assert float(row["area_um2"]) == pytest.approx(inside.sum() * 0.04, rel=1e-5)
            centre = np.argwhere(inside).mean(0)
            assert [float(row[key]) for key in ("row", "column")] == pytest.approx(centre, rel=1e-4)
            assert float(row["intensity_1"]) == pytest.approx(pixels[inside].mean(), rel=1e-4)
            box = [int(float(row[key])) for key in ("top", "left", "bottom", "right")]
            spread = np.argwhere(inside)
            assert box == [*spread.min(0), *spread.max(0) + 1]
        assert np.array_equal(from_geojson(place / f"{stem}-objects.geojson", labels.shape), labels)
        with Image.open(place / f"{stem}-overlay.png") as picture:
            assert picture.size == (64, 56)
    summary = rows_of(tmp_path / "out" / "summary.csv")
    assert [(row["file"], row["objects"]) for row in summary] == [("a.tif", "3"),
                                                                 ("day 2/b.tif", "3")]  # fmt: skip
    made = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert made["versions"] and made["parameters"]["scaling"] == "range"
    assert sorted(made["images"]) == ["a.tif", "day 2/b.tif"]
    opens_offline(report)


def test_what_was_written_can_be_corrected_and_used_as_labels(folder, model, tmp_path) -> None:
    predict(folder, model, tmp_path / "out")
    place, kept = tmp_path / "out" / "images" / "a.tif", tmp_path / "corrected"
    kept.mkdir()
    for name in ("a-mask.ome.tif", "a-objects.geojson", "a-rois.zip"):
        shutil.copy(place / name, kept)
    labels = tifffile.imread(place / "a-mask.ome.tif")
    for found in (read_masks(kept, ["cell"], instances=True), read_geojson(kept), read_rois(kept)):
        [image] = survey(folder, found).labelled
        assert image.name == "a.tif" and found.classes == ("cell",)
        label, _ = found.images[image.key](*labels.shape)
        np.testing.assert_array_equal(label[0] > 0, labels > 0)


def from_geojson(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Paint the polygons as QuPath does: pixels whose centres are inside, holes left out."""
    labels = np.zeros(shape, int)
    for feature in json.loads(path.read_text())["features"]:
        inside = np.zeros(shape, bool)
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
            inside ^= polygon2mask(shape, np.array(ring)[:, ::-1] - 0.5)
        labels[inside] = int(feature["properties"]["name"].rsplit("-", 1)[1])
        assert feature["properties"]["measurements"]["area_px"] == inside.sum()
    return labels


def opens_offline(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "http" not in text and "<script" not in text
    links = re.findall(r'(?:href|src)="([^"]+)"', text)
    assert links and all((report.parent / link.replace("%20", " ")).is_file() for link in links)


def test_planes_of_a_stack_and_two_classes(folder, tmp_path) -> None:
    for path in folder.rglob("*.tif"):
        path.unlink()
    tifffile.imwrite(folder / "film.tif", np.stack([field(n) for n in range(5)]), imagej=True,
                     metadata={"axes": "TYX"})  # fmt: skip
    usage = zoo.Usage(("cell", "dot"), "range", (100,), (1 / 800,), levels=(0, 1e6))
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", bright_model(classes=2), {}, usage=usage)
    predict(folder, tmp_path / "zoo.hdf5", tmp_path / "out", pixel_size_um=0.5)
    rows = rows_of(tmp_path / "out" / "summary.csv")
    assert [row["file"] for row in rows] == [f"film.tif/t{n}" for n in range(5)]
    assert {(row["objects, cell"], row["objects, dot"]) for row in rows} == {("3", "0")}
    place = tmp_path / "out" / "images" / "film.tif"
    assert tifffile.imread(place / "film-t4-mask.ome.tif").shape == (2, 56, 64)
    assert float(rows_of(place / "film-t4-objects.csv")[0]["area_um2"]) > 9 * 0.25


def test_only_classes_that_are_objects_are_written(folder, tmp_path) -> None:
    usage = zoo.Usage(("dot", "cell"), "range", (100,), (1 / 800,), levels=(-1e6, 0),
                      objects=["cell"])  # fmt: skip
    path = tmp_path / "zoo.hdf5"
    zoo.save(path, "MICRANet", bright_model(classes=2), {}, usage=usage)
    own = zoo.Usage(usage.classes, "range", (100,), (1 / 800,), levels=(7, 8))
    zoo.save(path, "UNet", UNet(1, 2, depth=3, filters=4).eval(), {}, usage=own)
    networks = ways.objects_only(ways.open_zoo(path))
    assert [ways.models_of(networks, way)[1].tolist() for way in ("evidence", "self-trained")] == [
        [[[0]]], [[[8]]]]  # fmt: skip
    predict(folder, path, tmp_path / "out")
    [mask, *_] = sorted((tmp_path / "out").rglob("*-mask.ome.tif"))
    assert tifffile.imread(mask).ndim == 2 and "cell" in tifffile.TiffFile(mask).ome_metadata
    rows = rows_of(tmp_path / "out" / "summary.csv")
    assert all("objects, dot" not in row for row in rows) and rows[0]["objects"] == "3"


def test_text_that_a_spreadsheet_would_run_is_quoted(folder, model, tmp_path) -> None:
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "=1+1.png")
    zoo.save(model, "MICRANet", bright_model(), {}, usage=zoo.Usage(("@sum",), "minmax"))
    predict(folder, model, tmp_path / "out")
    [row] = [row for row in rows_of(tmp_path / "out" / "summary.csv") if "1+1" in row["file"]]
    assert row["file"] == "'=1+1.png" and row["objects"] == "0"
    objects = rows_of(tmp_path / "out" / "images" / "a.tif" / "a-objects.csv")
    assert {row["class"] for row in objects} == {"'@sum"}
    text = csv_bytes([{"-a": -1.5, "b": "\tx"}]).decode()
    assert text == "'-a,b\n-1.5,'\tx\n"


# --- runs --------------------------------------------------------------------------------------


def test_a_second_run_does_what_is_new_or_changed(folder, model, tmp_path) -> None:
    out = tmp_path / "out"
    predict(folder, model, out)

    def times() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in out.rglob("*-mask.ome.tif")}

    first = times()
    tifffile.imwrite(folder / "c.tif", field(3))
    predict(folder, model, out)
    assert {name: when for name, when in times().items() if name != "c.tif"} == first
    second = times()
    tifffile.imwrite(folder / "c.tif", field(4))
    (out / "images" / "a.tif" / "a-overlay.png").unlink()
    predict(folder, model, out)
    third = times()
    assert {name for name in third if third[name] != second[name]} == {"a.tif", "c.tif"}
    predict(folder, model, out, levels=(1,))
    assert all(times()[name] > third[name] for name in third)


def test_two_runs_cannot_write_to_one_folder(folder, model, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(ValueError, match="Another program is writing to"):
        predict(folder, model, out)
    assert predict(folder, model, out).is_file()


def test_a_broken_image_is_a_row_of_the_report(folder, model, tmp_path) -> None:
    (folder / "broken.tif").write_bytes(b"II*\0")
    tifffile.imwrite(folder / "flat.tif", field(), imagej=True, resolution=(10, 5),
                     metadata={"unit": "um"})  # fmt: skip
    tifffile.imwrite(folder / "colour.tif", np.zeros((40, 40, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(folder / "tiny.tif", np.zeros((5, 5), np.uint16))
    report = predict(folder, model, tmp_path / "out")
    rows = {row["file"]: row for row in rows_of(tmp_path / "out" / "summary.csv")}
    for name, words in (("broken.tif", "damaged"), ("colour.tif", "has 3 channels and the network"),
                        ("tiny.tif", "too small"), ("flat.tif", "make them squares")):  # fmt: skip
        assert words in rows[name]["error"] and words in report.read_text()
    assert rows["a.tif"]["objects"] == "3"
    opens_offline(report)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    folder, model, tmp_path, capsys
) -> None:
    tifffile.imwrite(folder / "film.tif", np.zeros((5, 40, 40), np.uint16), imagej=True,
                     metadata={"axes": "TYX"})  # fmt: skip
    for name in ("a_masks.png", "day 2/b_cp_masks.tif", "lone_mask.tif"):  # the last is an image
        shutil.copy(folder / "a.tif", folder / name)
    before = sorted(tmp_path.rglob("*"))
    assert predict(folder, model, tmp_path / "out", dry_run=True) is None
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    for words in ("4 images into", "way: evidence", "scaling: range", "film.tif is a stack along"):
        assert words in said


# --- ways --------------------------------------------------------------------------------------


def answers(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["file,top,left,side,class,answer,time,who", *lines, ""]))
    return path


def judged(tmp_path: Path) -> dict[str, dict]:
    """Read what the ways of the run were judged by, the best first."""
    rows = json.loads((tmp_path / "out" / "ways.json").read_text())["rows"]
    return {row.pop("way"): row for row in rows}


@pytest.mark.parametrize("name", ["a.tif", "film.tif/t1"])
def test_answers_choose_the_way(folder, model, tmp_path, name) -> None:
    """The network's evidence is everywhere below its level; a plain threshold is right."""
    film = np.stack([np.full((56, 64), 100, np.uint16), field()])
    tifffile.imwrite(folder / "film.tif", film, imagej=True, metadata={"axes": "TYX"})
    lines = [f"{name},{row - 8},{column - 8},16,cell,yes,," for row, column in CENTRES]
    lines += [f"{name},34,44,12,cell,no,,", f"{name},26,0,12,cell,no,,"]
    said = answers(tmp_path / "answers.csv", *lines)
    report = predict(folder, model, tmp_path / "out", answers=[said], levels=(1e6,))
    found = judged(tmp_path)
    assert [*found][0] == "plain, bright" and found["evidence"]["balanced accuracy"] == 0.5
    assert found["plain, bright"] == {"answers": 5, "F1": 1.0, "balanced accuracy": 1.0}
    rows = {row["file"]: row["objects"] for row in rows_of(tmp_path / "out" / "summary.csv")}
    assert rows == {"a.tif": "3", "day 2/b.tif": "3", "film.tif/t0": "0", "film.tif/t1": "3"}
    assert "plain, dark" in report.read_text()
    opens_offline(report)


def test_a_way_is_judged_by_the_objects_that_are_written(folder, model, tmp_path) -> None:
    """Specks that are too small for objects make no yes, however many."""
    specks = np.full((56, 64), 100, np.uint16)
    specks[::4, ::4] = 900
    for path in folder.rglob("*.tif"):
        tifffile.imwrite(path, specks)
    said = answers(tmp_path / "answers.csv", "a.tif,,,,cell,yes,,", "day 2/b.tif,,,,cell,no,,")
    predict(folder, model, tmp_path / "out", answers=[said], levels=(1e6,))
    assert judged(tmp_path)["plain, bright"]["F1"] == 0


def test_answers_choose_a_level_where_the_zoo_has_none(folder, tmp_path) -> None:
    usage = zoo.Usage(("cell",), "range", (100,), (1 / 800,))
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", bright_model(0.0), {}, usage=usage)
    assert rows_of_run(folder, tmp_path, [])[0]["covered, %"] == "100"
    lines = [f"a.tif,{row - 8},{column - 8},16,cell,yes,," for row, column in CENTRES]
    lines += ["a.tif,34,44,12,cell,no,,", "a.tif,26,0,12,cell,no,,"]
    rows = rows_of_run(folder, tmp_path, [answers(tmp_path / "answers.csv", *lines)])
    assert rows[0]["objects"] == "3" and float(rows[0]["covered, %"]) < 40


def rows_of_run(folder: Path, tmp_path: Path, said: list[Path]) -> list[dict[str, str]]:
    predict(folder, tmp_path / "zoo.hdf5", tmp_path / "out", answers=said)
    return rows_of(tmp_path / "out" / "summary.csv")


def test_answers_are_read_in_all_forms(tmp_path) -> None:
    boxes = answers(tmp_path / "a.csv", "a.tif,0,8,16,cell,yes,,", "a.tif,0,8,16,cell,no,,",
                    "b.tif,,,,cell,yes,,", "b.tif,,,,cell,no,,", "b.tif,,,,cell,undo,,",
                    "b.tif,,,,dot,cannot tell,,")  # fmt: skip
    box = slice(0, 16), slice(8, 24)
    known = {"a.tif": [("cell", box, False)], "b.tif": [("cell", None, True)]}
    assert read_answers([boxes]) == known
    bob = answers(tmp_path / "bob.csv", "b.tif,,,,cell,no,,bob")
    assert read_answers([boxes, bob]) == {"a.tif": known["a.tif"]}, "they contradict each other"
    table = tmp_path / "b.csv"
    for text, place in (("file;class;answer\nc.tif;cell;yes", None),
                        ("file,cell,dot\nc.tif,1,", None),
                        ("file,top,left,side,cell,dot\nc.tif,0,8,16,1,\n", box)):  # fmt: skip
        table.write_text(text)
        assert read_answers([table]) == {"c.tif": [("cell", place, True)]}
    table.write_text("name,cell\nc.tif,1\n")
    with pytest.raises(ValueError, match="b.csv cannot be used.*must be: file, then the names"):
        read_answers([table])
    with pytest.raises(ValueError, match="b.csv cannot be used.*line 2 is no answer"):
        read_answers([answers(table, "a.tif,-1,8,16,cell,yes,,")])


def test_answers_about_other_images_are_refused(folder, model, tmp_path) -> None:
    said = answers(tmp_path / "answers.csv", "z.tif,,,,cell,yes,,")
    with pytest.raises(ValueError, match="No answer is about these images and the classes cell"):
        predict(folder, model, tmp_path / "out", answers=[said])


def test_the_u_net_of_a_zoo_is_a_way(folder, tmp_path) -> None:
    path = tmp_path / "zoo.hdf5"
    torch.manual_seed(0)
    zoo.save(path, "MICRANet", bright_model(), {}, usage=USAGE)
    zoo.save(path, "UNet-self", UNet(1, 1, depth=3, filters=4).eval(), {}, usage=USAGE)
    zoo.save(path, "other", UNet(1, 2, depth=3, filters=4), {})
    both = open_zoo(path)
    assert both.ways[0] == "evidence" and "self-trained" in both.ways
    [student] = zoo.load(path, "UNet-self").models
    pixels = torch.from_numpy(USAGE.scaled(field()[None]))
    with torch.no_grad():
        logits = student(torch.nn.functional.pad(pixels[None], (0, 0, 0, 8), mode="reflect"))
    found = find(both, field()[None], ["self-trained"])["self-trained"]
    np.testing.assert_allclose(found.scores[0], logits[0, 0, :56], atol=1e-5)
    alone = open_zoo(path, "UNet-self")
    assert alone.ways[0] == "self-trained" and "evidence" not in alone.ways
    predict(folder, path, tmp_path / "out", group="UNet-self")
    assert len(rows_of(tmp_path / "out" / "summary.csv")) == 2


def test_levels_alone_decide_and_not_the_class_of_the_whole_image(model, tmp_path) -> None:
    """A large field is mostly empty, so a pool that averages says no."""
    share = bright_model(pool="top", share=1.0)
    image = torch.from_numpy(USAGE.scaled(field()[None]))[None]
    with torch.no_grad():
        assert share(image) < 0
    zoo.save(model, "MICRANet", share, {}, usage=USAGE)
    found = find(open_zoo(model), field()[None], ["evidence"])["evidence"]
    assert pieces(found.masks[0]).max() == 3


def test_contrast_gives_dark_and_bright_objects_their_outlines() -> None:
    image = field().astype(np.float32)
    disc = image > 500
    coarse = np.zeros(disc.shape, bool)
    for row, column in CENTRES:
        coarse[row - 4 : row + 9, column - 4 : column + 9] = True  # beside the disc
    for picture in (image, 1000 - image):
        np.testing.assert_array_equal(refined(coarse, picture, 8), disc)
    assert not refined(np.zeros_like(coarse), image, 8).any()
    np.testing.assert_array_equal(refined(coarse, np.ones_like(image), 8), coarse)


@pytest.mark.slow
def test_large_images_are_scored_in_tiles_without_seams() -> None:
    model, image = random_model(), random_images(1, 300, 560).numpy()
    tiled = pixel_scores([model], image)
    whole = evidence(model, torch.from_numpy(image)[None, :, :296, :])[0].numpy()
    assert tiled.shape == (3, 300, 560)
    np.testing.assert_allclose(tiled[:, :240, 48:500], whole[:, :240, 48:500], atol=1e-3)


def test_a_magnified_image_gives_objects_in_its_own_pixels(folder, model, tmp_path) -> None:
    plain = find(open_zoo(model), field()[None], ["evidence"])["evidence"].masks[0]
    double = find(open_zoo(model, magnification=2.0), field()[None], ["evidence"])["evidence"]
    assert double.masks.shape == (1, 56, 64) and pieces(double.masks[0]).max() == 3
    assert double.masks.sum() < plain.sum(), "finer, as the steps of the network are smaller"


# --- sentences ---------------------------------------------------------------------------------


def test_a_mismatch_is_a_sentence(model) -> None:
    image = field()[None]
    assert misfit(USAGE, image, 0.2) == misfit(USAGE, image, None) == ""
    assert "Pixels are 0.4 µm wide" in misfit(USAGE, image, 0.4)
    assert "magnification 2" in misfit(USAGE, image, 0.4)
    assert "the training were uint16" in misfit(USAGE, image.astype(np.uint8), None)
    assert wrong_size(USAGE, 24) == ""
    assert "7 px wide, 11%" in wrong_size(USAGE, 7) and "magnification 3" in wrong_size(USAGE, 7)
    assert "No object was found" in wrong_size(USAGE, 0)
    double = open_zoo(model, magnification=2.0).usage
    assert misfit(double, image, 0.4) == "" and "magnification 1" in misfit(double, image, 0.2)
    known = replace(USAGE, object_px=24.0, magnification=2.0)
    assert "18 px wide, and 12 px in the training: several may touch" in wrong_size(known, 18)
    assert "magnification 1.3." in wrong_size(known, 18) and wrong_size(known, 16) == ""


@pytest.mark.parametrize(
    ("changes", "least"),
    [({"object_px": 40.0}, 126), ({"object_px": 40.0, "magnification": 2.0}, 31), ({}, 36),
     ({"magnification": 2.0}, 9), ({"side": None}, 9)],
)  # fmt: skip
def test_crumbs_are_a_tenth_of_an_object_which_fills_a_third_of_a_crop(
    folder, model, tmp_path, changes, least
) -> None:
    report = predict(folder, model, tmp_path / "out", **changes)
    made = json.loads((report.parent / "provenance.json").read_text())
    assert made["parameters"]["least area, px"] == str(least)


def test_old_zoos_need_the_scaling_of_16_bits(folder, tmp_path) -> None:
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", bright_model(), {})
    for scaling, error in ((None, "how such are scaled"), ("minmax", "")):
        changes = {"scaling": scaling} if scaling else {}
        predict(folder, tmp_path / "zoo.hdf5", tmp_path / "out", **changes)
        assert all(error in row["error"] and bool(row["error"]) == bool(error)
                   for row in rows_of(tmp_path / "out" / "summary.csv"))  # fmt: skip


def test_folders_and_zoos_that_do_not_work_are_refused(folder, model, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        predict(tmp_path / "empty", model, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no folder"):
        predict(tmp_path / "none", model, tmp_path / "out")
    with pytest.raises(ValueError, match="No network none ships"):
        predict(folder, "shipped:none", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no file"):
        predict(folder, tmp_path / "none.hdf5", tmp_path / "out")


# --- the command -------------------------------------------------------------------------------


def test_command(folder, model, tmp_path, capsys) -> None:
    words = ["predict", str(folder), "--model", str(model), "--out", str(folder / "out")]
    assert command.main([*words, "--dry-run"]) == 0
    assert "2 images" in capsys.readouterr().out
    for _ in range(2):  # results inside the folder are not taken for images
        assert command.main(words) == 0
        assert "report.html" in capsys.readouterr().out
        assert len(rows_of(folder / "out" / "summary.csv")) == 2
    assert command.main([*words[:3], str(tmp_path / "none.hdf5"), *words[4:]]) == 2
    assert capsys.readouterr().err.startswith("micranet-book: There is no file")
    with pytest.raises(SystemExit):
        command.main(["predict", "--help"])
    assert "--answers" in capsys.readouterr().out


def test_a_result_that_cannot_be_written_ends_the_run(folder, model, tmp_path) -> None:
    (tmp_path / "out" / "images" / "a.tif" / "a-mask.ome.tif").mkdir(parents=True)
    with pytest.raises(OSError, match="a-mask.ome.tif could not be written"):
        predict(folder, model, tmp_path / "out")
