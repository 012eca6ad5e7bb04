"""Math and widgets on pages that can reach nothing but their own server."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import nbformat
import pytest
import yaml
from browsers import need, open_browser
from micranet_book import offline, runner
from servers import serve_folder

CONFIG = yaml.safe_load((Path(__file__).parents[1] / "book" / "_config.yml").read_text())
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def write_book(tree: Path) -> None:
    """A book of one page, with a formula and with a slider that was saved while it showed 7."""
    slider = ipywidgets.IntSlider(value=7, description="layer")
    state = ipywidgets.Widget.get_manager_state(widgets=[slider, slider.layout, slider.style])
    view = {WIDGET: {"model_id": slider.model_id, "version_major": 2, "version_minor": 0}}
    output = nbformat.v4.new_output("display_data", data=view)
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\n$$E_c = b_c + \\sum_k w_{ck} A^k$$"),
        nbformat.v4.new_code_cell("slider", execution_count=1, outputs=[output]),
    ]
    metadata = {"language_info": {"name": "python"}, "widgets": {STATE: state}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(notebook, tree / "intro.ipynb")
    (tree / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    names = [name for name in CONFIG["sphinx"]["extra_extensions"] if "offline" in name]
    config = {"title": "T", "only_build_toc_files": True, "sphinx": {"extra_extensions": names}}
    (tree / "_config.yml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need("npm")
    tree, output = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("pages")
    write_book(tree)
    index = runner.build_html(tree, output)
    with serve_folder(index.parent) as url:
        yield url


def test_math_and_widgets_without_a_network(address: str) -> None:
    asked = []
    with open_browser() as browser:
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.route(lambda url: not url.startswith(address), lambda route: route.abort())
        page.goto(f"{address}/intro.html")
        page.wait_for_selector("mjx-container mjx-c")
        page.wait_for_selector(".widget-slider .noUi-handle")
        assert page.inner_text(".widget-readout") == "7"
        page.wait_for_function("document.fonts.status == 'loaded'")
        loaded = page.evaluate("[...document.fonts].filter(f => f.status == 'loaded').length")
        licences = f"{address}/@jupyter-widgets/html-manager/dist/embed.js.LICENSE.txt"
        assert page.request.get(licences).ok
    assert loaded > 0
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not outside
    assert any(url.endswith(".woff") for url in asked), "MathJax has its own fonts"


def test_without_npm_the_web_is_used_and_one_line_says_so(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    app, config = SimpleNamespace(doctreedir=tmp_path), SimpleNamespace()
    with caplog.at_level("INFO"):
        offline._serve(app, config)
    assert not vars(config)  # MyST-NB's own addresses stay
    [line] = caplog.messages
    assert line.startswith("Widgets need a network") and line.endswith("as npm is not installed.")


def test_a_changed_package_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(command: list[str], cwd: Path, **_: object) -> None:
        (cwd / "requirejs-2.3.8.tgz").write_bytes(b"something else")

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", pack)
    with pytest.raises(ValueError, match="requirejs@2.3.8 is not the one that the book was tested"):
        offline.fetch_scripts(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", [subprocess.CalledProcessError(1, "npm"),
                                   subprocess.TimeoutExpired("npm", 1), None])
def test_npm_without_a_network(tmp_path: Path, monkeypatch, fault: Exception | None) -> None:
    def pack(*_: object, **__: object) -> None:
        if fault:
            raise fault

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", pack)
    with pytest.raises(OSError, match="npm could not get requirejs@2.3.8"):
        offline.fetch_scripts(tmp_path)
