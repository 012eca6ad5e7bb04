"""Make the networks that ship with the package, and their model cards, from their chapters."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from skimage.measure import label, regionprops

from micranet_book import record, runner
from micranet_helpers import train, zoo
from micranet_helpers.data import actin, ctc, dataset, em, mnist, pvivax
from micranet_helpers.data.crops import CropDataset, Rule
from micranet_helpers.lessons import results
from micranet_helpers.lessons.model_card import publish_weights
from micranet_helpers.lessons.training import STUDENT, build_dataset
from micranet_helpers.maps.thresholds import from_labels
from micranet_helpers.zoo.shelf import SHELF

SHIPPED = {"digits": "mnist", "neuropil": "em", "smears": "pvivax", "cells": "ctc",
           "actin": "actin"}  # fmt: skip
"""Names of the networks, and the chapter that trains each."""


def make(
    root: Path, names: Sequence[str] = (*SHIPPED,), profile: str = "networks", target: Path = SHELF
) -> None:
    """Train, measure and publish networks: all of them take about half an hour on two cores.

    Chapters that have run already are taken as they are. Raises ``runner.ChapterError`` if one
    fails.
    """
    tree = runner.run_book(root, profile, names=[SHIPPED[name] for name in names])
    target.mkdir(exist_ok=True)
    for name in names:
        with TemporaryDirectory() as folder:
            for file in _publish(name, record.work_folder(tree, SHIPPED[name]), Path(folder)):
                shutil.move(file, target / file.name)
                print(target / file.name, flush=True)


def rule_of(chapter: str, lines: Sequence[str] = ()) -> Rule:
    """Return the rule of the labels of crops in a chapter; ``lines`` are of ctc."""
    rules = {"mnist": mnist.RULE, "em": em.RULE, "pvivax": pvivax.RULE, "actin": actin.RULE}
    return rules.get(chapter) or ctc.rule(lines or ctc.DRAWN)


def data_of(book: Path, name: str, profile: str = "networks") -> tuple[Path, dict]:
    """Return the dataset of the chapter that trained a network, and the chapter's parameters.

    ``profile`` is that of the training. The dataset is found or built under ``data/`` of the
    working directory.
    """
    chapter = SHIPPED[name]
    declared = runner.inspect_parameters(book / f"{chapter}.ipynb")
    given = {key: yaml.safe_load(item["default"]) for key, item in declared.items()}
    given |= runner.load_profile(book, profile)[1].get(chapter, {})
    options = {"mnist": ["seed"], "ctc": ["lines"], "em": ["shrink"], "pvivax": ["fold"]}
    more = {name: given[name] for name in options.get(chapter, ())}
    source, sizes = given["source"], (given["num_images"], given["size"])
    subset = given["subset"] * (source == "open")
    return build_dataset(chapter, source, subset, *sizes, **more), given


def crops_of(book: Path, name: str, split: str, profile: str = "networks") -> CropDataset:
    """Cut the crops of a split as the chapter that trained a network did."""
    path, given = data_of(book, name, profile)
    stride = given["stride"] if split == "training" else given.get("test_stride", given["stride"])
    rule = rule_of(SHIPPED[name], given.get("lines", ()))
    return CropDataset(path, split, given["side"], stride, rule)


def width_of(name: str, data: Path) -> float | None:
    """Return the width of an object, px, as two clicks on a usual one would measure it.

    It is the median, in the training images, of the diameters of discs of the objects' areas.
    Areas of actin are no objects.
    """
    if name == "actin":
        return None
    things = [thing.equivalent_diameter_area for sample in dataset.read(data, "training")
              for thing in regionprops(label(sample.label[0].astype(int)))]  # fmt: skip
    return round(float(np.median(things)), 1)


def _publish(name: str, work: Path, folder: Path) -> tuple[Path, Path]:
    chapter = SHIPPED[name]
    [result] = work.glob(f"results/{chapter}-*.json")
    about = results.load(result)
    given = about["parameters"]
    # The names of runs begin with that of their dataset; shorter is that of the classifier, from
    # which the others went on.
    classifier, *others = sorted(work.glob("runs/*"), key=lambda run: len(run.name))
    [data] = (path for path in work.glob("data/*.h5") if classifier.name.startswith(path.stem))
    runs = {"MICRANet": [classifier]}
    if students := [run for run in others if "-unet" in run.name]:
        runs[STUDENT] = students[:1]
    rule = rule_of(chapter, given.get("lines", ()))
    crops = CropDataset(data, "validation", given["side"], given["stride"], rule)
    levels = from_labels(train.load(classifier), crops)
    # As the chapter's recipe by default: its U-Net, where it trains one.
    way = "self-trained" if students else "evidence"
    known = {"classes": rule.classes, "side": given["side"], "recipe": way,
             "object_px": width_of(name, data),
             "objects": [cls for cls in rule.classes if cls.endswith(" cell")]}  # fmt: skip
    level = {"MICRANet": levels.tolist(), STUDENT: [0.0] * len(levels)}
    usages = {group: zoo.Usage.of_dataset(data, **known, levels=level[group]) for group in runs}
    return publish_weights(result, runs, folder, usages, half=True, name=name)
