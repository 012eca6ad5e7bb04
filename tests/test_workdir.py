"""MICRANET_WORKDIR: a chapter works in that folder, and goes on there after its session has died"""

import json
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from micranet_book import runner

from micranet_helpers.data.fetch import download
from micranet_helpers.lessons import workdir
from micranet_helpers.networks.checkpoints import read_checkpoint

CHAPTER = Path(__file__).parents[1] / "book" / "quickstart.ipynb"
# Long enough to be killed in the middle, and no longer.
VALUES = {"num_train": 512, "epochs": 5, "num_test": 40, "num_cluttered": 1}


@pytest.fixture(autouse=True)
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder and the variables are afterwards as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MICRANET_WORKDIR", "drive")
    monkeypatch.delenv("MICRANET_DATA", raising=False)


def test_set_up_cell_enters_the_folder_however_often_it_is_run(tmp_path: Path, capsys) -> None:
    [cell] = [cell for cell in nbformat.read(CHAPTER, as_version=4).cells
              if "setup" in cell.metadata.get("tags", [])]
    for _ in range(2):
        exec(TransformerManager().transform_cell(cell.source), {})
        assert Path.cwd() == tmp_path / "drive"
    assert capsys.readouterr().out == f"working folder: {tmp_path / 'drive'}\n" * 2
    assert not list(Path.cwd().iterdir())


def test_downloads_lie_there_unless_they_have_a_folder_of_their_own(monkeypatch) -> None:
    assert download.folder() == workdir.enter() / "downloads"
    monkeypatch.setenv("MICRANET_DATA", "/data")
    assert download.folder() == Path("/data")


@pytest.mark.parametrize("place", ["not mounted/MyDrive", "a file", "a file/folder"])
def test_a_place_that_cannot_be_used_is_told_in_one_sentence(place: str, monkeypatch) -> None:
    Path("a file").touch()
    monkeypatch.setenv("MICRANET_WORKDIR", place)
    before = Path.cwd(), sorted(Path.cwd().iterdir())
    with pytest.raises(OSError, match=f"names .*{place}, where nothing can be written .*: mount"):
        workdir.enter()
    assert (Path.cwd(), sorted(Path.cwd().iterdir())) == before


def start(folder: Path) -> subprocess.Popen:
    """Run the chapter in a new folder; its kernel is a child of this process."""
    folder.mkdir()
    values = [word for name, value in VALUES.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", CHAPTER, "done.ipynb", "-k", "python3", *values]
    command += ["--no-progress-bar"]
    return subprocess.Popen(command, cwd=folder, env=runner.kernel_environment())


def outcome(drive: Path) -> dict:
    found = json.loads((drive / "results" / "quickstart.json").read_text(encoding="utf-8"))
    return found["metrics"]


def test_a_chapter_whose_kernel_was_killed_goes_on_from_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drives = [tmp_path / "drive", tmp_path / "other drive"]
    monkeypatch.setenv("MICRANET_WORKDIR", str(drives[0]))
    first = start(tmp_path / "first session")
    while not list(drives[0].glob("runs/*/last.ckpt")):
        assert first.poll() is None, "ended before the first checkpoint"
        time.sleep(0.02)
    runner._kill_family(first)
    [run] = drives[0].glob("runs/*")
    done = read_checkpoint(run / "last.ckpt")["epoch"] + 1
    assert done < VALUES["epochs"], "killed too late: train for longer"
    assert not list((tmp_path / "first session").glob("runs"))

    assert start(tmp_path / "second session").wait() == 0
    monkeypatch.setenv("MICRANET_WORKDIR", str(drives[1]))
    assert start(tmp_path / "no interruption").wait() == 0
    text = (tmp_path / "second session" / "done.ipynb").read_text(encoding="utf-8")
    assert [f"epoch {k}/5" in text for k in range(1, 6)] == [k > done for k in range(1, 6)]
    assert outcome(drives[0]) == outcome(drives[1])
