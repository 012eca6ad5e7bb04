"""Pictures of all pages, and of the explorer: python .ci/screenshots.py FOLDER [--readme]

After `make book`; needs Chromium and the download of Usiigaci. Writes each page of the book and the
explorer in JupyterLab, at the width of a desktop and of a phone, light and dark, to be looked at.
With --readme it writes only the pictures of README.md and of the labeller, small: python
.ci/screenshots.py book/images --readme
"""

import argparse
import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import papermill
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from browsers import open_browser, pages_of, run_all_cells, settle  # noqa: E402
from servers import serve_folder, serve_lab  # noqa: E402

from micranet_helpers.data.fetch.download import fetch  # noqa: E402

PAGES = ROOT / "book" / "_build" / "html"
TREE = ROOT / "_build" / "executed" / "quick"
WIDTHS = {"desktop": 1280, "phone": 390}
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
LABEL = {"num_images": 4, "questions": 60, "epochs": 1}  # parameters of the chapter
LIVE = "explore", "label"  # notebooks that are run for their widgets
# A real test image, and a crop, picked by hand, where what is found is right.
EXPLORE = """from micranet_helpers.explore.widgets import explore

explore("shipped:cells", "cells.png", top=734, left=470, side=128,
        layers=("3a", "3b", "4a", "4b"))
"""
EXPLORER = ".jp-OutputArea-output:has(img.widget-image)"
SECONDS = 300


def pages(browser: Any, pages: Path, folder: Path) -> None:
    """Take each page of the book, from its top to its end."""
    names = [path.relative_to(pages).with_suffix("") for path in pages_of(pages)]
    with serve_folder(pages) as url:
        for width, pixels in WIDTHS.items():
            for theme in THEMES:
                page = browser.new_page(
                    viewport={"width": pixels, "height": 900}, color_scheme=theme
                )
                for name in names:
                    page.goto(f"{url}/{name.as_posix()}.html")
                    settle(page)
                    target = folder / width / theme / name.with_suffix(".png")
                    page.screenshot(path=target, full_page=True)
                page.close()


def prepare(tree: Path, name: str, work: Path) -> None:
    """Write the explorer of an image, the chapter with the labeller, or a chapter as it ran."""
    file = work / f"{name}.ipynb"
    if name == "explore":
        [image] = (path for path in fetch("phase-cells", "small")
                   if path.parts[-2:] == ("set6", "phase.png"))  # fmt: skip
        shutil.copy(image, work / "cells.png")
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}
        nbformat.write(new_notebook(cells=[new_code_cell(EXPLORE)], metadata=kernel), file)
    elif name == "label":
        papermill.execute_notebook(ROOT / "book" / file.name, file, LABEL, prepare_only=True,
                                   progress_bar=False)  # fmt: skip
    else:
        shutil.copy(tree / file.name, work)


@contextmanager
def lab(browser: Any, tree: Path, name: str, theme: str) -> Iterator[Any]:
    """Open a notebook in JupyterLab: see :func:`prepare`."""
    with TemporaryDirectory() as place:
        work, home = Path(place, "work"), Path(place, "home")
        work.mkdir()
        prepare(tree, name, work)
        with serve_lab(work, home, THEMES[theme]) as url:
            page = browser.new_page(viewport={"width": 960, "height": 1000})
            page.set_default_timeout(SECONDS * 1000)
            page.goto(f"{url}/doc/tree/{name}.ipynb")
            page.wait_for_selector(".jp-Notebook .jp-Cell")
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
            if name in LIVE:
                run_all_cells(page)
            yield page
            page.close()


def explorers(browser: Any, tree: Path, folder: Path) -> None:
    """Take the explorer in JupyterLab."""
    for theme in THEMES:
        with lab(browser, tree, "explore", theme) as page:
            for width, pixels in WIDTHS.items():
                page.set_viewport_size({"width": pixels, "height": 2400})
                explorer(page).screenshot(path=folder / f"explorer-{width}-{theme}.png")


def explorer(page: Any) -> Any:
    """Bring the explorer to the top."""
    found = page.locator(EXPLORER)
    found.evaluate("shown => shown.scrollIntoView()")
    return found


def readme(browser: Any, pages: Path, tree: Path, folder: Path) -> None:
    """Take a chapter as a page, a chapter in JupyterLab, and the explorer."""
    with serve_folder(pages) as url:
        page = browser.new_page(viewport={"width": 1100, "height": 680})
        page.goto(f"{url}/grad-cam.html")
        settle(page)
        figure = page.locator(".cell_output img").first
        figure.evaluate("shown => shown.scrollIntoView({block: 'center', behavior: 'instant'})")
        pack(page.screenshot(), folder / "read.png", 960)
    with lab(browser, tree, "quickstart", "light") as page:
        page.set_viewport_size({"width": 1100, "height": 680})
        page.get_by_role("heading", name="Parameters").evaluate("at => at.scrollIntoView()")
        pack(page.screenshot(), folder / "run.png", 960)
    with lab(browser, tree, "explore", "light") as page:
        page.set_viewport_size({"width": 1000, "height": 1600})
        pack(explorer(page).screenshot(), folder / "explore.png", 700)
    labeller(browser, tree, folder)


def labeller(browser: Any, tree: Path, folder: Path) -> None:
    """Take the labeller in JupyterLab."""
    with lab(browser, tree, "label", "light") as page:
        page.set_viewport_size({"width": 1000, "height": 1600})
        found = page.locator(".micranet-labeller")
        found.evaluate("shown => shown.scrollIntoView()")
        # The widget shows what it knew when it was made, until something is asked of it.
        found.get_by_role("button", name="zoom out").click()
        found.get_by_text("60 answers").wait_for()
        found.get_by_role("button", name="zoom in").click()
        page.wait_for_timeout(1000)
        pack(found.screenshot(), folder / "label.png", 700)


def pack(png: bytes, path: Path, width: int) -> None:
    """Write a small picture: 256 colours, not wider than that."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((width, 10 * width), Image.Resampling.LANCZOS)
    image = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def main() -> None:
    """Take the pictures that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--readme", action="store_true", help="only the pictures of README.md")
    parser.add_argument("--pages", type=Path, default=PAGES, help="the built book")
    parser.add_argument("--tree", type=Path, default=TREE, help="the executed chapters")
    args = parser.parse_args()
    for path in (args.pages / "intro.html", args.tree / "quickstart.ipynb"):
        if not path.is_file():
            sys.exit(f"{path} is missing: run `make book` first.")
    args.folder.mkdir(parents=True, exist_ok=True)
    with open_browser() as browser:
        if args.readme:
            readme(browser, args.pages, args.tree, args.folder)
        else:
            explorers(browser, args.tree, args.folder)
            pages(browser, args.pages, args.folder)


if __name__ == "__main__":
    main()
