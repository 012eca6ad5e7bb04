"""The picture of the results page: what labels of crops reach on each dataset, and what masks do.

    python book/images/scores.py

Draws the files of ``book/results/full/``. A test draws it again and compares.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from micranet_helpers import plots
from micranet_helpers.lessons import results

LINES = "Fluo-N2DL-HeLa", "PhC-C2DL-PSC", "Usiigaci"
ROWS = {  # dataset, metric, its ways: published, ours alone, with a U-Net; the metric with masks
    "digits (MNIST)": ("mnist", "pixel F1", ("published", "image and 4b", "")),
    "mitochondria": ("em", "pixel F1", ("published", "evidence", "self-trained")),
    "infected cells, found": ("pvivax", "F1", ("published", "evidence", "self-trained")),
    **{f"cells, {line}": ("ctc", f"{line}: pixel F1", ("published", "evidence and image",
                                                       "self-trained")) for line in LINES},
    **{f"F-actin {name}, simulated": ("actin", f"pixel F1, {name}", ("published", "in foreground",
                                                                     ""))
       for name in ("rings", "fibres")},
}  # fmt: skip
WAYS = ("published procedure", "our maps, with the image", "self-trained U-Net",
        "U-Net trained on masks or boxes")  # fmt: skip
MARKS = "osD^"


def scores(dataset: str, metric: str) -> list[float]:
    """List the values of a metric, one for each seed; none where there are no such runs."""
    return [run["metrics"][metric] for run in results.full(dataset) if metric in run["metrics"]]


def reached(dataset: str, metric: str, ways: Sequence[str]) -> list[list[float]]:
    """List the scores of each of WAYS."""
    own = [scores(dataset, f"{metric}, {way}") if way else [] for way in ways]
    return [*own, scores(f"{dataset}-masks", metric)]


def draw(path: Path) -> None:
    """Write the picture, a PNG file."""
    with plots.style():
        figure, axis = plt.subplots(figsize=(plots.WIDTH, 4.2))
        columns = zip(*(reached(*row) for row in ROWS.values()), strict=True)
        for way, column, colour, mark in zip(WAYS, columns, plots.CLASS_COLOURS[4:8], MARKS,
                                             strict=True):  # fmt: skip
            there = {place: each for place, each in enumerate(column) if each}
            means = np.array([np.mean(each) for each in there.values()])
            ends = np.array([(min(each), max(each)) for each in there.values()]).T
            axis.errorbar(means, [*there], xerr=np.abs(ends - means), fmt=mark, color=colour,
                          label=way, markersize=8)  # fmt: skip
        axis.set(yticks=range(len(ROWS)), yticklabels=ROWS, xlim=(0, 1), xlabel="F1 on test images")
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside upper center", ncols=2)
        figure.savefig(path, dpi=150)
        plt.close(figure)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
