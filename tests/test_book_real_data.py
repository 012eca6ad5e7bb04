"""The chapters on real data, from a mirror on loopback, and without a network."""

import shutil
from pathlib import Path

import nbformat
import pytest
from micranet_book import runner

from micranet_helpers import results

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture
def book_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the book, beside an empty cache of data: the chapters above stay as they are."""
    monkeypatch.setenv("MICRANET_DATA", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("_build"))
    return tmp_path


@pytest.mark.data
def test_data_chapters_with_real_data(book_elsewhere: Path, mirror_url: str, monkeypatch) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    sizes = ["num_images=4", "size=256", "side=64", "stride=64", "real=true"]
    values = ["download:download=true", *(f"datasets:{value}" for value in sizes)]
    tree = runner.run_book(book_elsewhere, "quick", values, ["download", "datasets"])
    assert "10,000 digits from MNIST" in printed(tree / "download.ipynb")
    assert "could not be downloaded" not in printed(tree / "datasets.ipynb")
    assert len(list((tree / "datasets").glob("*-real.hdf5"))) == 5


# Enough to run every cell on real images, in a minute or two; the numbers mean nothing.
REAL = {
    "mnist": ["subset=test", "num_images=20", "epochs=1"],
    "ctc": ["subset=small", "stride=64", "epochs=1", "pixel_crops=32", "pixel_epochs=1"],
    "pvivax": ["subset=small", "side=96", "stride=96", "test_stride=96", "epochs=1",
               "pixel_crops=32", "pixel_epochs=1",
               "num_local=6", "local_epochs=1"],
    "em": ["subset=small", "side=128", "stride=128", "test_stride=128", "epochs=1",
           "pixel_crops=32", "pixel_epochs=1",
           "ratios=['1:1']", "study_epochs=1"],
    "actin": ["subset=small", "num_images=16", "epochs=1", "widths=[0, 8]"],
}  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize("chapter", REAL)
def test_dataset_chapter_with_real_data(
    book_elsewhere: Path, mirror_url: str, monkeypatch: pytest.MonkeyPatch, chapter: str
) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    chapters = ["ctc", "touching"] if chapter == "ctc" else [chapter]  # which share networks
    values = [f"{name}:{value}" for name in chapters for value in ("source=open", *REAL[chapter])]
    tree = runner.run_book(book_elsewhere, "quick", values, chapters)
    for name in chapters:
        run = results.load(tree / "results" / f"{name}-open-0.json")
        assert run["source"] == "open" and run["parameters"]["subset"] in REAL[chapter][0]


def test_data_chapters_without_a_network(book_elsewhere: Path, monkeypatch) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", "http://127.0.0.1:9")  # where nobody answers
    values = ["download:download=true", "datasets:real=true"]
    tree = runner.run_book(book_elsewhere, "smoke", values, ["download", "datasets"])
    for name in ("download", "datasets"):
        assert "could not be downloaded" in printed(tree / f"{name}.ipynb")
    assert "digits from scikit-learn" in printed(tree / "download.ipynb")


def printed(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)
