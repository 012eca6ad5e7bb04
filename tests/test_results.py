"""Results survive the disk, say where they come from, and are never mixed."""

import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from micranet_helpers import metrics
from micranet_helpers.files import provenance
from micranet_helpers.lessons import results

FIELDS = {
    "dataset": "mnist", "source": "real", "split": "testing", "n": 100,
    "labels_used": "image-level labels", "seed": 0, "metrics": {"F1": 0.5}, "seconds": {"fit": 9},
    "parameters": {},
}  # fmt: skip
floats = st.sampled_from([math.nan, math.inf, -math.inf]) | st.floats(-1e299, 1e299)


def run(seed=0, **changed):
    return FIELDS | {"seed": seed} | changed


@settings(max_examples=20)  # each asks git for the commit
@given(st.dictionaries(st.text(max_size=5), floats, max_size=4))
def test_metrics_survive_the_disk(tmp_path_factory, metrics):
    path = results.save(tmp_path_factory.mktemp("run") / "new" / "0.json", **run(metrics=metrics))
    found = results.load(path)["metrics"]
    assert found.keys() == metrics.keys()
    for name, value in metrics.items():
        assert found[name] == value or (math.isnan(found[name]) and not math.isfinite(value))


def test_file_is_plain_json_with_provenance(tmp_path):
    changed = {"metrics": {"a": np.nan, "b": math.inf, "c": torch.tensor(0.5)}, "n": np.int64(3)}
    path = results.save(tmp_path / "0.json", **run(**changed, parameters={"x": (1,)}), notes="µm")

    def refuse(word):
        pytest.fail(f"{word} is no JSON")

    record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert record["metrics"] == {"a": None, "b": None, "c": 0.5}
    assert (record["n"], record["notes"], record["parameters"]) == (3, "µm", {"x": [1]})
    made = record["provenance"]
    assert set(made["versions"]) == {"python", "torch", "micranet_helpers", "scikit-image"}
    assert made["device"] and made["platform"] and made["date"].endswith("+00:00")
    assert [file.name for file in tmp_path.iterdir()] == ["0.json"]


def test_commit_is_that_of_this_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "package" / "files" / "a.py"))

    def commit():
        return provenance.provenance()["commit"]

    def git(*words):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert commit() is None
    git("init", "-q")
    assert commit() is None  # none yet
    (tmp_path / "file").write_text("old")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("tag", "-a", "v1", "-m", "a tag must not hide the commit")
    first = git("rev-parse", "HEAD")
    assert commit() == first
    (tmp_path / "file").write_text("new")
    assert commit() == f"{first}+changes"
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_save_refuses_what_json_does_not_know(tmp_path):
    with pytest.raises(TypeError, match="object"):
        results.save(tmp_path / "0.json", **run(parameters={"x": object()}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [
    b"", b"\xff\xfe", b"{", b"[]", b"3", b"{}", b"[" * 100_000, json.dumps(FIELDS).encode(),
])  # fmt: skip
def test_load_refuses_what_is_no_result(content, tmp_path):
    (tmp_path / "0.json").write_bytes(content)
    with pytest.raises(ValueError, match="holds no results"):
        results.load(tmp_path / "0.json")


def test_missing_files_and_folders(tmp_path):
    for read in (results.load, results.collect):
        with pytest.raises(FileNotFoundError, match="missing"):
            read(tmp_path / "missing")
    assert results.collect(tmp_path) == []


def test_collect_sorts_and_chooses(tmp_path):
    for name, seed, dataset in [("a", 10, "mnist"), ("b", 9, "mnist"), ("c", 0, "em")]:
        results.save(tmp_path / f"{name}.json", **run(seed, dataset=dataset))
    seeds = [(each["dataset"], each["seed"]) for each in results.collect(tmp_path)]
    assert seeds == [("em", 0), ("mnist", 9), ("mnist", 10)]
    assert [each["seed"] for each in results.collect(tmp_path, "em")] == [0]


def test_summary_by_hand():
    values = [{"F1": 0.5, "px": 10.0, "bad": math.nan}, {"F1": 0.6, "px": 12.0, "bad": 1},
              {"F1": 0.7, "px": 14.0, "bad": math.nan, "none": math.nan}]  # fmt: skip
    runs = [run(seed, metrics=metrics) for seed, metrics in enumerate(values)]
    assert results.summary(runs).splitlines() == [
        "| metric | mean ± sd of 3 seeds, n = 100 |",
        "| --- | ---: |",
        "| F1 | 0.600 ± 0.100 |",
        "| px | 12.0 ± 2.0 |",
        "| bad | 1.000 (of 1) |",
        "| none | – |",
    ]
    assert results.summary([run(metrics={"a | b": 0.5})]).splitlines() == [
        "| metric | 1 seed, n = 100 |", "| --- | ---: |", "| a \\| b | 0.500 |",
    ]  # fmt: skip


def test_pivot_by_hand():
    values = [{"F1, ours": 0.5, "s, ours": 10.0, "F1, U-Net, FS": 1}, {"F1, ours": 0.7}]
    runs = [run(seed, metrics=metrics) for seed, metrics in enumerate(values)]
    assert results.pivot(runs).splitlines() == [
        "| mean ± sd of 2 seeds, n = 100 | F1 | s |",
        "| --- | ---: | ---: |",
        "| ours | 0.600 ± 0.141 | 10.0 (of 1) |",
        "| U-Net, FS | 1.000 (of 1) | – |",
    ]
    assert results.pivot(runs, "s").splitlines()[1:] == ["| --- | ---: |", "| ours | 10.0 (of 1) |"]


def test_folds_are_judged_together_on_all_their_images():
    ours, theirs = [[2, 4, 2], [4, 4, 4]], [[2, 2, 2], [4, 4, 4]]
    runs = [run(seed, n=3, parameters={"fold": seed}, metrics={"F1": 0.5},
                tallies={"theirs": np.array(theirs), "ours": ours}) for seed in (0, 1)]  # fmt: skip
    low, high = metrics.f1_interval(np.tile(ours, 2))
    near, far = metrics.gain_interval(np.tile(ours, 2), np.tile(theirs, 2))
    assert results.together(runs).splitlines() == [
        "| all 2 folds, n = 6 | F1 | 95 % interval |",
        "| --- | ---: | ---: |",
        "| theirs | 0.500 | 0.500 to 0.500 |",
        f"| ours | 0.667 | {low:.3f} to {high:.3f} |",
        f"| ours, minus theirs | +0.167 | {near:+.3f} to {far:+.3f} |",
    ]
    assert results.intervals({"none": [[0, 0], [0, 0]]}).endswith("| none | 1.000 | – |")
    assert low < 0.667 < high and results.summary(runs).startswith(
        "| metric | mean ± sd of 2 folds, n = 3 |"
    )


def test_aside_by_hand():
    short = run(n=20, source="simulated", metrics={"F1": 0.4, "new": math.nan})
    full = [run(seed, metrics={"F1": 0.5 + seed / 10, "px": 1}) for seed in (0, 2)]
    assert results.aside(short, full).splitlines() == [
        "| metric | this run: simulated, n = 20 | full: real, mean ± sd of 2 seeds, n = 100 |",
        "| --- | ---: | ---: |",
        "| F1 | 0.400 | 0.600 ± 0.141 |",
        "| new | – | – |",
        "| px | – | 1.000 ± 0.000 |",
    ]


def test_a_file_is_named_after_its_run_and_set_beside_the_full_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = {"dataset": "em", "source": "simulated", "metrics": {"F1": 0.4}}
    path = results.save(**run(2, **changed))
    assert path == Path("results/em-simulated-2.json")
    head, _, row, *_ = results.aside(path).splitlines()
    assert head.startswith("| metric | this run: simulated, n = 100 | full: open, mean ± sd of")
    assert row == "| F1 | 0.400 | – |"
    assert results.aside(path, []).splitlines() == [
        "| metric | this run: simulated, n = 100 |", "| --- | ---: |", "| F1 | 0.400 |",
    ]  # fmt: skip


def test_table_of_numbers_by_hand():
    rows = {"a": {"found": 3, "F1": 0.5}, "b": {"found": np.int64(12), "F1": np.nan, "%": 12.34}}
    assert results.number_table(rows, "way") == (
        "| way | found | F1 | % |\n| --- | ---: | ---: | ---: |\n"
        "| a | 3 | 0.500 | – |\n| b | 12 | – | 12.3 |"
    )


def test_numbers_of_a_table_have_names_that_a_pivot_takes_apart():
    named = results.flat({"a": {"F1": 0.5, "AUC": 1}, "b": {"F1": 0.25}})
    assert named == {"F1, a": 0.5, "AUC, a": 1, "F1, b": 0.25}


def test_full_runs_are_those_of_the_book():
    stored = Path(__file__).parents[1] / "book" / "results" / "full"
    for dataset in ("mnist", "ctc", "pvivax", "em", "actin"):
        assert results.full(dataset) == results.collect(stored, dataset)
    assert results.full("nothing") == []


@pytest.mark.parametrize("field", results.KINDS)
def test_different_kinds_are_not_mixed(field):
    other = run(1, **{field: "other"})
    for table in (results.summary, lambda runs: results.aside(run(), runs)):
        with pytest.raises(ValueError, match=field):
            table([run(), other])


def test_tables_need_runs_of_different_seeds_and_of_one_kind():
    for runs, message in (([], "no results"), ([run(), run()], "same seed")):
        with pytest.raises(ValueError, match=message):
            results.summary(runs)
    for runs, message in (([run()], "cannot be compared"), ([run(), run()], "same seed")):
        with pytest.raises(ValueError, match=message):
            results.aside(run(dataset="other"), runs)
