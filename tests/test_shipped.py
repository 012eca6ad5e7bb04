"""The networks that ship with the package: their files, the figures on their cards, the cover.

Made anew by ``micranet-book networks``.
"""

import hashlib
import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
import torch
from micranet_book import networks
from PIL import Image
from skimage.measure import label

from micranet_helpers import metrics, zoo
from micranet_helpers.data import dataset
from micranet_helpers.maps.recipes import SELF_TRAINED, recipe
from micranet_helpers.maps.segmentation import pixel_scores
from micranet_helpers.predict import predict, ways
from micranet_helpers.train import logits_of

BOOK = Path(__file__).parents[1] / "book"
every_network = pytest.mark.parametrize("name", networks.SHIPPED)


def card(name: str) -> str:
    return zoo.shipped()[name].with_suffix(".md").read_text(encoding="utf-8")


def test_all_are_there() -> None:
    assert {*zoo.shipped()} == {*networks.SHIPPED}


@every_network
def test_files_are_small_and_say_how_they_are_used(name: str) -> None:
    path = f"shipped:{name}"
    assert zoo.locate(path).stat().st_size < 5e6
    for group in (row["group"] for row in zoo.contents(path)):
        usage = zoo.load(path, group).usage
        assert usage.classes == networks.rule_of(networks.SHIPPED[name], ["Usiigaci"]).classes
        assert usage.side and len(usage.levels) == len(usage.classes)


@every_network
def test_objects_are_marked_as_the_chapter_does_by_default(name: str) -> None:
    way = "self-trained" if recipe(networks.SHIPPED[name]) is SELF_TRAINED else "evidence"
    assert ways.open_zoo(f"shipped:{name}").ways[0] == way


@every_network
def test_card_is_of_this_file_from_a_clean_commit(name: str) -> None:
    text = card(name)
    assert hashlib.sha256(zoo.shipped()[name].read_bytes()).hexdigest() in text
    assert re.search(r"commit [0-9a-f]{40}\b", text) and "+changes" not in text
    assert "no licence" not in text, "what was learnt from these data is not ours to ship"


@pytest.fixture
def only_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder; of what is drawn, the test images are enough."""
    monkeypatch.chdir(tmp_path)
    write = dataset.write
    monkeypatch.setattr(dataset, "write", lambda path, splits, about: write(
        path, {"testing": splits["testing"]}, about))  # fmt: skip


def f1_of_objects(name: str) -> float:
    """How well `predict` tells the objects of the first class apart, in a folder of test images."""
    path, _ = networks.data_of(BOOK, name)
    truth = {f"{n}.tif": sample for n, sample in enumerate(dataset.read(path, "testing"))}
    for file, sample in truth.items():
        Path("images").mkdir(exist_ok=True)
        tifffile.imwrite(Path("images", file), np.moveaxis(sample.image, 0, -1).squeeze())
    predict("images", f"shipped:{name}", "out")
    counts = np.zeros(2)
    for file, sample in truth.items():
        [mask] = Path("out", "images", file).glob("*-mask.ome.tif")
        found = tifffile.imread(mask).reshape(-1, *sample.label.shape[1:])[0].astype(np.int32)
        pairs = metrics.match_objects(found, label(sample.label[0].astype(int)))
        counts += 2 * len(pairs.pairs), pairs.num_pred + pairs.num_true
    return counts[0] / counts[1]


# What a network does not know of the width of its objects cost: 0.48 and 0.44, of cells 0.14.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("smears", 0.55), ("neuropil", 0.6)])
def test_objects_of_a_folder_are_told_apart(name, least, only_test_images) -> None:
    assert f1_of_objects(name) > least


@pytest.mark.slow
@pytest.mark.data
def test_real_cells_of_a_folder_are_told_apart(only_test_images, mirror_url, monkeypatch) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    assert f1_of_objects("cells") > 0.6


@pytest.mark.slow
@pytest.mark.data
@every_network
def test_figures_on_the_card_are_measured_again(
    name, only_test_images, mirror_url, monkeypatch
) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    crops = networks.crops_of(BOOK, name, "testing")
    model = zoo.load(zoo.shipped()[name], "MICRANet").models[0]
    logits = logits_of(model, crops)
    if name == "digits":
        known, right = "labels right", ((logits > 0) == (crops.labels > 0)).double().mean()
        measured = {known: right.item()}
    else:
        areas = metrics.roc_areas(logits, crops.labels)
        measured = dict(zip(AREAS[name], torch.as_tensor(areas).tolist(), strict=True))
    if name in OUTLINES:
        measured[OUTLINES[name]] = f1_of_pixels(name)
    for figure, value in measured.items():
        [said] = re.findall(rf"^\| {re.escape(figure)} \| ([\d.]+) ", card(name), re.MULTILINE)
        assert abs(float(said) - value) < 0.005, figure


def f1_of_pixels(name: str) -> float:
    """How well the U-Net outlines the first class of all test images."""
    unet = zoo.load(zoo.shipped()[name], "UNet-self").models[0]
    tests = list(dataset.read(networks.data_of(BOOK, name)[0], "testing"))
    masks = [pixel_scores([unet], sample.pixels)[0] > 0 for sample in tests]
    return metrics.pooled_f1(masks, [sample.label[0] > 0 for sample in tests])


OUTLINES = {
    "neuropil": "pixel F1, self-trained",
    "cells": "Usiigaci: pixel F1, self-trained",
}
AREAS = {
    "neuropil": ["crop AUC"],
    "smears": ["crop AUC"],
    "cells": ["Usiigaci cell: crop AUC", "Usiigaci contact: crop AUC"],
    "actin": ["crop AUC, rings", "crop AUC, fibres"],
}


@pytest.fixture
def cover(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that draws the picture on the first page."""
    monkeypatch.syspath_prepend(BOOK / "images")
    return importlib.import_module("cover")


def test_cover_shows_the_median_square(cover: ModuleType) -> None:
    truth = np.zeros((8, 8), bool)
    truth[:2], truth[4:6, :4] = True, True  # the last square shows no object
    found = truth.copy()
    found[:4, :4], found[2:4, 4:] = False, True  # F1 of the squares is 0, 2/3 and 1
    image = cover.Square(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), "f4"), found, truth)
    assert cover.median_square([image], 4).f1 == pytest.approx(2 / 3)
    left = cover.Square(*(part[:, :4] for part in image))
    assert cover.median_square([left], 2).truth.shape == (2, 2), "of what is twice as wide"
    assert cover.median_square([left], 3).truth.shape == (4, 4)
    assert cover.median_square([left], 4).f1 == 0, "the lower of two"


@pytest.mark.slow
def test_a_picture_of_the_cover_is_drawn_again(cover, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    [row] = (row for row in cover.ROWS if row.network == "smears")
    cover.draw(row, tmp_path / "new.png")
    paths = tmp_path / "new.png", BOOK / "images" / "cover-smears.png"
    new, kept = map(Image.open, paths)
    now, then = (json.loads(each.text["row"]) for each in (new, kept))
    assert now == pytest.approx(then, abs=0.005) and kept.size == new.size
