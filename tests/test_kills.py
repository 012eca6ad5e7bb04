"""Killed at random moments, a program goes on where it was and ends as if nothing had happened."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
import tifffile
from bright import bright_model
from clean import CONTEXT
from clean import begin as begin_child
from micranet_book import record
from test_label import USAGE as ASKED
from test_label import click
from test_large import blobs, find_in_blocks, labels_of
from test_predict import USAGE, contents, field
from test_runner import make_book, write_chapter
from test_train import EPOCHS, assert_same_run, fit

from micranet_helpers import train, zoo
from micranet_helpers.label import answers
from micranet_helpers.label.widget import Labeller
from micranet_helpers.predict import predict

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir")  # that Python reports
LONG = "MICRANET_FAULTS" in os.environ  # make test-faults
KILLS, SEEDS = (24, 3) if LONG else (8, 1)
BOOKS = KILLS if LONG else 2  # of the book: each costs seconds
pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.usefixtures("one_thread", "no_bar"),
    pytest.mark.parametrize("seed", range(SEEDS)),
]


def counted(work: Callable[[], object], seen: Synchronized, most: int, seconds: float) -> None:
    """Do some work; be killed at an event of files or after a time, or else count the events."""
    events = 0

    def count(event: str, _: tuple) -> None:
        nonlocal events
        if event in EVENTS:
            events += 1
            if events == most:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    signal.setitimer(signal.ITIMER_REAL, seconds)  # whose signal nothing handles
    work()
    seen.value = events


def moments(work: Callable[[], object], most: int = 0, seconds: float = 0) -> int:
    """Do some work in a child, killed at an event of files or after a time; count its events."""
    seen = CONTEXT.Value("q", 0)
    child = begin_child(counted, work, seen, most, seconds)
    child.join()
    return seen.value


def kills(work: Callable[[], object], seed: int, note: Callable) -> Iterator[bool]:
    """Kill some work at random moments, many times; yield each time whether it was done first."""
    note("kills", KILLS)  # for benchmarks/faults.py
    draw, start = np.random.default_rng(seed), time.monotonic()
    assert (most := moments(work)), "it fails"
    took, killed = time.monotonic() - start, 0
    yield True
    while killed < KILLS:
        by_clock = LONG and draw.random() < 0.5  # without it, each time at the same moments
        when = {"seconds": draw.uniform(0, took)} if by_clock else {"most": draw.integers(1, most)}
        done = bool(moments(work, **when))
        killed += not done
        yield done
    assert moments(work)
    yield True


def test_training(tmp_path: Path, seed: int, record_property) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    for done in kills(partial(fit, run), seed, record_property):
        if not done:
            continue
        if not whole.exists():
            shutil.copytree(run, whole)
        assert_same_run(run, whole)
        assert not list(run.glob("*.part"))
        assert train.history(run)["epoch"] == [*range(1, EPOCHS + 1)]
        assert np.isfinite(train.history(run)["loss"]).all()
        shutil.rmtree(run)


def test_prediction(tmp_path: Path, seed: int, record_property) -> None:
    (tmp_path / "images").mkdir()
    for name, image in (("a", field()), ("film", np.stack([field(n) for n in range(5)]))):
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", image, imagej=True,
                         metadata={"axes": "TYX"[-image.ndim :]})  # fmt: skip
    shutil.copy(tmp_path / "images" / "a.tif", os.fsencode(tmp_path / "images") + b"/gr\xf6n.tif")
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", bright_model(), {}, usage=USAGE)
    out, whole = tmp_path / "out", {}
    predicts = partial(predict, tmp_path / "images", tmp_path / "zoo.hdf5", out)
    for done in kills(predicts, seed, record_property):
        if done:
            whole = whole or contents(out)
            assert contents(out) == whole
            shutil.rmtree(out)


def test_large_image(tmp_path: Path, seed: int, record_property) -> None:
    tifffile.imwrite(tmp_path / "a.tif", blobs(300, 410))
    out, whole = tmp_path / "a.ome.zarr", None
    for done in kills(partial(find_in_blocks, tmp_path / "a.tif", out), seed, record_property):
        if done:
            whole = labels_of(out) if whole is None else whole
            np.testing.assert_array_equal(labels_of(out), whole)
            assert whole.max() > 4
            shutil.rmtree(out)


def save_three(path: Path) -> None:
    for name in ("a", "b", "c"):
        zoo.save(path, name, bright_model(), {})


def test_zoo(tmp_path: Path, seed: int, record_property) -> None:
    for done in kills(partial(save_three, tmp_path / "zoo.hdf5"), seed, record_property):
        if done or (tmp_path / "zoo.hdf5").exists():
            found = {row["group"] for row in zoo.contents(tmp_path / "zoo.hdf5")}
            assert found == {*"abc"} if done else found <= {*"abc"}
        if done:
            assert [path.name for path in tmp_path.glob("*zoo*")] == ["zoo.hdf5"]
            (tmp_path / "zoo.hdf5").unlink()


def label(folder: Path, file: Path, given: Synchronized) -> None:
    labeller = Labeller(folder, ASKED, file, who="ann")
    while labeller.view["tiles"]:
        click(labeller, ("yes", "no", "cannot tell")[len(answers.read(file)) % 3])
        given.value = len(answers.read(file))


def test_answers(tmp_path: Path, seed: int, record_property) -> None:
    """What was said before a kill is in the file, and the questions go on after it."""
    file, given, wanted = tmp_path / "answers.csv", CONTEXT.Value("q", 0), []
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", field()[:48, :48])

    for done in kills(partial(label, tmp_path / "images", file, given), seed, record_property):
        said = [each[:3] for each in answers.read(file)]
        wanted = wanted or said
        assert said == wanted[: len(said)] and 0 <= len(said) - given.value <= 1
        if done:
            assert said == wanted and len(wanted) > 4
            file.unlink()
        given.value = 0 if done else len(said)


RUN = "import sys; from micranet_helpers.lessons.command import main; sys.exit(main())"
OWN = """\
import time; from pathlib import Path; from micranet_helpers.files.lock import alone
with alone(Path("run")):  # as a training does
    time.sleep(0.3)
print(open("derived.txt").read())"""


def begin(root: Path) -> psutil.Popen:
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return psutil.Popen([sys.executable, "-c", RUN, "run", "zeta", "alpha"], cwd=root, **streams)


def state(root: Path) -> tuple[list, dict[str, bytes]]:
    """Read what a run of the book leaves: outputs on pages, and files of the chapters."""
    tree = root / "_build" / "executed" / "quick"
    assert all(record.times(tree, ["zeta", "alpha"]).values())
    outputs = [cell.get("outputs") for name in ("zeta", "alpha")
               for cell in nbformat.read(tree / f"{name}.ipynb", as_version=4).cells]  # fmt: skip
    return outputs, {path.name: path.read_bytes() for path in (tree / "work").rglob("*.txt")}


def test_book(tmp_path: Path, seed: int, record_property) -> None:
    """The runner alone is killed, or with its chapters and their kernels, as by a power cut."""
    root, draw = make_book(tmp_path), np.random.default_rng(seed)
    write_chapter(root / "book", "alpha", [OWN] * 3)
    start = time.monotonic()
    assert begin(root).wait() == 0
    took, whole = time.monotonic() - start, state(root)
    record_property("kills", BOOKS)
    for number in range(BOOKS):
        shutil.rmtree(root / "_build")
        runner = begin(root)
        time.sleep(draw.uniform(0.2, 1) * took)  # the first part goes to imports
        others = runner.children(recursive=True)
        for process in [runner, *(others if number % 2 else ())]:
            process.kill()
        assert begin(root).wait() == 0 and state(root) == whole
        assert not psutil.wait_procs(others, timeout=5)[1], "left running"
