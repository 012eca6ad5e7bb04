"""The networks that ship with the package: their files, and the figures on their cards.

Made anew by ``micranet-book networks``.
"""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from micranet_book import networks

from micranet_helpers import metrics, zoo
from micranet_helpers.data import dataset
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
def test_card_is_of_this_file_from_a_clean_commit(name: str) -> None:
    text = card(name)
    assert hashlib.sha256(zoo.shipped()[name].read_bytes()).hexdigest() in text
    assert re.search(r"commit [0-9a-f]{40}\b", text) and "+changes" not in text
    assert "no licence" not in text, "what was learnt from these data is not ours to ship"


@pytest.mark.slow
@pytest.mark.data
@every_network
def test_figures_on_the_card_are_measured_again(name, tmp_path, mirror_url, monkeypatch) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    monkeypatch.chdir(tmp_path)
    write = dataset.write  # of what is drawn, the test images are enough
    monkeypatch.setattr(dataset, "write", lambda path, splits, about: write(
        path, {"testing": splits["testing"]}, about))  # fmt: skip
    crops = networks.crops_of(BOOK, name, "testing")
    model = zoo.load(zoo.shipped()[name], "MICRANet").models[0]
    logits = logits_of(model, crops)
    if name == "digits":
        known, right = "labels right", ((logits > 0) == (crops.labels > 0)).double().mean()
        measured = {known: right.item()}
    else:
        areas = metrics.roc_areas(logits, crops.labels)
        measured = dict(zip(AREAS[name], torch.as_tensor(areas).tolist(), strict=True))
    for figure, value in measured.items():
        [said] = re.findall(rf"^\| {re.escape(figure)} \| ([\d.]+) ", card(name), re.MULTILINE)
        assert abs(float(said) - value) < 0.005, figure


AREAS = {
    "neuropil": ["crop AUC"],
    "smears": ["crop AUC"],
    "cells": ["Usiigaci cell: crop AUC", "Usiigaci contact: crop AUC"],
    "actin": ["crop AUC, rings", "crop AUC, fibres"],
}
