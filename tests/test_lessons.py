"""Code that a lesson shows does what the package does."""

import ast
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images, random_model
from micranet_book import runner
from notebooks import code_cells
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_li

from micranet_helpers import maps, metrics, zoo
from micranet_helpers.data import ctc
from micranet_helpers.lessons import training
from micranet_helpers.lessons.digits import MOST_DIGITS, SIDE, digits_network
from micranet_helpers.lessons.subjects import SUBJECTS
from micranet_helpers.maps import detect, recipes, selftraining
from micranet_helpers.maps.cam import evidence
from micranet_helpers.maps.combination import gaussian
from micranet_helpers.maps.segmentation import segment
from micranet_helpers.networks import UNet
from micranet_helpers.train import load

BOOK = Path(__file__).parents[1] / "book"


def run_cell(chapter: str, beginning: str, **names: Any) -> dict[str, Any]:
    """Run the one code cell of a chapter that begins so, and give the names it makes."""
    cells = code_cells(BOOK / f"{chapter}.ipynb")
    (source,) = (cell.source for cell in cells if cell.source.startswith(beginning))
    exec(source, names)
    return names


def test_evidence_of_the_chapter_em() -> None:
    model, few = random_model(num_classes=1), random_images(2, 1, 128, 128)
    beginning = "with torch.no_grad():\n    activations"
    names = run_cell("em", beginning, torch=torch, model=model, few=few)
    expected = evidence(model, few, step=8)
    inner = slice(None, -5)  # the far borders are mirrored in one of them only
    torch.testing.assert_close(
        names["strength"][:, :, inner, inner], expected[:, :, ::8, ::8][:, :, inner, inner],
        atol=1e-4, rtol=1e-4,  # other convolutions add in another order
    )  # fmt: skip


def test_foreground_of_the_chapter_actin() -> None:
    model, images = random_model(num_classes=2, seed=1), random_images(1, 1, 96, 96)
    images = gaussian(images, 4)
    given = {"model": model, "device": "cpu", "maps": maps}
    names = run_cell("actin", "@torch.no_grad()\ndef look", torch=torch, **given)
    strength, inside = names["look"](images[0].numpy())
    smoothed = names["smooth"](strength, inside, 8)
    level = smoothed[:, inside[0]].median(1).values
    recipe = recipes.in_foreground(8, level.tolist())
    expected = recipe.mask(strength[None], images)[0]
    assert torch.equal(smoothed >= level[:, None, None], expected)
    assert expected.any() and not expected[:, inside[0]].all()
    assert segment(model, images, recipe, thresholds=[0, 0]).masks.any()


def test_points_of_the_chapter_pvivax_are_peaks_and_its_crops_say_yes_by_their_highest() -> None:
    height = np.zeros((64, 64), np.float32)
    for row, column, value in ((10, 10, 0.9), (14, 10, 0.7), (50, 40, 0.6), (50, 10, 0.2)):
        height[row, column] = value
    model, probability = random_model(num_classes=1, seed=2), [gaussian_filter(height, 1)]
    sample = SimpleNamespace(pixels=random_images(1, 1, 64, 64)[0].numpy())
    given = {"maps": maps, "recipes": recipes, "torch": torch, "device": "cpu", "detect": detect,
             "replace": replace}  # fmt: skip
    names = run_cell("pvivax", "# Steps of 8", **given)
    strength = evidence(model, torch.from_numpy(sample.pixels)[None], step=8)
    expected = gaussian(strength[0, 0].sigmoid(), 6).numpy()
    np.testing.assert_allclose(names["chance"](model, sample), expected, atol=1e-5)
    [found] = names["find"](probability, 0.9 * probability[0][50, 40])
    assert found[:, :2].tolist() == [[10, 10], [50, 40]]
    crops = SimpleNamespace(positions=np.array([[0, 0, 0], [0, 32, 32], [0, 32, 0]]), side=32)
    source = "def highest_in"
    cell = {"side": 32, "metrics": metrics, "fields": {"validation": [sample]}, "naive": None,
            "tests": [sample], "chance": lambda *_: probability[0]}  # fmt: skip
    cell["validation"] = SimpleNamespace(
        positions=crops.positions, labels=torch.tensor([[1.0], [1], [0]])
    )
    made = run_cell("pvivax", source, **cell)
    highest = [probability[0][:32, :32].max(), probability[0][50, 40], probability[0][50, 10]]
    assert made["highest_in"](None, [sample], crops) == pytest.approx(highest)
    assert made["thresholds"]["evidence"] == pytest.approx(sum(highest[1:]) / 2)


def test_looks_of_the_chapter_ctc() -> None:
    [sample] = ctc.simulate(1, 192, seed=3)
    score = np.random.default_rng(0).normal(size=(6, 192, 192)).astype(np.float32)
    given = {"np": np, "gaussian_filter": gaussian_filter, "threshold_li": threshold_li}
    names = run_cell("ctc", "def rises", **given)
    names |= {"tests": [], "evidence": [], "show": lambda *_: None}
    names = run_cell("ctc", "def guided", lines=ctc.DRAWN, **names)
    found = selftraining.guided(sample, score)
    assert np.array_equal(names["guided"](sample, score), found)
    cells, contacts = found[::2], found[1::2]
    assert np.array_equal(contacts, score[1::2])
    kept = cells == score[::2]
    assert kept.any((1, 2)).all() and not kept.all((1, 2)).any()
    for line, plane, before in zip(ctc.DRAWN, cells, score[::2], strict=True):
        assert np.array_equal(plane, np.minimum(before, plane))
        assert (plane[plane != before] == selftraining.GROUND[line]).all()
    own = ctc.line_of(sample)
    look = selftraining.LOOKS[ctc.DRAWN[own]](sample.pixels[0])
    shows = look > threshold_li(look)
    assert shows[sample.label[2 * own] > 0].mean() > 0.5 > shows.mean()


def cells_until(chapter: str, last: str, **values: Any) -> dict[str, Any]:
    """Run the code cells of a chapter up to the one that begins so, with other parameters."""
    names: dict[str, Any] = {}
    for cell in code_cells(BOOK / f"{chapter}.ipynb"):
        if "setup" in cell.metadata.get("tags", []):
            cell.source = "from pathlib import Path"
        exec(cell.source, names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= values
        if cell.source.startswith(last):
            return names
    raise AssertionError(f"{chapter} has no cell that begins with {last}")


@pytest.mark.slow
@pytest.mark.parametrize("chapter", ["quickstart", "training"])
def test_network_of_the_chapters_on_digits_is_that_of_the_package(
    chapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    places = [tmp_path / "by the chapter", tmp_path / "by the package"]
    for place in places:
        place.mkdir()
    monkeypatch.chdir(places[0])
    values = {"num_train": 48, "epochs": 1, "seed": 2, "num_test": 4}
    names = cells_until(chapter, "folder = run_folder(", **values)
    assert "epoch 1/1" in capsys.readouterr().out
    loaded = digits_network(48, 1, 2)
    assert "epoch" not in capsys.readouterr().out, "the chapter's run is loaded, not repeated"
    monkeypatch.chdir(places[1])
    trained = digits_network(48, 1, 2)
    for name, value in names["model"].state_dict().items():
        assert torch.equal(value.cpu(), loaded.state_dict()[name])
        assert torch.equal(value.cpu(), trained.state_dict()[name])
    (run,) = Path("runs").iterdir()
    assert names["folder"] == f"runs/{run.name}"


def defaults(chapter: str) -> dict[str, Any]:
    known = runner.inspect_parameters(BOOK / f"{chapter}.ipynb")
    return {name: ast.literal_eval(item["default"]) for name, item in known.items()}


@pytest.mark.parametrize("profile", ["smoke", "quick", "full", "online"])
def test_chapters_on_digits_ask_for_the_same_network(profile: str) -> None:
    replaced = runner.load_profile(BOOK, profile)[1]
    asked = set()
    for chapter in ("quickstart", "training", "grad-cam", "zoo", "explore"):
        values = defaults(chapter) | replaced.get(chapter, {})
        asked.add(tuple(values[name] for name in ("num_train", "epochs", "seed")))
        if "most_digits" in values:
            assert (values["side"], values["most_digits"]) == (SIDE, MOST_DIGITS)
    assert len(asked) == 1


@pytest.mark.parametrize("profile", ["smoke", "quick", "full", "online"])
def test_chapters_load_the_networks_of_others(profile: str) -> None:
    replaced = runner.load_profile(BOOK, profile)[1]
    cells, touching = (defaults(name) | replaced.get(name, {}) for name in ("ctc", "touching"))
    assert cells == touching
    own, changes = defaults("em") | replaced.get("em", {}), replaced.get("baselines", {})
    subject = vars(SUBJECTS["em"]) | changes.get("changes", {})
    assert {name: subject[name] for name in own if name in subject} == {
        name: value for name, value in own.items() if name in subject}  # fmt: skip
    assert changes.get("source", "simulated") == own["source"]


@pytest.mark.parametrize("chapter", SUBJECTS)
def test_baselines_load_the_networks_of_the_chapter(chapter: str) -> None:
    own, subject = defaults(chapter), SUBJECTS[chapter]
    settings = {name: getattr(subject, name) for name in own if hasattr(subject, name)}
    assert {"size", "side", "stride", "epochs"} <= set(settings)
    assert settings == {name: own[name] for name in settings}, "change lessons/subjects.py, too"


@pytest.mark.slow
def test_self_training_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subject = replace(
        SUBJECTS["em"], num_images=5, size=192, epochs=1, pixel_crops=8, pixel_epochs=1,
        rings=[0, 0],
    )  # fmt: skip
    path = subject.build("simulated", "", 0)
    model = random_model(num_classes=1)
    unet = subject.student(model, path, 0)
    made = Path(f"{subject.folder(path, 0)}-unet", "last.ckpt").stat().st_mtime_ns
    assert unet.num_classes == 1
    rounds = map(load, training.rounds_of(f"{subject.folder(path, 0)}-unet", subject.rings))
    first, last = (torch.cat([w.flatten() for w in each.parameters()]) for each in rounds)
    assert torch.equal(last, torch.cat([w.flatten() for w in unet.parameters()]))
    assert 0 < (last - first).abs().max() < 0.05, "the last round goes on from the first"
    with monkeypatch.context() as patch:
        patch.setattr(training, "of_split", lambda *_, **options: pytest.fail("paints"))
        again = subject.student(model, path, 0)
    assert Path(f"{subject.folder(path, 0)}-unet", "last.ckpt").stat().st_mtime_ns == made
    assert all(map(torch.equal, unet.parameters(), again.parameters()))
    with pytest.raises(ValueError, match="another run"):
        replace(subject, pixel_crops=16).student(model, path, 0)
    with pytest.raises(ValueError, match="another run .*training data"):  # of another classifier
        subject.student(random_model(num_classes=1, seed=1), path, 0)


def test_a_student_that_the_zoo_holds_is_loaded(tmp_path: Path) -> None:
    model, unet, path = random_model(num_classes=1), UNet(1, 1), tmp_path / "zoo.hdf5"
    zoo.save(path, "MICRANet", model, {})
    zoo.save(path, training.STUDENT, unet, {})
    found = training.self_train(model, "none.h5", None, None, 8, tmp_path / "run", 1, weights=path)
    assert all(map(torch.equal, unet.parameters(), found.parameters()))
    assert not (tmp_path / "run").exists()


def test_study_of_the_chapter_sweeps_goes_on_after_a_failure_and_runs_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def execute_notebook(source: Path, target: Path, values: dict, **options: Any) -> None:
        called.append((values["num_train"], values["seed"]))
        if values["num_train"] == 60 and called.count((60, 7)) == 1:
            raise ValueError("Exception encountered at ...\nValueError: too few")
        Path(values["file"]).write_text("{}")

    given = {
        "papermill": SimpleNamespace(execute_notebook=execute_notebook), "product": product,
        "results": SimpleNamespace(load=str), "place": tmp_path, "one_run": None, "os": os,
        "ThreadPoolExecutor": ThreadPoolExecutor,
        "numbers": [60, 240], "seeds": [7], "seen": 1, "num_test": 1, "scheduler": "",
    }  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the cell sets it
    run_cell("sweeps", "def execute", **given)
    printed = "num_train 60, seed 7 failed: ValueError: too few\n1 of 2 runs have a result\n"
    assert capsys.readouterr().out == printed and sorted(called) == [(60, 7), (240, 7)]
    run_cell("sweeps", "def execute", **given)
    assert capsys.readouterr().out == "2 of 2 runs have a result\n" and called[2:] == [(60, 7)]
