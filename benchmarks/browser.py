"""How fast is the page `try`? python benchmarks/browser.py [--save book/results/browser.md]

Prints seconds and milliseconds in Chromium, for a page with several workers and for one that its
server isolates, which may use threads: loading the runtime; 256² px, two classes, from the picture
to the mask; sliders, each from its move to the picture, the longest of ten; 1024² px in tiles.
"""

import argparse
import datetime
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from micranet_book import browser
from playwright.sync_api import Page, sync_playwright
from table import report

from micranet_helpers.data import ctc
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.zoo import Usage
from micranet_helpers.zoo.export import to_onnx

STATIC = Path(__file__).parents[1] / "book" / "_static" / "try"
OPTIONS = ["--no-sandbox", "--disable-gpu"]
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Embedder-Policy": "require-corp"}  # fmt: skip

# Begins to wait for the picture: ms from the next event of a kind, in `measured`.
WAIT = """kind => {
    let start = null;
    addEventListener(kind, () => start = performance.now(), {capture: true, once: true});
    const picture = document.getElementById("try-picture");
    const draw = CanvasRenderingContext2D.prototype.putImageData;
    globalThis.measured = new Promise(done =>
        CanvasRenderingContext2D.prototype.putImageData = function (...all) {
            draw.apply(this, all);
            if (this.canvas !== picture) return;
            CanvasRenderingContext2D.prototype.putImageData = draw;
            requestAnimationFrame(() => done(performance.now() - start));
        });
}"""
MOVE = """([name, value]) => {
    const slider = document.getElementById("try-form").elements[name];
    slider.value = value;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
}"""
SLIDERS = {"sigma": 0.5, "level": 5, "opacity": 0.05}
"""Sliders and their steps."""


def write_site(folder: Path) -> None:
    """Write the page without the theme around it, with a network of two classes."""
    place = folder / browser.PLACE
    shutil.copytree(STATIC, place)
    browser.write(place, [])
    torch.manual_seed(0)
    usage = Usage(["one", "two"], "minmax", side=256)
    to_onnx(place / "two.onnx", MICRANet(1, 2).eval(), usage.classes, maps="predicted", usage=usage)
    for name, side in {"1": 256, "2": 256, "large": 1024}.items():
        image = ctc.simulate(1, side, lines=["Usiigaci"])[0].image
        browser.write_picture(folder / f"{name}.tif", image)
    about = json.loads((place / "networks.json").read_text())
    about["networks"] = [{"id": "two", "name": "two", "file": "two.onnx", "least": [-1e9, -1e9],
                          "threshold": "percentile"}]  # fmt: skip
    (place / "networks.json").write_text(json.dumps(about))
    controls = (STATIC / "controls.html").read_text()
    style = '<link rel="stylesheet" href="_static/try/try.css">'
    (folder / "try.html").write_text(f"<!DOCTYPE html><html><head>{style}</head>{controls}</html>")


@contextmanager
def serve(folder: Path, headers: dict[str, str]) -> Iterator[str]:
    """Serve a folder with more headers; the address of its page `try`."""

    class Files(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/try.html"
    server.shutdown()


def seconds(work: Callable[[], Any]) -> float:
    """Measure the wall time of work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(page: Page, address: str, folder: Path) -> list[str]:
    """Measure one page: a row of the table."""
    page.set_default_timeout(300_000)
    page.goto(address)
    message = page.locator("#try-message")

    def load() -> None:
        page.get_by_role("button", name="Load the runtime").click()
        message.filter(has_text="Choose a picture").wait_for()

    def explain(name: str) -> float:
        page.evaluate(WAIT, "change")
        page.get_by_label("or your own picture").set_input_files(folder / name)
        return page.evaluate("measured") / 1000

    def move(name: str, value: float) -> float:
        page.evaluate(WAIT, "input")
        page.evaluate(MOVE, [name, value])
        return page.evaluate("measured")

    loading, first, again = seconds(load), explain("1.tif"), explain("2.tif")
    moves = [max(move(name, (count + 1) * step) for count in range(10))
             for name, step in SLIDERS.items()]  # fmt: skip
    large = explain("large.tif")
    ms = [f"{worst:.0f}" for worst in moves]
    return [f"{loading:.1f}", f"{first:.2f}", f"{again:.2f}", *ms, f"{large:.1f}"]


def main() -> None:
    """Measure both kinds of page and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    args = parser.parse_args()
    rows = [["page", "load, s", "256² first, s", "256² again, s",
             *(f"{name}, ms" for name in SLIDERS), "1024², s"]]  # fmt: skip
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        folder = Path(made)
        write_site(folder)
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=OPTIONS
        )
        for name, headers in (("several workers", {}), ("isolated, threads", ISOLATED)):
            with serve(folder, headers) as address:
                rows.append([name, *measure(chromium.new_page(), address, folder)])
        version = chromium.version
        chromium.close()
    head = (f"{datetime.date.today()}, {os.cpu_count()} cores, Chromium {version}, onnxruntime-web "
            "1.30.0: from the picture to the mask, two classes; sliders at 256².")  # fmt: skip
    report(head, rows, args.save)


if __name__ == "__main__":
    main()
