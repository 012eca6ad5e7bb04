"""Words agree with numbers: what the text says of results is what was measured."""

import importlib
import inspect
import json
import re
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from micranet_helpers import zoo
from micranet_helpers.lessons import results
from micranet_helpers.maps import combine
from micranet_helpers.metrics import gain_interval
from micranet_helpers.networks.micranet import LAYERS

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
COUNTED = "Fluo-N2DL-HeLa", "Usiigaci"  # lines whose cells have numbers
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def text_of(name: str) -> str:
    path = BOOK / name
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def values(dataset: str, metric: str) -> np.ndarray:
    runs = [run["metrics"] for run in results.full(dataset)]
    return np.array([run[metric] for run in runs if metric in run])


def tally(way: str) -> np.ndarray:
    """What each field of all folds adds to F1."""
    return np.concatenate([run["tallies"][way] for run in results.full("pvivax")], 1)


def said(template: str, *numbers: float) -> str:
    return template.format(*numbers)


def test_numbers_in_the_text_are_those_of_the_longer_runs() -> None:
    """Each sentence is written with the measured numbers, and must stand so on the page."""
    em, cells = ({name: value[0] for name, value in (
        (name, values(f"baselines-{dataset}", name))
        for name in results.full(f"baselines-{dataset}")[0]["metrics"]
        if results.full(f"baselines-{dataset}")[0]["metrics"][name] is not None)}
        for dataset in ("em", "ctc"))  # fmt: skip

    def pair(dataset: dict, way: str) -> tuple[float, float]:
        return dataset[f"labelling h, {way}"], dataset[f"pixel F1, {way}"]

    otsu, trained, masks = (values("em", "pixel F1, map 4b, Otsu"),
                            values("em", "pixel F1, self-trained"),
                            values("em-masks", "pixel F1"))  # fmt: skip
    spread = (otsu.mean(), otsu.std(ddof=1), trained.mean(), trained.std(ddof=1))
    smears = {way: tally(way)[0].sum() / tally(way)[1].sum()
              for way in ("published", "evidence", "self-trained")}  # fmt: skip
    cells_of_smears = sum(values("pvivax", f"{what}, evidence").sum() for what in
                          ("found", "missed"))  # fmt: skip
    moved = [values("pvivax", f"F1, {way}").mean() for way in (
        "naive, here", "naive, there", "naive, there, local threshold", "fine-tuned, there")]
    shares = 100 * values("em", "area share, measured")
    cut = [values("touching", f"Usiigaci: {what}, {way}").mean()
           for what, way in product(("F1", "count error"), ("components", "distance"))]
    sentences = {
        "em.ipynb": [said("reaches {:.2f} ± {:.2f} and self-training {:.2f} ± {:.2f}", *spread)] + [
            said(" {:.2f} |\n", values("em", f"pixel F1, study {ratio}")[:1].item())
            for ratio in ("2:1", "1:1", "1:2", "1:5", "1:8")],
        "pvivax.ipynb": [said("fell from {:.2f} to {:.2f} in the other laboratory; a local "
                              "threshold brought it back to {:.2f}, fine-tuning to {:.2f}",
                              *moved)],
        "baselines.ipynb": [
            said("boxes, {:.1f} h of work, give a pixel F1 of {:.3f}; labels of crops, {:.0f} h, "
                 "give {:.3f}", *pair(em, "U-Net BBOX"), *pair(em, "self-trained")),
            said("scribbles, {:.1f} h, give {:.3f}; labels of crops, {:.0f} h, give {:.3f}",
                 *pair(cells, "pixel classifier, 8"), *pair(cells, "self-trained"))],
        "use.ipynb": [said("lost {:.2f} of pixel F1", values(
            "budget-em", "pixel F1, yes or no, two at a time, 20 min").mean() - values(
            "budget-em", "pixel F1, yes or no, 5 % wrong, 20 min").mean())],
        "results.md": [
            said("labels of crops take {:.0f} hours and reach a pixel F1 of {:.2f}; boxes take "
                 "{:.1f} hours for {:.2f}, exact masks {:.1f} hours for {:.2f}",
                 *pair(em, "self-trained"), *pair(em, "U-Net BBOX"), *pair(em, "U-Net FS")),
            said("labels of crops take {:.0f} hours for {:.2f}", *pair(cells, "self-trained")),
            said("({1:.2f} against {0:.2f}, one seed", *(
                pair(cells, way)[1] for way in ("pixel classifier, 8", "self-trained"))),
            said("scribbles reach {1:.2f} in {0:.1f} hours", *pair(cells, "pixel classifier, 8")),
            said("exact masks {1:.2f} in {0:.0f} hours", *pair(cells, "U-Net FS")),
            said("({:.2f} against {:.2f} on average)", trained.mean(), otsu.mean()),
            said("is {:.1f}, {:.1f} and {:.1f} %, the true one {:.1f} %", *shares,
                 100 * values("em", "area share, true")[0]),
            said("F1 is {0:.2f} without a cut and {1:.2f} with *distance*, and the count is off by "
                 "{3:.0f} cells of 56 instead of {2:.0f}", *cut),
            said("*by the labels*: {:.2f}",
                 values("touching", "Usiigaci: F1, by the labels").mean()),
            said("than by *cell* alone ({1:.2f} against {0:.2f})", *(
                values("touching", f"Usiigaci: F1, {way}").mean()
                for way in ("cell", "cell − contact"))),
            said("{:.0f} whole infected cells count: one cell more or less changes F1 by at most "
                 "{:.3f}", cells_of_smears, 1 / cells_of_smears),
            said("the published recipe ({:.2f} against {:.2f} over all fields", smears["evidence"],
                 smears["published"]),
            said("Self-training does not help here: {:.2f}", smears["self-trained"]),
            said("Boxes reach an F1 of {:.2f} and an average precision of {:.2f}. Labels",
                 *(values("pvivax-masks", name).mean() for name in ("F1", "average precision"))),
            said("Masks reach a pixel F1 of {:.2f}, and labels of crops {:.2f} of that",
                 masks.mean(), (trained / masks).mean()),
            said("Labels of crops reach {:.2f} of it by F1 and {:.2f} by average precision",
                 *((values("pvivax", f"{name}, evidence") / values("pvivax-masks", name)).mean()
                   for name in ("F1", "average precision"))),
            said("from {:.2f} to {:.2f}. A threshold", *moved[:2]),
            said("regains a part of it ({:.2f}), fine-tuning more ({:.2f})", *moved[2:]),
            said("reach a pixel F1 of {:.2f}, of boxes {:.2f}, of scribbles {:.2f}; twenty minutes "
                 "of yes or no {:.2f}, of outlines {:.2f}. With 5 % wrong answers, twenty minutes "
                 "reach {:.2f}.",
                 *(values("budget-em", f"pixel F1, {kind} min").mean()
                 for kind in ("yes or no, two at a time, 5", "boxes, 5", "scribbles, 5",
                              "yes or no, two at a time, 20", "outlines, 20",
                              "yes or no, 5 % wrong, 20"))),
            said("reach {:.2f} in twenty minutes (one seed); where a network, trained after half "
                 "of the time, chooses the crops, it is {:.2f} (one seed), no more than",
                 *(values("budget-em", f"pixel F1, yes or no, {way}, 20 min").mean()
                 for way in ("random crops", "network chooses"))),
            said("that reaches no more than twenty: {:.2f}.",
                 values("budget-em", "pixel F1, yes or no, two at a time, 27 min").mean()),
            said("five minutes* of yes or no reach {:.2f}, five minutes of boxes {:.2f} and of "
                 "scribbles {:.2f}", *(values("budget-em", f"pixel F1, {kind}, 5 min").mean()
                 for kind in ("yes or no, two at a time", "boxes", "scribbles"))),
            said("end before a quarter has been asked about; F1 is {:.2f} (one seed), within",
                 values("budget-em", "pixel F1, yes or no, tree, 5 min").mean()),
            said("*forty minutes* of yes or no reach {:.2f} (two seeds), of scribbles {:.2f}",
                 *(values("budget-ctc", f"pixel F1, {kind}, 40 min").mean()
                 for kind in ("yes or no, two at a time", "scribbles"))),
            said("Forty minutes of yes or no reach {:.2f} here, of scribbles {:.2f}",
                 *(values("budget-ctc", f"pixel F1, {kind}, 40 min").mean()
                 for kind in ("yes or no, two at a time", "scribbles"))),
        ],
    }  # fmt: skip
    lost = {page: [each for each in wanted if each not in text_of(page)]
            for page, wanted in sentences.items()}  # fmt: skip
    assert not any(lost.values()), lost


@pytest.mark.parametrize("dataset", ["mnist", "ctc", "touching", "pvivax", "em", "actin"])
def test_tables_of_the_longer_runs_are_those_of_their_files(dataset: str) -> None:
    runs, text = results.full(dataset), text_of(f"results/full/{dataset}.md")
    assert results.summary(runs) in text
    assert not runs[0].get("tallies") or results.together(runs) in text


ROWS = {  # of the cover, as alternative texts name them, and their scores by cards and results
    "cells": ("cells in phase contrast", "MIT",
              lambda: figure("cells", "Usiigaci: pixel F1, self-trained")),
    "neuropil": ("mitochondria in an electron micrograph", "CC BY-NC-SA 3.0",
                 lambda: values("em", "pixel F1, self-trained").mean()),
    "actin": ("fibres of F-actin", "MIT", None),
    "smears": ("infected cells in a blood smear", "MIT", None),
}  # fmt: skip


def card(name: str) -> str:
    return zoo.shipped()[name].with_suffix(".md").read_text(encoding="utf-8")


def figure(name: str, metric: str) -> float:
    return float(re.search(rf"^\| {metric} \| ([\d.]+) ", card(name), re.MULTILINE)[1])


def test_the_picture_of_the_results_is_drawn_from_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BOOK / "images")
    importlib.import_module("scores").draw(tmp_path / "new.png")
    new, kept = (np.asarray(Image.open(path).convert("L"), float)
                 for path in (tmp_path / "new.png", BOOK / "images" / "scores.png"))  # fmt: skip
    assert new.shape == kept.shape and abs(new - kept).mean() < 0.5


def test_what_pages_say_of_the_cover_is_what_it_shows() -> None:
    """The pictures carry their numbers: those of the networks' cards, and of the results."""
    shown = {name: json.loads(Image.open(BOOK / "images" / f"cover-{name}.png").text["row"])
             for name in ROWS}  # fmt: skip
    for name, row in shown.items():
        words, licence, known = ROWS[name]
        assert row["licence"].startswith(licence)
        ships = licence == "MIT"  # the other is one run of another profile: some hundredths
        assert not known or abs(known() - row["pixel F1"]) < (0.005 if ships else 0.03)
        assert not ships or f"On {row['images']} images of the split" in card(name)
        kind = "real" if row["real"] else "simulated"
        said = (f"{words} ({kind}): {row['answers'] / 60:.0f} minutes of answers, pixel F1 "
                f"{row['pixel F1']:.2f}.](")  # fmt: skip
        for page in ("../README.md", "intro.ipynb"):
            assert said in text_of(page), said
    assert [name for name, row in shown.items() if row["real"]] == ["cells", "neuropil"]
    assert "fibres are shown; rings are marked worse" in text_of("intro.ipynb")
    rings, fibres = (figure("actin", f"pixel F1, {kind}, in foreground")
                     for kind in ("rings", "fibres"))  # fmt: skip
    assert rings < fibres


def best(ways: tuple[str, ...], metric: str) -> str:
    return max(ways, key=lambda way: values("touching", f"{metric}, {way}").mean())


CUTS = "components", "distance", "cell", "cell − contact"


def distance_is_best() -> bool:
    return all(best(CUTS, f"{line}: F1") == "distance" for line in COUNTED)


CLAIMS = [  # what a page says of the longer runs, and when it is true
    ("results.md", "Self-training beats the untuned recipe *map 4b, Otsu* with every seed",
     lambda: (values("em", "pixel F1, self-trained")
              > values("em", "pixel F1, map 4b, Otsu")).all()),
    ("results.md", "the interval of the difference is above 0",
     lambda: gain_interval(tally("evidence"), tally("published"))[0] > 0),
    ("results.md", "which of the two is better these fields do not tell",
     lambda: (ends := gain_interval(tally("evidence"), tally("self-trained")))[0] < 0 < ends[1]),
    ("results.md", "does best on both lines that can be judged", distance_is_best),
    ("use.ipynb", "a learned contact cuts no better", distance_is_best),
    ("touching.ipynb", "*cell − contact* is best on no line", distance_is_best),
    ("glossary.md", "On our data a cut that does without it is as good or better",
     distance_is_best),
    ("results.md", "Labels of crops (*self-trained*) do better than boxes",
     lambda: values("baselines-em", "pixel F1, self-trained")
     > values("baselines-em", "pixel F1, U-Net BBOX")),
    ("results.md", "better than a pixel classifier with eight scribbles of each kind",
     lambda: all(values("baselines-ctc", f"{what} F1, self-trained")
                 > values("baselines-ctc", f"{what} F1, pixel classifier, 8")
                 for what in ("pixel", "object"))),
    ("results.md", "after twenty those of yes or no agree",
     lambda: (spread := lambda minutes: np.ptp(values(
         "budget-em", f"pixel F1, yes or no, two at a time, {minutes} min")))(20) < 0.03
     < spread(5)),
    ("results.md", "no more than with the order of the labeller",
     lambda: values("budget-em", "pixel F1, yes or no, network chooses, 20 min").mean()
     <= values("budget-em", "pixel F1, yes or no, two at a time, 20 min").mean()),
    ("use.ipynb", "Which order is better these seeds do not tell",
     lambda: (two := values("budget-em", "pixel F1, yes or no, two at a time, 5 min")).min()
     < values("budget-em", "pixel F1, yes or no, tree, 5 min").mean() < two.max()),
    ("use.ipynb", "yes or no about every crop beats scribbles, at twenty times the minutes",
     lambda: values("baselines-ctc", "pixel F1, self-trained").mean()
     > values("baselines-ctc", "pixel F1, pixel classifier, 8").mean()
     and values("baselines-ctc", "labelling h, self-trained").mean()
     > 20 * values("baselines-ctc", "labelling h, pixel classifier, 8").mean()
     and values("budget-ctc", "pixel F1, yes or no, two at a time, 40 min").mean()
     > values("budget-ctc", "pixel F1, scribbles, 40 min").mean()),
    ("use.ipynb", "More minutes help less than the first five",
     lambda: 0 < values("budget-em", "pixel F1, yes or no, two at a time, 20 min").mean()
     - values("budget-em", "pixel F1, yes or no, two at a time, 5 min").mean() < 0.1),
    ("results.md", "The mean shares are right to two points here",
     lambda: all(abs((values("actin", f"share, {kind}, measured, %")
                      - values("actin", f"share, {kind}, true, %")).mean()) < 2
                 for kind in ("rings", "fibres"))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("page", "sentence", "holds"), CLAIMS, ids=[f"{page}-{words[:40]}" for page, words, _ in CLAIMS]
)
def test_what_pages_say_of_the_longer_runs_is_true(page: str, sentence: str, holds) -> None:
    assert sentence in text_of(page) and holds()


def test_the_number_of_maps_in_the_principal_component_is_the_one_that_is_computed() -> None:
    assert inspect.signature(combine).parameters["how"].default == "pca"
    source = inspect.getsource(combine)
    number = NUMBERS[len(LAYERS) - ("without_4b" in source)]
    assert f"combines the {number} maps 1a to 4a" in text_of("glossary.md")
    assert f"take maps 1a to 4a as {number} coordinates" in text_of("grad-cam.ipynb")


def test_the_time_in_the_readme_is_that_of_the_chapters() -> None:
    from micranet_book import runner

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = int(re.search(r"about (\d+) minutes on two slow cores", readme)[1])
    words = {"half a minute": (0.5, 0.5), "about a minute": (1, 1), "a minute or two": (1, 2),
             "a few minutes": (2, 5), "seconds": (0.3, 0.5), "two minutes": (2, 2)}  # fmt: skip
    low = high = 0.0
    for path in runner.chapters(BOOK).values():
        line = re.search(r"^\| time \| (.*?) \|$", text_of(path.name), re.MULTILINE)[1]
        line = re.split("[;,]", line)[0]
        numbers = [float(each) for each in re.findall(r"(\d+)(?: to (\d+))? minutes", line)[:1]
                   for each in each if each]
        known = [words[word] for word in words if word in line]
        found = (numbers[0], numbers[-1]) if numbers else known[0]
        low, high = low + found[0], high + found[1]
    assert low / 2 <= said <= 0.6 * high, "two chapters run at a time"
