"""Make the networks that ship with the package, and their model cards, from their chapters."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from micranet_book import record, runner
from micranet_helpers import results, train, zoo
from micranet_helpers.data import actin, ctc, em, mnist, pvivax
from micranet_helpers.data.crops import CropDataset, Rule
from micranet_helpers.maps.thresholds import from_labels
from micranet_helpers.zoo.model_card import publish_weights
from micranet_helpers.zoo.shelf import SHELF

SHIPPED: dict[str, tuple[str, Rule]] = {
    "digits": ("mnist", mnist.RULE),
    "neuropil": ("em", em.RULE),
    "smears": ("pvivax", pvivax.RULE),
    "cells": ("ctc", ctc.rule(["Usiigaci"])),
    "actin": ("actin", actin.RULE),
}
"""Name of each network, the chapter that trains it, and the rule of its labels."""


def make(root: Path, target: Path = SHELF) -> None:
    """Train, measure and publish all of them: about half an hour on two cores.

    The chapters run with the profile ``networks``; what has run already is taken as it is. Raises
    ``runner.ChapterError`` if a chapter fails, ``runner.UsageError`` if files have changed since
    the last commit: the cards name the commit that made them.
    """
    if str(results.provenance()["commit"]).endswith("changes"):
        raise runner.UsageError("commit the changes first: the model cards name the commit.")
    tree = runner.run_book(root, "networks", names=[chapter for chapter, _ in SHIPPED.values()])
    target.mkdir(exist_ok=True)
    for name, (chapter, rule) in SHIPPED.items():
        with TemporaryDirectory() as folder:
            files = _publish(name, record.work_folder(tree, chapter), rule, Path(folder))
            for file in files:
                shutil.move(file, target / file.name)
                print(target / file.name, flush=True)


def _publish(name: str, work: Path, rule: Rule, folder: Path) -> tuple[Path, Path]:
    [result] = work.glob("results/*.json")
    about = results.load(result)
    [data] = work.glob(f"data/{about['dataset']}-{_trained_on(about)}*.h5")
    # The names of runs that go on from a classifier begin with that of its run.
    classifier, *others = sorted(work.glob(f"runs/{data.stem}-*"), key=lambda run: len(run.name))
    runs = {"MICRANet": classifier}
    if students := [run for run in others if "-unet" in run.name]:
        runs["UNet-self"] = students[0]
    side, stride = (about["parameters"][key] for key in ("side", "stride"))
    known = {"classes": rule.classes, "side": side}
    crops = CropDataset(data, "validation", side, stride, rule)
    levels = from_labels(train.load(classifier), crops)
    usages = {
        "MICRANet": zoo.Usage.of_dataset(data, **known, levels=levels.tolist()),
        "UNet-self": zoo.Usage.of_dataset(
            data, **known, recipe="self-trained", levels=torch.zeros(len(levels)).tolist()
        ),
    }
    return publish_weights(
        result, {group: [run] for group, run in runs.items()}, folder,
        {group: usages[group] for group in runs}, half=True, name=name,
    )  # fmt: skip


def _trained_on(about: dict) -> str:
    return "simulated" if about["dataset"] == "actin" else about["source"]
