"""Stopped by Ctrl-C, short of space, without a worker or beside others: no work is lost."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bright import bright_model
from clean import INTERRUPTED, begin
from damage import full_disk
from test_label import BOX
from test_large import blobs, find_in_blocks, labels_of
from test_predict import USAGE, contents, field
from test_train import assert_same_run, fit, in_epoch

from micranet_helpers import train, zoo
from micranet_helpers.label import answers
from micranet_helpers.predict import predict

pytest.importorskip("resource", reason="Windows has no such limit")
pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread", "no_bar"),
]


def predict_film(folder: Path, out: str = "out") -> None:
    """Predict the planes of a film, without a bar, which is written to a file here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("micranet_helpers.predict.folder.tqdm", lambda items, *_, **__: items)
        predict(folder / "images", folder / "zoo.hdf5", folder / out)


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., None]:
    (tmp_path / "images").mkdir()
    planes = np.stack([field(n) for n in range(12)])
    tifffile.imwrite(tmp_path / "images" / "film.tif", planes, imagej=True,
                     metadata={"axes": "TYX"})  # fmt: skip
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", bright_model(), {}, usage=USAGE)
    return partial(predict_film, tmp_path)


@pytest.fixture
def slide(tmp_path: Path) -> Callable[..., None]:
    """What finds the objects of a large image, in 12 blocks."""
    tifffile.imwrite(tmp_path / "a.tif", blobs(300, 410))
    return partial(find_in_blocks, tmp_path / "a.tif")


@pytest.mark.parametrize("what", ["training", "prediction", "large image"])
def test_ctrl_c_ends_within_5_s_and_keeps_the_work(
    what: str, tmp_path: Path, film, slide
) -> None:
    place, earlier, kept, work = {
        "training": ("run", "", "last.ckpt", partial(fit, tmp_path / "run", 10_000)),
        "prediction": ("out/images/film.tif", "film-t02-mask.ome.tif", "film-t03-mask.ome.tif",
                       film),
        "large image": ("a.ome.work", "scores-2.npz", "scores-3.npz",
                        partial(slide, tmp_path / "a.ome.zarr")),
    }[what]  # fmt: skip
    child, end = begin(work), time.monotonic() + 60
    while not (tmp_path / place / kept).exists():
        assert child.is_alive() and time.monotonic() < end, "nothing begins"
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGINT)
    sent = time.monotonic()
    child.join()
    assert child.exitcode == INTERRUPTED
    assert time.monotonic() - sent < 5
    if what == "training":
        assert train.history(tmp_path / "run")["epoch"][0] == 1
    else:
        before = (done := tmp_path / place / earlier).stat().st_mtime_ns
        work()
        assert done.stat().st_mtime_ns == before


def test_a_worker_that_is_killed_ends_the_training_and_the_next_goes_on(tmp_path: Path) -> None:
    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    options = {"schedule": "plateau"}  # that does not depend on the number of epochs
    fit(tmp_path / "whole", 2, **options)
    fit(tmp_path / "run", 1, **options)
    with pytest.raises(RuntimeError, match="DataLoader worker .*(killed|exited unexpectedly)"):
        fit(tmp_path / "run", 2, in_epoch(1, kill), num_workers=1, **options)
    fit(tmp_path / "run", 2, **options)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_prediction_goes_on_once_there_is_room(tmp_path: Path, film) -> None:
    film("whole")
    for size in (100, 1500, 5000):
        with full_disk(size), pytest.raises(OSError, match="could not be written and is as before"):
            film()
    film()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_large_image_goes_on_once_there_is_room(tmp_path: Path, slide) -> None:
    slide(tmp_path / "whole.ome.zarr")
    for size in (400, 6000, 30_000):  # of the largest file: it stops early, and later
        with full_disk(size), pytest.raises(OSError):
            slide(tmp_path / "a.ome.zarr")
    slide(tmp_path / "a.ome.zarr")
    found, expected = (labels_of(tmp_path / f"{name}.ome.zarr") for name in ("a", "whole"))
    np.testing.assert_array_equal(found, expected)
    assert expected.max() > 4


def test_an_answer_that_does_not_fit_is_refused_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    with full_disk(1000), pytest.raises(OSError, match="answers.csv could not be written: free"):
        for _ in range(100):
            answers.append(file, [(BOX, "cell", "yes")], "ann")
    before = file.read_text().splitlines()
    assert 5 < len(before) < 20 and before[-1].endswith(",ann")
    answers.append(file, [(BOX, "cell", "no")], "ann")
    assert file.read_text().splitlines()[:-1] == before


def save_as(name: str, path: Path) -> None:
    zoo.save(path, name, bright_model(), {})


def test_several_programs_add_to_one_zoo(tmp_path: Path) -> None:
    path = tmp_path / "zoo.hdf5"
    children = [begin(save_as, name, path) for name in "0123"]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert [row["group"] for row in zoo.contents(path)] == [*"0123"]
