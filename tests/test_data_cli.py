"""Command ``micranet-book data``, outside a clone of the book."""

import subprocess
import sys
from pathlib import Path

import pytest

from micranet_helpers.data.fetch import download
from micranet_helpers.lessons import command


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MICRANET_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("MICRANET_MIRROR", "http://127.0.0.1:9")


def test_list(capsys, tmp_path) -> None:
    assert command.main(["data"]) == 0
    shown = capsys.readouterr().out
    assert "\nem: 21.7 MB" in shown and "10.1038/s42256-022-00472-w" in shown
    assert str(tmp_path / "cache") in shown and "micranet-book data remove NAME" in shown
    assert not (tmp_path / "cache").exists()


@pytest.mark.data
def test_fetch_list_remove(capsys, mirror_url, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    assert command.main(["data", "fetch", "mnist", "--subset", "test"]) == 0
    paths = capsys.readouterr().out.split()
    assert [Path(path).name[:4] for path in paths] == ["t10k", "t10k"]
    assert all(Path(path).is_file() for path in paths)
    command.main(["data"])
    assert "mnist: 11.6 MB, 1.7 MB on this disk" in capsys.readouterr().out
    assert command.main(["data", "remove", "mnist"]) == 0
    assert capsys.readouterr().out == "1.7 MB freed.\n"
    assert not (tmp_path / "cache" / "mnist").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("fetch mnist", 1, "could not be downloaded"), ("fetch minst", 2, "choose one of"),
        ("fetch mnist --subset x", 2, "test, train"), ("remove minst", 2, "choose one of"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(arguments: str, code: int, words: str, capsys) -> None:
    assert command.main(["data", *arguments.split()]) == code
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("micranet-book data: ") and words in last


def test_interrupted(capsys, monkeypatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "fetch", interrupted)
    assert command.main(["data", "fetch", "mnist"]) == 130
    assert "same command" in capsys.readouterr().err


def test_without_the_notebook_tools() -> None:
    code = """
import sys
sys.modules.update(papermill=None, jupyter_book=None, yaml=None, torch=None)
from micranet_helpers.lessons.command import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code, "data"], capture_output=True, text=True)
    assert done.returncode == 0 and "mnist: 11.6 MB" in done.stdout and not done.stderr
