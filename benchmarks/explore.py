"""How soon does the picture follow a slider? python benchmarks/explore.py [--sides 256 512] ...

Prints milliseconds, from one run and for each side of the crop, from a change in the explorer to
its pictures (packed as PNG and handed to the widget; not what the browser then does)
  for each slider, of the session, which computes only what the change needs;
  for the same change when everything is computed again: reading both files, the network, all.
Images are canvases of blurred discs and noise; the network has drawn weights, so its maps are
ragged and have many objects, which is the hard case for counting.
"""

import argparse
import datetime
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from table import report

from micranet_helpers import zoo
from micranet_helpers.explore import Session
from micranet_helpers.explore.widgets import Explorer, explore
from micranet_helpers.networks.micranet import MICRANet

# Control, and the values it takes in turn, each unlike the one before.
MOVES = {
    "threshold slider": ("level", (80.0, 90.0)),
    "Otsu, triangle": ("threshold", ("otsu", "triangle")),
    "smoothing": ("sigma", (1.0, 2.0)),
    "combination": ("how", ("mean", "pca")),
    "least area": ("area", (20, 40)),
    "split objects": ("split", (5, 10)),
    "move the crop": ("top", (0, 8)),
}


def make_files(folder: Path, side: int, classes: int) -> tuple[Path, Path]:
    """A zoo with a network of drawn weights that predicts all classes, and an image."""
    rng = np.random.default_rng(0)
    discs = gaussian_filter((rng.random((side + 8, side + 8)) > 0.998).astype(float), 4)
    image = discs / discs.max() + rng.normal(0, 0.05, discs.shape)
    tifffile.imwrite(folder / "image.tif", image.astype(np.float32))
    torch.manual_seed(0)
    model = MICRANet(1, classes).eval()
    with torch.no_grad():
        model.linear1.bias += 10
    zoo.save(folder / "zoo.hdf5", "MICRANet", model, {"size": side})
    return folder / "zoo.hdf5", folder / "image.tif"


def milliseconds(widget: Explorer, name: str, values: tuple, rounds: int, afresh: bool) -> float:
    """Median time from a new value of a control to the new picture."""
    times = []
    for value in values * (rounds + 1):
        if afresh:
            choice = widget.session.choice
            widget.session = Session(choice.zoo, choice.group, choice.image)
            widget._mapped = None
        start = time.perf_counter()
        widget.controls[name].value = value
        times.append((time.perf_counter() - start) * 1e3)
        if widget.message.value or not widget.picture.value:
            raise RuntimeError(widget.message.value)
    return statistics.median(times[len(values) :])  # the first values warm up


def main() -> None:
    """Time every control at every side, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    args = parser.parse_args()
    rows = [["change", *(f"{side}², {kind}, ms" for side in args.sides
                         for kind in ("session", "all anew"))]]  # fmt: skip
    rows += [[name] for name in MOVES]
    for side in args.sides:
        with tempfile.TemporaryDirectory() as folder:
            widget = explore(*make_files(Path(folder), side, args.classes))
            for row, (name, values) in zip(rows[1:], MOVES.values(), strict=True):
                widget.controls["threshold"].value = "otsu" if name != "level" else "percentile"
                for afresh in (False, True):
                    took = milliseconds(widget, name, values, args.rounds, afresh)
                    row.append(f"{took:.0f}")
                widget.controls["split"].value = 0
                widget.controls["top"].value = 0
    head = (
        f"{datetime.date.today()}, CPU {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}: {args.classes} predicted classes, {args.rounds} rounds, "
        "median. Asked for after the maps are computed: 100 ms at 256², 300 ms at 512²."
    )
    report(head, rows, args.save)


if __name__ == "__main__":
    main()
