"""The whole book at the profile `smoke`: executed, built with warnings as errors, opened."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from servers import serve_folder

from micranet_helpers import results, runner

ROOT = Path(__file__).parents[1]
SECONDS = 90  # the aim is 30 s a chapter; a busy machine may take longer
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]
# The theme loads thebe's settings twice, and widgets look for MathJax 2: no reader sees either.
HARMLESS = ("THEBE_JS_URL", "reading 'Queue'")


@pytest.fixture(scope="module")
def tree() -> Path:
    """The executed chapters."""
    return runner.run_book(ROOT, "smoke")


@pytest.fixture(scope="module")
def html(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the pages; those that the reader has built stay as they are."""
    return runner.build_html(tree, tmp_path_factory.mktemp("pages")).parent


@pytest.fixture(scope="module")
def address(html: Path) -> Iterator[str]:
    """A web server on this machine, with the pages."""
    with serve_folder(html) as url:
        yield f"{url}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium, without a window."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        message = "no Chromium here; on Debian: apt-get install chromium fonts-dejavu-core"
        (pytest.fail if os.environ.get("MICRANET_STRICT") == "1" else pytest.skip)(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=BROWSER_OPTIONS)
        yield chromium
        chromium.close()


def test_chapters_are_executed_without_complaint(tree: Path) -> None:
    for name, source in runner.chapters(ROOT / "book").items():
        cells = nbformat.read(tree / source.name, as_version=4).cells
        for cell in (cell for cell in cells if cell.cell_type == "code"):
            assert cell.execution_count, f"{name}: {cell.source}"
            for output in cell.outputs:
                assert output.output_type != "error", f"{name}: {cell.source}"
                complaint = output.get("text", "") if output.get("name") == "stderr" else ""
                assert "Warning" not in complaint, f"{name}: {cell.source}\n{complaint}"


def test_chapters_are_quick(tree: Path) -> None:
    seconds = json.loads((tree / "status.json").read_text(encoding="utf-8"))["seconds"]
    assert list(seconds) == list(runner.chapters(ROOT / "book"))
    assert max(seconds.values()) < SECONDS, seconds


@pytest.fixture
def book_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the book, beside an empty cache of data: the chapters above stay as they are."""
    monkeypatch.setenv("MICRANET_DATA", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("_build"))
    return tmp_path


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
    "pvivax": ["subset=small", "stride=96", "epochs=1", "pixel_crops=32", "pixel_epochs=1",
               "num_local=6", "local_epochs=1"],
    "em": ["subset=small", "stride=128", "epochs=1", "pixel_crops=32", "pixel_epochs=1",
           "ratios=['1:1']", "study_epochs=1"],
    "actin": ["subset=small", "num_images=16", "epochs=1", "widths=[0, 8]"],
}  # fmt: skip


@pytest.mark.parametrize("chapter", REAL)
def test_dataset_chapter_with_real_data(
    book_elsewhere: Path, mirror_url: str, monkeypatch: pytest.MonkeyPatch, chapter: str
) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    values = [f"{chapter}:{value}" for value in ("source=open", *REAL[chapter])]
    tree = runner.run_book(book_elsewhere, "quick", values, [chapter])
    run = results.load(tree / "results" / f"{chapter}-open-0.json")
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


def test_every_page_opens(html: Path, address: str, browser: Any) -> None:
    problems: list[str] = []
    page = browser.new_page()
    # Nothing but our own server: what a page loads from elsewhere is not ours to check.
    page.route(lambda url: not url.startswith(address), lambda route: route.abort())
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
    page.on("response", lambda reply: reply.ok or problems.append(f"{reply.status} {reply.url}"))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.goto(address)
    page.wait_for_url("**/intro.html")  # index.html only leads there
    pages = [path for path in html.rglob("*.html") if "_static" not in path.parts]
    for path in sorted(set(pages) - {html / "index.html"}):
        reply = page.goto(address + path.relative_to(html).as_posix(), wait_until="load")
        assert reply.status == 200, path
        # Pictures further down may be loaded only when the reader gets there.
        page.evaluate("document.querySelectorAll('img').forEach(img => img.loading = 'eager')")
        own = f"[...document.images].filter(img => img.src.startsWith('{address}'))"
        page.wait_for_function(f"{own}.every(img => img.complete)")
        broken = page.evaluate(f"{own}.filter(img => img.naturalWidth == 0).map(img => img.src)")
        problems += [f"{page.url}: no picture at {src}" for src in broken]
    page.close()
    ours = [text for text in problems if address in text and not text.endswith("/favicon.ico")]
    assert not [text for text in ours if not any(known in text for known in HARMLESS)]
