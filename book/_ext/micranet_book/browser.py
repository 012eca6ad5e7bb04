"""Sphinx extension: give the page `try` what it runs in the reader's browser.

Its scripts are in ``book/_static/try/``. Here they get the runtime from npm, the networks that
ship, a picture for each, and a content policy: the page asks for nothing outside its own folder.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from docutils import nodes
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util import logging

from micranet_book import npm, steps
from micranet_helpers import zoo
from micranet_helpers.data import actin, ctc, dataset, em, mnist, pvivax
from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.networks.micranet import LAYERS
from micranet_helpers.plots.colours import CLASS_COLOURS
from micranet_helpers.zoo.export import to_onnx

PLACE = Path("_static", "try")
"""Folder of the scripts, in the pages."""

_log = logging.getLogger(__name__)


class Kind(NamedTuple):
    """Say what a network looks for, how a picture for it is drawn, and which controls suit it."""

    title: str
    draw: Callable[..., list[dataset.Sample]]
    size: int = 256  # of the picture, px
    seed: int = 3
    controls: dict[str, Any] = {}  # noqa: RUF012


KINDS = {
    "digits": Kind("handwritten digits", mnist.simulate, 128, 5, {"area": 10}),
    "cells": Kind("cells in phase contrast", partial(ctc.simulate, lines=["Usiigaci"]), 320,
                  controls={"side": 320, "sigma": 3, "area": 100}),
    "smears": Kind("malaria in blood smears", pvivax.simulate,
                   controls={"side": 256, "sigma": 2, "area": 50, "threshold": "percentile",
                             "level": 95}),
    "neuropil": Kind("mitochondria in electron micrographs", em.simulate, seed=4,
                     controls={"side": 256, "sigma": 2, "area": 100, "threshold": "percentile",
                               "level": 95}),
    "actin": Kind("F-actin of neurons, STED", actin.simulate, controls={"side": 256, "area": 20}),
}  # fmt: skip
"""Networks that ship with the package."""

DEFAULTS = {"side": 256, "scaling": "fixed", "layers": LAYERS[:7], "how": "pca", "sigma": 1,
            "threshold": "otsu", "level": 80, "area": 1, "pixel_size_um": ""}  # fmt: skip
"""Controls as the explorer begins, for a reader's own network."""


def write(target: Path, names: Iterable[str] = KINDS) -> None:
    """Write all that the page loads, and ``networks.json``, which names it."""
    steps.write(target / "steps")
    about = {
        "runtimes": _runtimes(target / "runtime"),
        "colours": [[int(255 * part) for part in to_rgb(colour)] for colour in CLASS_COLOURS],
        "defaults": DEFAULTS,
        "graphs": list(steps.STEPS),
        "networks": [_network(name, target) for name in names],
    }
    (target / "networks.json").write_text(json.dumps(about), encoding="utf-8")


def _runtimes(target: Path) -> dict[str, dict[str, Any]] | None:
    """Fetch the runtimes and return their files and sizes, MB; None if it fails."""
    try:
        for package in npm.PACKAGES:
            npm.fetch(package, target)
    except (OSError, ValueError) as error:  # the page says so, too
        _log.info("The page `try` has no runtime: %s", error)
        return None
    sizes = {kind: sum((target / name).stat().st_size for name in files) / 1e6
             for kind, files in npm.RUNTIMES.items()}  # fmt: skip
    return {kind: {"files": npm.RUNTIMES[kind], "mb": round(mb, 1)} for kind, mb in sizes.items()}


def _network(name: str, target: Path) -> dict[str, Any]:
    """Write a network and a sample; return what the page must know of them."""
    how, entry = KINDS[name], zoo.load(zoo.shipped()[name], "MICRANet")
    usage = entry.usage
    to_onnx(target / f"{name}.onnx", entry.models[0], usage.classes, maps="predicted", usage=usage)
    image = how.draw(1, how.size, seed=how.seed)[0].image
    sample = f"{name}.{'png' if image.dtype == np.uint8 else 'tif'}"
    write_picture(target / sample, image)
    known = (asdict(usage) | how.controls).items()
    return {**{key: value for key, value in known if value not in (None, ())}, "id": name,
            "name": how.title, "file": f"{name}.onnx",
            "about": f"This network ships with the package. It tells: {', '.join(usage.classes)}.",
            "sample": {"file": sample, "name": "a drawn picture"}}  # fmt: skip


def write_picture(path: Path, image: NDArray[Any]) -> None:
    """Write an image (C, H, W) as PNG (8 bit) or TIFF."""
    picture = np.moveaxis(image, 0, -1).squeeze()
    if path.suffix == ".png":
        Image.fromarray(picture).save(path)
    else:
        tifffile.imwrite(path, picture, compression="zlib")


def policy(page: str) -> str:
    """Add to the text of a page that it may load nothing but what lies beside it.

    Scripts and handlers that the theme writes into the page are allowed by their hashes.
    """
    inline = re.findall(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", page, re.DOTALL)
    handlers = re.findall(r'\son\w+="([^"]*)"', page)
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
              for text in [*inline, *handlers]}  # fmt: skip
    allowed = " ".join(f"'sha256-{digest}'" for digest in sorted(hashes))
    rules = (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; "
        f"script-src 'self' blob: 'wasm-unsafe-eval' 'unsafe-hashes' {allowed}"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{rules}">'
    return re.sub(r"(<head[^>]*>)", rf"\1\n{meta}", page, count=1)


def _name_networks(app: Sphinx, doctree: nodes.document) -> None:
    # Chapters link to [their network](try.md#network=digits), of which MyST knows no heading.
    if app.env.docname == "try":
        places = app.env.metadata["try"].setdefault("myst_slugs", {})
        places |= {f"network={name}": (0, f"network={name}", KINDS[name].title) for name in KINDS}


def _finish(app: Sphinx, error: Exception | None) -> None:
    page = Path(app.outdir, "try.html")
    if error is None and app.builder.name == "html" and page.is_file():
        write(Path(app.outdir) / PLACE)
        write_atomically(page, policy(page.read_text(encoding="utf-8")).encode())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx; ``extra_extensions`` of ``book/_config.yml`` names this module."""
    app.connect("doctree-read", _name_networks)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
