"""Benchmarks run and print their tables (how fast they are is not a test's business)."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from micranet_helpers.data.dataset import Sample
from micranet_helpers.lessons import results
from micranet_helpers.metrics.boxes import Curve
from micranet_helpers.networks import micranet

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "row", "expected"),
    [
        ("cam", "--side 32 --classes 3 --present 1 --batch 1 --rounds 1",
         r"([abcde]) \w+ \|( [\d.]+ \|){4}", 5),
        ("speed", "--side 32 --batch 1 --rounds 1 --ways float32",
         r"[\w, -]+ \| float32 \|( [\d.]+ \|){3}", 4),
        ("crops", "--sides 32 --images 2 --seconds 0.05 --sizes",
         r"(uint8|float32) \| 32 \|( [\d.]+ \|){8}", 2),
        ("fill", "--seeds 1 --frames 4 --size 96",
         r"[\d.]+ \| [\d.]+ \|( [\d.–]+ \|){3}", 5),
        ("explore", "--sides 32 --rounds 1", r"[\w, ]+ \| \d+ \| \d+ \|", 7),
        ("large", "--sides 512 --network light", r"512 \|( [\d.]+ \|){5}", 1),
        ("study", "--slides 10", r"[\w, :-]+ \| [\d.]+ \| \d+ \| \d+ \|", 5),
        ("many", "--workers 1 --images 1 --side 64", r"1 \|( [\d.]+ \|){4}", 1),
        ("threads", "--steps 1 --batch 1 --side 16 --settings one",
         r"one thread \|( [\d.]+ \([\d.]+ to [\d.]+\) \| [\d.]+ \|){2}", 1),
    ],
    ids=["cam", "speed", "crops", "fill", "explore", "large", "study", "many", "threads"],
)  # fmt: skip
def test_benchmark_prints_and_saves_its_table(
    tmp_path, monkeypatch, capsys, name, options, row, expected
) -> None:
    save = tmp_path / "table.md"
    command = [str(BENCHMARKS / f"{name}.py"), *options.split(), "--save", str(save)]
    # In this process, where torch is loaded already.
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(micranet, "WIDTHS", micranet.WIDTHS)  # `fill` makes networks small
    importlib.import_module(name).main()
    table = capsys.readouterr().out
    assert save.read_text(encoding="utf-8").strip() == table.strip()
    assert len(re.findall(rf"^\| {row}$", table, re.MULTILINE)) == expected


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with results of three seeds, of labels of crops and of masks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for seed in range(3):
        common = {
            "source": "open", "split": "testing", "n": 2, "seed": seed,
            "seconds": {},
        }  # fmt: skip
        metrics = {"pixel F1, self-trained": 0.6 + 0.1 * seed, "crop AUC": 0.9}
        ours = {"dataset": "em", "labels_used": "crops", "metrics": metrics}
        masks = {"dataset": "em-masks", "labels_used": "masks", "metrics": {"pixel F1": 0.8}}
        results.save(tmp_path / f"em-open-{seed}.json", **common, **ours)
        results.save(tmp_path / f"em-masks-{seed}.json", **common, **masks)
    return tmp_path


def test_results_of_seeds_are_tabulated_with_their_origin(kept: Path, monkeypatch, capsys) -> None:
    module = importlib.import_module("results")
    monkeypatch.setattr(module, "KEPT", kept)
    module.tabulate("em", "full")
    text = (kept / "em.md").read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    assert "`full` profile, source `open` (all), split testing, labels used: crops" in text
    assert "| pixel F1, self-trained | 0.700 ± 0.100 |" in text


@pytest.mark.parametrize(("benchmark", "dataset"), [("results", "em"), ("ceiling", "em-masks")])
def test_results_come_from_one_clean_commit(
    kept: Path, tmp_path_factory, monkeypatch, benchmark: str, dataset: str
) -> None:
    """A run that replaced a file of the book would make the commit of the next one unclean."""
    module, book = importlib.import_module(benchmark), tmp_path_factory.mktemp("book")
    monkeypatch.setattr(importlib.import_module("results"), "KEPT", book)
    monkeypatch.setattr(module, "KEPT", book)
    for file in kept.glob("em-*.json"):
        shutil.copy(file, book)
    (folder := kept / "run" / "results").mkdir(parents=True)
    before = {file: file.read_bytes() for file in book.iterdir()}

    def run(chapter: str, seed: int, *_: object) -> None:
        assert {file: file.read_bytes() for file in book.iterdir()} == before
        new = results.load(kept / f"{dataset}{'-open' * (dataset == 'em')}-{seed}.json")
        (folder / f"{dataset}-open-{seed}.json").write_text(json.dumps(new | {"n": 7}))

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(sys, "argv", [benchmark, "em", "--folder", str(folder.parent)])
    module.main()
    assert [each["n"] for each in results.collect(book, dataset)].count(7) == 3


def test_baselines_have_a_table_for_each_dataset(kept: Path, monkeypatch) -> None:
    module = importlib.import_module("results")
    monkeypatch.setattr(module, "KEPT", kept)
    for name in ("em", "ctc"):
        results.save(
            kept / f"baselines-{name}-open-0.json", dataset=f"baselines-{name}", source="open",
            split="testing", n=2, labels_used="its own", seed=0, seconds={},
            metrics={"pixel F1, ours": 0.5, "pixel F1, U-Net FS": 0.8},
        )  # fmt: skip
    assert module.datasets_of("em") == ["em"]
    module.tabulate("baselines", "full")
    for name in ("em", "ctc"):
        text = (kept / f"baselines-{name}.md").read_text(encoding="utf-8")
        assert "| U-Net FS | 0.800 |" in text and "labels used: its own" in text


def test_ratio_to_masks_is_taken_seed_by_seed(kept: Path, monkeypatch) -> None:
    module = importlib.import_module("ceiling")
    monkeypatch.setattr(module, "KEPT", kept)
    (kept / "em-open-2.json").unlink()  # a seed without its partner has no ratio
    module.tabulate("em", "full")
    text = (kept / "em-masks.md").read_text(encoding="utf-8")
    # 0.6 / 0.8 and 0.7 / 0.8
    assert "| pixel F1 | 0.800 ± 0.000 | 0.650 ± 0.071 | 0.812 ± 0.088 |" in text


def test_settings_of_a_chapter_are_those_of_the_profile_and_else_the_defaults(kept: Path) -> None:
    values = importlib.import_module("ceiling").settings("em", "full")
    assert values["source"] == "open" and values["side"] == 64 and values["seed"] == 0


def test_ceiling_of_points_takes_its_threshold_from_the_validation(kept: Path) -> None:
    best_f1 = importlib.import_module("ceiling").best_f1

    def curve(*rows: tuple[float, float, float]) -> Curve:
        return Curve(*np.array(rows).T, average_precision=0.5)

    validation = curve((0.9, 1, 0.2), (0.6, 0.8, 0.8), (0.2, 0.1, 0.9))  # best at 0.6
    testing = curve((0.95, 1, 0.5), (0.61, 0.5, 0.5), (0.59, 0.9, 0.9))
    assert best_f1(validation, testing) == pytest.approx(0.5)
    assert best_f1(validation, curve((0.5, 1, 1))) == 0  # nothing reaches the threshold


def test_ceiling_asks_nothing_of_difficult_cells(kept: Path) -> None:
    target = importlib.import_module("ceiling").target
    label = np.array([[[1, 1, 0, 0]], [[0, 0, 3, 0]], [[0, 2, 0, 2]]], np.uint16)
    sample = Sample("field", np.zeros((3, 1, 4), np.uint8), label)
    np.testing.assert_array_equal(target("pvivax", sample), [[[1, 1, 0, np.nan]]])
    np.testing.assert_array_equal(target("em", sample), label > 0)


def test_boxes_are_drawn_block_by_block_while_there_is_time(kept: Path) -> None:
    budget = importlib.import_module("budget")
    label = np.zeros((512, 512), int)
    for number, (top, left) in enumerate(((20, 20), (250, 30), (30, 400), (400, 60)), 1):
        label[top : top + 10, left : left + 10] = number
    label[20:25, 20:25] = 0  # a box is larger than its object
    target, left = budget.drawn(label, "BBOX", 7, 1 + 14 + 1 + 7 + 5)
    assert left == 5, "the third block would take 8 s"
    assert np.isnan(target[256:, :256]).sum() == 256**2 - 4 * 10
    assert np.isnan(target[256:, 256:]).all() and not np.isnan(target[:256]).any()
    assert target[20:30, 20:30].all() and target[250:260, 30:40].all()
    assert np.nansum(target) == 300
    target, left = budget.drawn(label, "FS", 7, 1000)
    np.testing.assert_array_equal(target, label > 0)
    assert left == 1000 - 4 - 4 * 7


def test_an_annotator_asks_down_the_tree_or_at_random(kept: Path) -> None:
    budget = importlib.import_module("budget")
    true = {f"{n}": np.zeros((128, 128), int) for n in range(3)}
    true["1"][70:90, 70:90] = 1
    subject = budget.Subject(None, 0, 32, 1.0, "minmax")
    data = SimpleNamespace(
        subject=subject, true={n: SimpleNamespace(label=label) for n, label in true.items()},
        shapes={n: (128, 128) for n in true},
    )  # fmt: skip
    tree = budget.answered(data, 99, "tree", 0, 0)
    assert len(tree) == 2 + 1 + 4 + 4 + 4, "two images of no; of the other, down to quarters"
    assert {box.side for box, answer in tree.items() if answer == "yes"} == {128, 64, 32, 16}
    some = budget.answered(data, 50, "random crops", 0, 0)
    assert [box.side for box in some] == [32] * 48 + [16] * 2
    assert budget.answered(data, 5, "tree", 0, 0).keys() <= {*tree}


def test_minutes_of_labelling_are_kept_for_the_book(kept: Path, monkeypatch) -> None:
    budget = importlib.import_module("budget")
    monkeypatch.setattr(budget, "KEPT", kept)
    lines = [
        {"way": way, "kind": kind, "minutes": 5.0, "spent": 4 + block, "seed": seed,
         "seconds": 1.0, "counts": {"pixel F1": [[2 * seed, 2], [4, 4]]}, "commit": "c"}
        for seed in (0, 1) for way, kind in (("tree", "yes or no"), ("boxes", "boxes"))
        for block in (0, 1)
    ]  # fmt: skip
    [all_answered] = budget.pooled([lines[0] | {"minutes": 80.0, "spent": 26.9}], "pixel F1")
    assert all_answered["minutes"] == 27
    lines = budget.pooled(lines, "pixel F1")  # (0 + 2 + 0 + 2) / 16 and (2 + 2 + 2 + 2) / 16
    assert budget.table(lines, "pixel F1") == [
        ["labels", "masks", "5 min"], ["tree", "yes or no", "0.375 ± 0.177"],
        ["boxes", "boxes", "0.375 ± 0.177"],
    ]  # fmt: skip
    budget.keep("em", budget.SUBJECTS["em"], lines)
    first, second = results.collect(kept, "budget-em")
    assert first["n"] == 4 and second["metrics"] == {
        "pixel F1, yes or no, tree, 5 min": 0.5, "pixel F1, boxes, 5 min": 0.5,
        "minutes, yes or no, tree, 5 min": 4.5, "minutes, boxes, 5 min": 4.5,
    }  # fmt: skip


def test_cells_are_asked_about_by_their_middles_and_judged_as_detections(kept: Path) -> None:
    budget = importlib.import_module("budget")
    label = np.zeros((96, 96), int)
    label[20:60, 30:70] = 1
    true = Sample("1", np.zeros((3, 96, 96), np.uint8), label,
                  boxes=np.array([[0, 20, 30, 60, 70]], np.float32))  # fmt: skip
    data = SimpleNamespace(subject=budget.SUBJECTS["pvivax"], true={"a": true}, truth={"a": true})
    marks = budget.asked(data, "a")
    assert marks[30:50, 40:60].all() and marks.sum() == 20 * 20
    masks = np.zeros((1, 96, 96), bool)
    masks[0, 28:52, 38:62] = masks[0, 60:84, 10:34] = True  # one in the box, one beside it
    masks[0, 60:67, 60:76] = True  # a crumb
    counts = budget.judged(data, [masks])["detection F1"]
    np.testing.assert_array_equal(counts, [[2], [3]])
