"""Sphinx extension: give the page `try` what it runs in the reader's browser.

Its scripts are in ``book/_static/try/``. Here they get the runtime from npm, the networks that the
chapters have trained, a picture for each, and a content policy: the page asks for nothing outside
its own folder.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import tifffile
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util import logging

from micranet_book import npm
from micranet_helpers.data import actin, ctc, dataset, digits, pvivax
from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.plots.colours import CLASS_COLOURS, SCORES
from micranet_helpers.train import load
from micranet_helpers.zoo.export import to_onnx

PLACE = Path("_static", "try")
"""Folder of the scripts, in the pages."""

_log = logging.getLogger(__name__)


class Kind(NamedTuple):
    """Say how the networks of a chapter are found in ``runs/`` and used."""

    name: str
    run: str  # name of the folder, a pattern; its group is the side of a crop, px
    classes: Sequence[str]
    scaling: str
    which: str = "best"
    sigma: float = 1
    area: int = 1
    tile: int = 0  # px; 0: the side of a crop


KINDS = {
    "digits": Kind("handwritten digits", r"digits-(\d+)-\d+-\d+-\d+", [*map(str, range(10))],
                   "fixed", area=10),
    "ctc": Kind("cells of three lines, simulated", r"ctc-simulated-\d+-\d+-(\d+)(-\d+)+-train",
                ctc.RULE.classes, "minmax", sigma=3, area=100, tile=320),
    "pvivax": Kind("blood smears, simulated", r"pvivax-simulated-\d+-\d+-(\d+)-\d+-\d+",
                   pvivax.RULE.classes, "standard", sigma=2, area=20),
    "actin": Kind("F-actin, simulated", r"actin-simulated-\d+-\d+-(\d+)-\d+-\d+",
                  actin.RULE.classes, "fixed", "last", area=20),
}  # fmt: skip
"""Networks that are offered, by the chapter that trains them."""


def write(tree: Path, target: Path) -> None:
    """Write runtime, networks, samples and ``networks.json``; ``tree`` is the executed book."""
    networks = [about for kind in KINDS if (about := _network(kind, tree, target))]
    colours = {
        "map": mpl.colormaps[SCORES](np.arange(256), bytes=True)[:, :3].tolist(),
        "classes": [[int(255 * part) for part in to_rgb(colour)] for colour in CLASS_COLOURS],
    }
    text = json.dumps({"runtime_mb": _runtime(target), "colours": colours, "networks": networks})
    (target / "networks.json").write_text(text, encoding="utf-8")


def _runtime(target: Path) -> float | None:
    """Fetch the runtime and return the size of what is always loaded, MB; None if it fails."""
    try:
        for package in npm.RUNTIME:
            npm.fetch(package, target / "runtime")
    except (OSError, ValueError) as error:  # the page says so, too
        _log.info("The page `try` has no runtime: %s", error)
        return None
    loaded = npm.RUNTIME[0].files
    return round(sum((target / "runtime" / name).stat().st_size for name in loaded) / 1e6, 1)


def _network(kind: str, tree: Path, target: Path) -> dict[str, Any] | None:
    """Write the newest network of a kind and a sample; return what the page must know of them."""
    how = KINDS[kind]
    runs = [path for path in tree.glob("work/*/runs/*") if re.fullmatch(how.run, path.name)
            and (path / f"{how.which}.ckpt").is_file()]  # fmt: skip
    if not runs:
        return None
    run = max(runs, key=lambda path: path.stat().st_mtime)
    graph = target / f"{kind}.onnx"
    to_onnx(graph, load(run, how.which), how.classes, maps=True)
    without_evidence(graph)
    image, pixel_size, name = _sample(kind, tree)
    file = f"{kind}.png" if image.dtype == np.uint8 else f"{kind}.tif"
    write_picture(target / file, image)
    side = int(re.fullmatch(how.run, run.name)[1])
    return {"name": how.name, "file": f"{kind}.onnx", "classes": list(how.classes),
            "side": how.tile or side, "scaling": how.scaling, "sigma": how.sigma, "area": how.area,
            "pixel_size_um": pixel_size, "sample": {"file": file, "name": name}}  # fmt: skip


def without_evidence(path: Path) -> None:
    """Leave out what only the evidence needs, which the page does not show: half of the time."""
    import onnx

    graph = onnx.utils.Extractor(onnx.load(path)).extract_model(["image"], ["logits", "maps"])
    onnx.save(graph, path)


def _sample(kind: str, tree: Path) -> tuple[NDArray[Any], float | None, str]:
    """Find or draw a picture (C, H, W) that the network has not seen: pixels, µm, name."""
    if kind == "digits":
        *_, test = digits.split(digits.load(), 0)
        canvas = digits.make_canvases(test, 1, 128, num_digits=(8, 8), seed=3)
        return (canvas.images[0].numpy() * 255).round().astype(np.uint8), None, "a canvas"
    drawn = tree.glob(f"work/*/data/{kind}-simulated-*.h5")
    path = max(drawn, key=lambda file: file.stat().st_mtime)
    about, _ = dataset.describe(path)
    sample = next(dataset.read(path, "testing"))
    return sample.image, about.pixel_size_um, f"simulated: {sample.name}"


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
