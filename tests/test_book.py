"""The whole book at the profile `smoke`: executed, built with warnings as errors, opened."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import open_browser, pages_of, settle
from bs4 import BeautifulSoup
from micranet_book import browser as try_page
from micranet_book import networks, runner
from servers import serve_folder

from micranet_helpers import zoo

pytestmark = pytest.mark.slow
browser = pytest.mark.browser

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tree() -> Path:
    """The executed chapters; on a fresh machine from nothing, else what has changed."""
    return runner.run_book(ROOT, "smoke", fresh=os.environ.get("MICRANET_STRICT") == "1")


@pytest.fixture(scope="module")
def html(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the pages; those that the reader has built stay as they are."""
    return runner.build_html(tree, tmp_path_factory.mktemp("pages")).parent


@pytest.fixture(scope="module")
def address(html: Path) -> Iterator[str]:
    """A web server on this machine, with the pages."""
    with serve_folder(html) as url:
        yield f"{url}/"


def test_chapters_are_executed_without_complaint(tree: Path) -> None:
    for name, source in runner.chapters(ROOT / "book").items():
        cells = nbformat.read(tree / source.name, as_version=4).cells
        for cell in (cell for cell in cells if cell.cell_type == "code"):
            assert cell.execution_count, f"{name}: {cell.source}"
            for output in cell.outputs:
                assert output.output_type != "error", f"{name}: {cell.source}"
                complaint = output.get("text", "") if output.get("name") == "stderr" else ""
                assert "Warning" not in complaint, f"{name}: {cell.source}\n{complaint}"


def test_the_time_of_every_chapter_is_known(tree: Path) -> None:
    seconds = json.loads((tree / "status.json").read_text(encoding="utf-8"))["seconds"]
    assert list(seconds) == list(runner.chapters(ROOT / "book"))


def test_every_figure_is_followed_by_its_caption(tree: Path) -> None:
    bare = []
    for name, source in runner.chapters(ROOT / "book").items():
        cells = nbformat.read(tree / source.name, as_version=4).cells
        for cell, after in zip(cells, [*cells[1:], cells[0]], strict=True):
            drawn = any("image/png" in output.get("data", {}) for output in cell.get("outputs", ()))
            if drawn and not re.match(r"\*[^*\s]", after.source):
                bare.append(f"{name}: {cell.source}")
    assert not bare, "\n\n".join(["write a caption in italics below", *bare])


def test_networks_to_ship_are_published_from_the_chapters(tree: Path, tmp_path: Path) -> None:
    networks.make(ROOT, profile="smoke", target=tmp_path)
    for name in networks.SHIPPED:
        entry = zoo.load(tmp_path / f"{name}.hdf5", "MICRANet")
        assert len(entry.usage.levels) == len(entry.usage.classes) == entry.params["num_classes"]
        assert f"# Weights: {name}\n" in (tmp_path / f"{name}.md").read_text()


def note_refused(lost, page: str, problems: list[str]) -> None:
    """A request that failed, unless the test left the page before the answer came."""
    if lost.failure != "net::ERR_ABORTED":
        problems.append(f"{page} asks for {lost.url}")


@browser
@pytest.mark.parametrize(("name", "moved"), [("grad-cam", ["digit", "layer"]),
                                             ("quickstart", ["threshold"])])
def test_sliders_change_the_picture_without_a_kernel(address: str, name: str, moved: list) -> None:
    problems, seen = [], []
    with open_browser() as browser:
        page = browser.new_page()
        page.route(lambda url: not url.startswith(address), lambda route: route.abort())
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: said.type == "error" and problems.append(said.text))
        page.goto(f"{address}{name}.html")
        frames = page.locator("figure[data-at]").filter(visible=True)
        for key in ("Home", "ArrowRight", "End"):
            for slider in moved:
                page.get_by_role("slider", name=slider).press(key)
                assert frames.count() == 1
                seen.append((frames.locator("img").get_attribute("src"), frames.inner_text()))
    of_slider = seen[len(moved) - 1 :]  # both at the left end, then each move
    assert all(len({*column}) == len(of_slider) for column in zip(*of_slider, strict=True))
    assert not problems


@browser
def test_the_page_that_runs_networks_obeys_its_own_policy(address: str) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=120_000)
    problems = []
    with open_browser() as browser:
        page = browser.new_page()
        page.on("request", lambda sent: sent.url.startswith((address, f"blob:{address}", "data:"))
                or problems.append(sent.url))  # fmt: skip
        page.on("console", lambda said: "Content Security Policy" not in said.text
                or problems.append(said.text))  # fmt: skip
        page.goto(f"{address}try.html")
        page.get_by_role("button", name="Load the runtime").click()
        sample = page.get_by_role("button", name="a drawn picture")
        expect(sample).to_be_enabled()
        sample.click()
        expect(page.locator("#try-message")).to_contain_text("128 × 128 px.")
    assert not problems, "\n".join(problems)


NETWORKS = {f"network={name}" for name in try_page.KINDS}
"""What the address of the page `try` may say behind its `#`."""


def test_the_menu_numbers_the_chapters_in_their_order(html: Path) -> None:
    soup = BeautifulSoup((html / "intro.html").read_bytes(), "html.parser")
    entries = [entry.text.strip() for entry in soup.select(".bd-sidebar-primary a.internal")]
    numbers = [int(found[1]) for entry in entries if (found := re.match(r"(\d+)\. ", entry))]
    assert numbers == [*range(1, len(numbers) + 1)] and len(numbers) > 12
    assert "All modules" in entries  # which are no chapter


def test_every_internal_link_leads_somewhere(html: Path) -> None:
    soups = {path: BeautifulSoup(path.read_bytes(), "html.parser") for path in pages_of(html)}
    places = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in soups.items()}
    lost = []
    for path, soup in soups.items():
        for url in (urlsplit(tag["href"]) for tag in soup.find_all("a", href=True)):
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            anchors = places.get(target, {url.fragment})  # other files have no anchors
            anchors |= NETWORKS if target.name == "try.html" else set()
            if not target.is_file() or url.fragment and unquote(url.fragment) not in anchors:
                lost.append(f"{path.name}: {url.geturl()}")
        # What Sphinx does not find in the API pages it shows as plain code, without a word.
        codes = soup.select("code.xref.py")
        lost += [f"{path.name}: {code.text}" for code in codes
                 if code.find_parent("a") is None and "micranet_helpers" in code.text]
    assert not lost


KINDS = """[...document.querySelectorAll("body *")].map(
    it => [it.parentElement.className, it.tagName, it.className, it.style.cssText].join())"""


# A part that scrolls can be reached by keys.
KEYS = """[...document.querySelectorAll("pre")].every(
    it => it.scrollWidth <= it.clientWidth || it.tabIndex == 0)"""


def faults(page, seen: set[str]) -> list[str]:
    """What axe-core calls serious or critical on a page, and whether it is too wide.

    Colours come with the kinds of elements: their contrast, which takes most of the time, is
    examined where a page has a kind that none had before.
    """
    kinds = set(page.evaluate(KINDS))
    contrast = {"enabled": not kinds <= seen}
    seen |= kinds
    options = {"resultTypes": ["violations"], "preload": False,  # it asks for files of no page
               "rules": {"color-contrast": contrast}}  # fmt: skip
    found = Axe().run(page, None, options).response
    return too_wide(page) + [
        f"{page.url}, {fault['id']}: {node['html'][:200]}" for fault in found["violations"]
        if fault["impact"] in ("serious", "critical") for node in fault["nodes"]]  # fmt: skip


def faults_on_a_phone(page) -> list[str]:
    """What depends on the width, of pages that are alike, as those of the package are."""
    usual = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 844})
    found = too_wide(page)
    page.wait_for_function(KEYS)  # the theme looks again a moment after a change of width
    page.set_viewport_size(usual)
    return found


def too_wide(page) -> list[str]:
    wide = page.evaluate("document.scrollingElement.scrollWidth")
    return [f"{page.url} is {wide} pixels wide"] if wide > page.viewport_size["width"] else []


@browser
@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1280, "dark")])
def test_every_page_opens_by_itself_and_suits_readers_of_all_kinds(
    html: Path, address: str, width: int, theme: str
) -> None:
    problems: list[str] = []
    seen: set[str] = set()
    size = {"width": width, "height": 844}
    with open_browser() as browser:
        page = browser.new_page(viewport=size, bypass_csp=True)  # the page `try` lets no test wait
        page.add_init_script(f"for (const k of ['mode', 'theme']) localStorage[k] = '{theme}'")
        page.route(lambda url: not url.startswith(address), lambda route: route.abort())
        page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
        page.on("console", lambda said: said.type == "error" and problems.append(
            f"{page.url}: {said.text}"))  # fmt: skip
        page.on("response", lambda got: got.ok or problems.append(f"{got.status} {got.url}"))
        page.on("requestfailed", lambda lost: note_refused(lost, page.url, problems))
        page.goto(address)
        page.wait_for_url("**/intro.html")
        for path in pages_of(html):
            of_package = "api" in path.parts
            if of_package and width == 390:
                continue  # in the other run, beside the usual width
            reply = page.goto(address + path.relative_to(html).as_posix(), wait_until="load")
            assert reply.status == 200, path
            settle(page)
            broken = "[...document.images].filter(img => img.naturalWidth == 0).map(img => img.src)"
            problems += [f"{page.url}: no picture at {src}" for src in page.evaluate(broken)]
            assert page.get_attribute("html", "data-theme") == theme
            problems += faults(page, seen) + (faults_on_a_phone(page) if of_package else [])
    assert not problems, "\n".join(problems)


def test_the_site_is_small_and_its_notebooks_wait_to_be_run(html: Path) -> None:
    files = [path for path in html.rglob("*") if path.is_file() and "try" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 40e6
    for name in runner.chapters(ROOT / "book"):
        notebook = nbformat.read(html / "_sources" / f"{name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells), name


def test_every_page_and_every_picture_is_described(html: Path) -> None:
    for name in runner.chapters(ROOT / "book"):
        soup = BeautifulSoup((html / f"{name}.html").read_bytes(), "html.parser")
        assert len(soup.select_one("meta[name=description]")["content"]) > 40, name
        assert re.fullmatch(r"\d+ minutes? to read", soup.select_one("p.reading-time").text), name
        pictures = soup.select("article img")
        assert pictures, name
        for picture in pictures:  # without a caption below it, MyST-NB gives the name of the file
            assert " " in picture.get("alt", ""), f"{name}: {picture['src']} needs a caption"
