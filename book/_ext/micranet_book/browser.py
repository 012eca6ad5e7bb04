"""Sphinx extension: give the page `try` what it runs in the reader's browser.

Its scripts are in ``book/_static/try/``. Here they get the runtime from npm, the networks that the
chapters have trained, a picture for each, and a content policy: the page asks for nothing outside
its own folder.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image
from scipy.special import logit
from sphinx.application import Sphinx
from sphinx.util import logging

from micranet_book import npm, steps
from micranet_helpers import zoo
from micranet_helpers.data import actin, ctc, dataset, em, mnist, pvivax
from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.plots.colours import CLASS_COLOURS
from micranet_helpers.train import load
from micranet_helpers.zoo import Usage
from micranet_helpers.zoo.export import to_onnx

PLACE = Path("_static", "try")
"""Folder of the scripts, in the pages."""

_log = logging.getLogger(__name__)


class Kind(NamedTuple):
    """Say what a network looks for, how a picture for it is drawn, and which controls suit it."""

    title: str
    draw: Callable[..., list[dataset.Sample]]
    run: str  # folder in a chapter's runs/, a pattern; its group is the side of a crop, px
    usage: Usage  # of a network from there
    sigma: float = 1
    area: int = 20
    tile: int = 0  # px; 0: the side of a crop
    size: int = 256  # of the picture, px


KINDS = {
    "digits": Kind("handwritten digits", mnist.simulate, r"digits-(\d+)-\d+-\d+-\d+",
                   Usage([*map(str, range(10))]), area=10, size=128),
    "cells": Kind("cells in phase contrast", partial(ctc.simulate, lines=["Usiigaci"]),
                  r"ctc-simulated-\d+-\d+-(\d+)(-\d+)+-train",
                  Usage(ctc.RULE.classes, "minmax"), sigma=3, area=100, tile=320, size=320),
    "smears": Kind("malaria in blood smears", pvivax.simulate,
                   r"pvivax-simulated-\d+-\d+-(\d+)-\d+-\d+",
                   Usage(pvivax.RULE.classes, "standard"), sigma=2),
    "neuropil": Kind("mitochondria in electron micrographs", em.simulate,
                     r"em-simulated-\d+-\d+-(\d+)-\d+-\d+", Usage(em.RULE.classes)),
    "actin": Kind("F-actin of neurons, STED", actin.simulate,
                  r"actin-simulated-\d+-\d+-(\d+)-\d+-\d+", Usage(actin.RULE.classes)),
}  # fmt: skip
"""What the page offers: networks that ship, or while there are none those of the chapters."""


def write(tree: Path, target: Path) -> None:
    """Write all that the page loads, and ``networks.json``; ``tree`` is the executed book."""
    steps.write(target / "steps")
    about = {
        "runtime_mb": _runtime(target / "runtime"),
        "colours": [[int(255 * part) for part in to_rgb(colour)] for colour in CLASS_COLOURS],
        "networks": [_network(name, *found, target) for name in KINDS
                     if (found := _find(name, tree))],
    }  # fmt: skip
    (target / "networks.json").write_text(json.dumps(about), encoding="utf-8")


def _runtime(target: Path) -> dict[str, float] | None:
    """Fetch the runtime and return the size of what each kind loads, MB; None if it fails."""
    try:
        for package in npm.PACKAGES:
            npm.fetch(package, target)
    except (OSError, ValueError) as error:  # the page says so, too
        _log.info("The page `try` has no runtime: %s", error)
        return None
    return {kind: round(sum((target / name).stat().st_size for name in names) / 1e6, 1)
            for kind, names in npm.RUNTIMES.items()}  # fmt: skip


def _find(name: str, tree: Path) -> tuple[MICRANet, Usage, list[float] | None] | None:
    """Load a network that ships, or the newest one of the chapters: its use, its thresholds."""
    if ships := zoo.shipped().get(name):
        entry = zoo.load(ships, "MICRANet")
        least = entry.class_thresholds
        return entry.models[0], entry.usage, None if least is None else logit(least).tolist()
    how = KINDS[name]
    runs = [path.parent for path in tree.glob("work/*/runs/*/best.ckpt")
            if re.fullmatch(how.run, path.parent.name)]  # fmt: skip
    if zoo.shipped() or not runs:
        return None
    run = max(runs, key=lambda path: path.stat().st_mtime)
    return load(run), replace(how.usage, side=int(re.fullmatch(how.run, run.name)[1])), None


def _network(
    name: str, model: MICRANet, usage: Usage, least: list[float] | None, target: Path
) -> dict[str, Any]:
    """Write a network and a sample; return what the page must know of them."""
    how = KINDS[name]
    to_onnx(target / f"{name}.onnx", model, usage.classes, maps="predicted", usage=usage)
    image = how.draw(1, how.size, seed=3)[0].image
    sample = f"{name}.{'png' if image.dtype == np.uint8 else 'tif'}"
    write_picture(target / sample, image)
    origin = "ships with the package" if zoo.shipped() else "was trained by a chapter of this book"
    known = (asdict(usage) | {"least": least}).items()
    return {**{key: value for key, value in known if value not in (None, ())}, "id": name,
            "name": how.title, "file": f"{name}.onnx", "sigma": how.sigma, "area": how.area,
            "side": how.tile or usage.side or 256,
            "about": f"This network {origin}. It tells: {', '.join(usage.classes)}.",
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


def _finish(app: Sphinx, error: Exception | None) -> None:
    page = Path(app.outdir, "try.html")
    if error is None and app.builder.name == "html" and page.is_file():
        write(Path(app.srcdir), Path(app.outdir) / PLACE)
        write_atomically(page, policy(page.read_text(encoding="utf-8")).encode())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx; ``extra_extensions`` of ``book/_config.yml`` names this module."""
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
