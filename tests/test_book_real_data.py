"""The chapters on real data, from a mirror on loopback, and without a network."""

import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import random_model
from micranet_book import record, runner

from micranet_helpers import zoo
from micranet_helpers.data import dataset
from micranet_helpers.lessons import results, training

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
    sizes = ["num_images=4", "size=256", "side=64", "stride=64",
             "real=[mnist, ctc, pvivax, em, actin]"]  # fmt: skip
    values = ["download:download=true", *(f"datasets:{value}" for value in sizes)]
    tree = runner.run_book(book_elsewhere, "quick", values, ["download", "datasets"])
    assert "10,000 digits from MNIST" in printed(tree / "download.ipynb")
    assert "could not be downloaded" not in printed(tree / "datasets.ipynb")
    assert len(list(record.work_folder(tree, "datasets").rglob("*-real.hdf5"))) == 5


# Enough to run every cell on real images: parts of a few of them, and a classifier from a zoo, as
# the reader's own may be; the numbers mean nothing. Channels and classes of the network, values.
SHORT = ["pixel_crops=32", "pixel_epochs=1"]
REAL = {
    "mnist": (1, 10, ["subset=test", "num_images=20"]),
    "em": (1, 1, ["subset=small", "shrink=2", *SHORT, "ratios=['1:1']", "study_epochs=1"]),
    "pvivax": (3, 1, ["subset=small", *SHORT, "num_local=6", "local_epochs=1"]),
    "ctc": (1, 6, ["subset=small", *SHORT]),
    "actin": (1, 2, ["subset=axons", "num_images=16", "widths=[0, 8]"]),
}
BUILT = {"ctc": {}, "pvivax": {"fold": 0}, "em": {"shrink": 2}}  # with these options


@pytest.mark.data
@pytest.mark.parametrize("chapter", REAL)
def test_dataset_chapter_with_real_data(book_elsewhere, mirror_url, monkeypatch, chapter) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    monkeypatch.setenv("MICRANET_WORKDIR", str(book_elsewhere))
    monkeypatch.chdir(book_elsewhere)
    channels, classes, values = REAL[chapter]
    zoo.save("zoo.h5", "MICRANet", random_model(channels, classes), {})
    if chapter in BUILT:  # chapters take a dataset that is there
        shorten(training.build_dataset(chapter, "open", "small", 0, 0, **BUILT[chapter]))
    values = [*values, "source=open", f"weights={book_elsewhere / 'zoo.h5'}"]
    chapters = ["ctc", "touching"] if chapter == "ctc" else [chapter]  # which share networks
    parameters = [f"{name}:{value}" for name in chapters for value in values]
    runner.run_book(book_elsewhere, "quick", parameters, chapters)
    if chapter == "actin":  # measured on simulated images; the real ones are for looking
        run = results.load(book_elsewhere / "results" / "actin-simulated-0.json")
        assert run["parameters"]["real images"] == "axons" and "agreement, rings" in run["metrics"]
        return
    for name in chapters:
        run = results.load(book_elsewhere / "results" / f"{name}-open-0.json")
        assert run["source"] == "open" and f"subset={run['parameters']['subset']}" in values


def shorten(path: Path, number: int = 6, side: int = 320) -> None:
    """Keep squares of six images of each split, each around an object if there is one."""
    about, counts = dataset.describe(path)
    kept = {}
    for split, count in counts.items():
        wanted = {*np.linspace(0, count - 1, number, dtype=int).tolist()}
        some = enumerate(dataset.read(path, split))
        kept[split] = [square(sample, side) for i, sample in some if i in wanted]
    dataset.write(path, kept, about)


def square(sample: dataset.Sample, side: int) -> dataset.Sample:
    places = np.argwhere(sample.label.any(0))
    centre = places[len(places) // 2] if len(places) else np.zeros(2, int)
    room = np.maximum(np.array(sample.image.shape[1:]) - side, 0)
    top, left = np.clip(centre - side // 2, 0, room).tolist()
    part = np.s_[:, top : top + side, left : left + side]
    boxes = sample.boxes
    if boxes is not None:
        boxes = boxes - np.float32([0, top, left, top, left])
        boxes = boxes[((boxes[:, 1:] >= 0) & (boxes[:, 1:] <= side)).all(1)]
    return replace(sample, image=sample.image[part], label=sample.label[part], boxes=boxes)


def test_data_chapters_without_a_network(book_elsewhere: Path, monkeypatch) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", "http://127.0.0.1:9")  # where nobody answers
    values = ["download:download=true", "datasets:real=[em, mnist]"]
    tree = runner.run_book(book_elsewhere, "smoke", values, ["download", "datasets"])
    for name in ("download", "datasets"):
        assert "could not be downloaded" in printed(tree / f"{name}.ipynb")
    assert "digits from scikit-learn" in printed(tree / "download.ipynb")


def printed(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)
