"""A real Chromium, without a window; what tests with it need, too."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]


def need(tool: str) -> None:
    """Without a tool such as git the test is skipped, or fails if strict."""
    if shutil.which(tool) is None:
        leave_out(f"no {tool} here; on Debian: apt-get install {tool}")


def leave_out(reason: str) -> None:
    """Skip the test, or fail if strict."""
    (pytest.fail if os.environ.get("MICRANET_STRICT") == "1" else pytest.skip)(reason)


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start Chromium as long as the block; without it the test is skipped, or fails if strict."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        leave_out("no Chromium here; on Debian: apt-get install chromium fonts-dejavu-core")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield chromium
        chromium.close()


def pages_of(html: Path) -> list[Path]:
    """All pages of a built book but the first, which only leads to the introduction."""
    found = {path for path in html.rglob("*.html") if "_static" not in path.parts}
    return sorted(found - {html / "index.html"})


def settle(page: Any) -> None:
    """Wait for pictures and formulae."""
    # Pictures further down may be loaded only when the reader gets there.
    page.evaluate("document.querySelectorAll('img').forEach(img => img.loading = 'eager')")
    page.wait_for_function("[...document.images].every(img => img.complete)")
    page.wait_for_function("!window.MathJax?.startup || document.querySelector('.math') == "
                           "null || document.querySelector('mjx-container') != null")


def run_all_cells(page: Any) -> None:
    """Run the notebook that JupyterLab shows, by the menu, to its end."""
    idle = ".jp-Notebook-ExecutionIndicator[data-status='idle']"
    page.wait_for_selector(idle)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # the kernel has started
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_selector(idle.replace("idle", "busy"))
    # For a moment between two cells it may be idle, too.
    page.locator(".jp-InputArea-prompt", has_text="*").first.wait_for(state="detached")
    page.wait_for_selector(idle)
