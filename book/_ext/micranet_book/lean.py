"""Sphinx extension: keep out of the site what no page asks for, which would be half of it.

Of MathJax the pages load one bundle, with its fonts and what its menu for screen readers reads in
English. The notebooks behind the pages' download button lose their outputs: whoever opens one runs
it.
"""

import shutil
from pathlib import Path
from typing import Any

import nbformat
from sphinx.application import Sphinx

from micranet_helpers.files.atomic import write_atomically

UNUSED = (
    "scripts/*.map", "styles/*.map", "mathjax/*-svg*.js", "mathjax/*mml*.js",
    "mathjax/tex-chtml-full*.js", "mathjax/node-main.js", "mathjax/output/svg*",
    *(f"mathjax/sre/mathmaps/{language}.json" for language in (
        "ca", "da", "de", "es", "fr", "hi", "it", "nb", "nn", "sv",
    )),
)  # fmt: skip
"""What only debuggers read, and MathJax's other bundles and the speech of other languages."""


def _leave_out(app: Sphinx, failure: Exception | None) -> None:
    if failure is not None:
        return
    for path in {path for each in UNUSED for path in Path(app.outdir, "_static").glob(each)}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for notebook in Path(app.outdir, "_sources").glob("*.ipynb"):
        _strip(notebook)


def _strip(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs, cell.execution_count = [], None
    write_atomically(path, nbformat.writes(notebook).encode())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx; ``extra_extensions`` of ``book/_config.yml`` names this module."""
    app.connect("build-finished", _leave_out, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
