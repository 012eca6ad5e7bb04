"""MICRANET_WORKDIR: a chapter works in that folder, and goes on there after its session died."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from micranet_book.chapter import kernel_environment
from notebooks import tagged

from micranet_helpers.data.fetch import download
from micranet_helpers.lessons import workdir
from micranet_helpers.train.checkpoints import read_checkpoint

CHAPTER = Path(__file__).parents[1] / "book" / "quickstart.ipynb"
# Long enough to be killed in the middle, and no longer.
VALUES = {"num_train": 256, "epochs": 3, "num_test": 20}


@pytest.fixture(autouse=True)
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder and the variables are afterwards as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MICRANET_WORKDIR", "drive")
    monkeypatch.delenv("MICRANET_DATA", raising=False)


def test_set_up_cell_enters_the_folder_however_often_it_is_run(tmp_path: Path, capsys) -> None:
    [code] = tagged(CHAPTER, "setup")
    for _ in range(2):
        exec(TransformerManager().transform_cell(code), {})
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
    """Run the chapter up to its training in a new folder; it prints what its kernel prints."""
    folder.mkdir()
    chapter = nbformat.read(CHAPTER, as_version=4)
    trains = next(k for k, cell in enumerate(chapter.cells) if "model = fit(" in cell.source)
    chapter.cells = chapter.cells[: trains + 1]
    nbformat.write(chapter, folder / "chapter.ipynb")
    values = [word for name, value in VALUES.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", "chapter.ipynb", "done.ipynb", "-k", "python3",
               "--log-output", "--no-progress-bar", *values]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, env=kernel_environment(),
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


def epochs_of(session: subprocess.Popen, last: int) -> list[int]:
    """Read the epochs that a session prints, until one of them or its end."""
    seen = []
    for line in session.stderr:
        if found := re.search(r"epoch (\d)/", line):
            seen.append(int(found[1]))
            if seen[-1] == last:
                break
    return seen


def kill(session: subprocess.Popen) -> None:
    for process in [*psutil.Process(session.pid).children(recursive=True), session]:
        process.kill()
    session.communicate()


@pytest.mark.slow
def test_a_chapter_whose_kernel_was_killed_goes_on_from_the_last_checkpoint(tmp_path, monkeypatch):
    drive = tmp_path / "drive"
    monkeypatch.setenv("MICRANET_WORKDIR", str(drive))
    first = start(tmp_path / "first session")
    assert epochs_of(first, last=2) == [1, 2]
    kill(first)
    [run] = drive.glob("runs/*")
    done = read_checkpoint(run / "last.ckpt")["epoch"] + 1
    assert 1 <= done < VALUES["epochs"], "killed too late: train for longer"
    assert not list((tmp_path / "first session").glob("runs"))

    second = start(tmp_path / "second session")
    assert epochs_of(second, last=VALUES["epochs"]) == [*range(done + 1, VALUES["epochs"] + 1)]
    second.communicate()
    assert second.returncode == 0 and list(drive.glob("runs/*")) == [run]
