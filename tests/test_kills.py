"""Killed at random moments, a program goes on where it was and ends as if nothing had happened."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bright import bright_model
from test_predict import USAGE, contents, field
from test_train import EPOCHS, assert_same_run, fit

from micranet_helpers import train, zoo
from micranet_helpers.files.lock import alone
from micranet_helpers.predict import predict

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir")  # that Python reports
KILLS = 10  # of one program; each goes on from where the last one was killed
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.usefixtures("one_thread", "no_bar"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def moments(folder: Path, work: Callable[[], object], most: int | None = None) -> int:
    """Do some work in a child, killed at a moment if given; count its events of files."""
    note = folder / "moments"
    note.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        seen = []

        def count(event: str, _: tuple) -> None:
            if event in EVENTS:
                seen.append(event)
                if len(seen) == most:
                    os.kill(os.getpid(), signal.SIGKILL)

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.addaudithook(count)
        try:
            work()
            note.write_text(str(len(seen)))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return int(note.read_text()) if note.exists() else 0


def kill(folder: Path, work: Callable[[], object], most: int) -> int:
    """Kill some work again and again, until it is done; count how often it was killed."""
    draw = np.random.default_rng(0)
    for number in range(KILLS):
        if moments(folder, work, int(draw.integers(1, most))):
            return number
    assert moments(folder, work)
    return KILLS


def test_training(tmp_path: Path) -> None:
    most = moments(tmp_path, lambda: fit(tmp_path / "whole"))
    killed = kill(tmp_path, lambda: fit(tmp_path / "run"), most // 2)
    assert killed > 2
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    with alone(tmp_path / "run"):
        assert not list((tmp_path / "run").glob("*.part"))
    assert train.history(tmp_path / "run")["epoch"] == [*range(1, EPOCHS + 1)]
    assert np.isfinite(train.history(tmp_path / "run")["loss"]).all()


def test_prediction(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, image in (("a", field()), ("film", np.stack([field(n) for n in range(5)]))):
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", image, imagej=True,
                         metadata={"axes": "TYX"[-image.ndim :]})  # fmt: skip
    shutil.copy(tmp_path / "images" / "a.tif", os.fsencode(tmp_path / "images") + b"/gr\xf6n.tif")
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", bright_model(), {}, usage=USAGE)

    def run(name: str) -> Path:
        return predict(tmp_path / "images", tmp_path / "zoo.hdf5", tmp_path / name)

    most = moments(tmp_path, lambda: run("whole"))
    assert kill(tmp_path, lambda: run("out"), most // 2) > 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_zoo(tmp_path: Path) -> None:
    def save() -> None:
        for name in ("a", "b", "c"):
            zoo.save(tmp_path / "zoo.hdf5", name, bright_model(), {})

    most = moments(tmp_path, save)
    (tmp_path / "zoo.hdf5").unlink()
    for moment in np.random.default_rng(0).integers(1, most, KILLS).tolist():
        moments(tmp_path, save, moment)
        if (tmp_path / "zoo.hdf5").exists():
            assert {row["group"] for row in zoo.contents(tmp_path / "zoo.hdf5")} <= {*"abc"}
    save()
    assert [row["group"] for row in zoo.contents(tmp_path / "zoo.hdf5")] == [*"abc"]
    assert sorted(path.name for path in tmp_path.glob("*zoo*")) == ["zoo.hdf5"]
