"""The pictures on the first page: questions, evidence and outlines, a file for each network.

    python book/images/cover.py [NETWORK ...]

Draws test images of the chapters that trained the networks; their datasets are fetched or drawn
into a folder that is deleted at the end. The network for electron micrographs must not ship: it is
that of the online edition, trained in a quarter of an hour if this was not built here. No example
is picked by hand: of all test images that show an object, or squares of large ones, the one with
the median pixel F1 is shown, of an even number the lower of the two in the middle. The way to an
outline is the one of the chapter. What a picture says is stored in its PNG file, where tests
compare it with the pages, the cards of the networks and the results.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from micranet_book import networks
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from micranet_helpers import metrics, plots
from micranet_helpers.data import dataset
from micranet_helpers.data.crops import CropDataset
from micranet_helpers.label.questions import SECONDS
from micranet_helpers.maps import recipes
from micranet_helpers.plots.images import on_screen
from micranet_helpers.predict import ways

BOOK = Path(__file__).resolve().parents[1]
SIDE = 256  # px, of the squares of images of twice that or more
HEADS = "yes or no", "evidence", "found (truth dashed)"


class Row(NamedTuple):
    """Hold a question: the network and the class that answer it, and the way to an outline."""

    network: str
    cls: int
    kind: str  # of images
    question: str
    way: str  # one of ways.WAYS; "": evidence in the foreground
    profile: str = "networks"  # that trained the network: those of "networks" ship


ROWS = (
    Row("cells", 0, "Phase contrast", "a cell?", "self-trained"),
    Row("neuropil", 0, "Electron micrograph", "a mitochondrion?", "self-trained", "online"),
    Row("actin", 1, "STED of F-actin", "fibres?", ""),
    Row("smears", 0, "Blood smear", "an infected cell?", "self-trained"),
)


class Square(NamedTuple):
    """Hold a part of a test image, or all of it: colours (H, W, 3), logits, masks (H, W)."""

    picture: NDArray[np.uint8]
    evidence: NDArray[np.float32]
    found: NDArray[np.bool_]
    truth: NDArray[np.bool_]

    @property
    def f1(self) -> float:
        """F1 of its pixels."""
        return float(metrics.dice(self.found, self.truth))


def network_of(row: Row) -> str | Path:
    """Find the network of a row; one that does not ship is trained, or taken if it was."""
    if row.profile == "networks":
        return f"shipped:{row.network}"
    networks.make(BOOK.parent, [row.network], row.profile, Path.cwd())
    return Path(f"{row.network}.hdf5")


def marked(row: Row, path: Path) -> Iterator[Square]:
    """Mark all test images of a dataset as a row says."""
    zoo, k = ways.open_zoo(network_of(row)), row.cls
    for sample in dataset.read(path, "testing"):
        found = ways.find(zoo, sample.image, [way for way in ("evidence", row.way) if way])
        evidence = found["evidence"].scores  # above its level
        masks = found[row.way].masks if row.way else recipes.in_foreground().mask(
            torch.from_numpy(evidence)[None], torch.from_numpy(sample.pixels)[None])[0].numpy()
        coloured = len(sample.image) == 3  # its colours are its own
        picture = np.moveaxis(sample.image, 0, -1) if coloured else on_screen(sample.image)
        yield Square(picture, evidence[k], masks[k], sample.label[k] > 0)


def squares(image: Square, side: int) -> Iterator[Square]:
    """Cut a large image into squares; a small one is one."""
    height, width = image.truth.shape
    if min(height, width) < 2 * side:
        side = min(height, width)
    for top, left in product(range(0, height - side + 1, side), range(0, width - side + 1, side)):
        yield Square(*(part[top : top + side, left : left + side] for part in image))


def median_square(images: Sequence[Square], side: int = SIDE) -> Square:
    """Find the square of median F1 among those that show an object."""
    suited = [each for image in images for each in squares(image, side) if each.truth.any()]
    return sorted(suited, key=lambda each: each.f1)[(len(suited) - 1) // 2]


def answers(row: Row) -> int:
    """Count the answers that a network learned from: one for each class and crop."""
    known = (networks.crops_of(BOOK, row.network, split, row.profile)
             for split in ("training", "validation"))  # fmt: skip
    return sum(crops.every[1].numel() for crops in known)


def frame(axis: Axes, mark: str) -> None:
    """Take frame and ticks from an image, and mark it where it is simulated."""
    axis.set_axis_off()
    rim = [withStroke(linewidth=4, foreground="black")]
    axis.text(0.02, 0.02, mark, transform=axis.transAxes, va="bottom", fontsize=21, color="white",
              path_effects=rim)  # fmt: skip


def draw_crops(axis: Axes, crops: CropDataset, images: Sequence[Square], cls: int) -> None:
    """Draw two crops with the class and two without: those at a quarter and three of the list."""
    for word, colour, top in (("yes", plots.CLASS_COLOURS[0], 0), ("no", "white", 1)):
        some = crops.positions[crops.labels[:, cls].numpy() == (word == "yes")]
        for left, (image, y, x) in enumerate(some[len(some) * np.array((1, 3)) // 4]):
            crop = images[image].picture[y : y + crops.side, x : x + crops.side]
            axis.imshow(crop, extent=(left, left + 0.97, top + 0.97, top))
            axis.text(left + 0.05, top + 0.05, word, color=colour, va="top", weight="bold",
                      path_effects=[withStroke(linewidth=5, foreground="black")])  # fmt: skip
    axis.set(xlim=(0, 1.97), ylim=(1.97, 0))


def draw_found(axis: Axes, square: Square) -> None:
    """Outline what was found, and the truth in dashes."""
    axis.imshow(square.picture)
    for mask, colour, width, dashes in (
        (square.found, plots.CLASS_COLOURS[0], 3.5, "solid"),
        (square.truth, "black", 3, "solid"), (square.truth, "white", 2.5, (0, (3, 2))),
    ):  # fmt: skip
        if mask.any():
            axis.contour(mask, [0.5], colors=[colour], linewidths=width, linestyles=[dashes])


def measured(row: Row, path: Path, images: Sequence[Square], square: Square) -> dict[str, Any]:
    """Collect what a row says, of all test images and of the one that it shows."""
    about, _ = dataset.describe(path)
    return {
        "real": not about.source.startswith("simulated"), "source": about.source,
        "licence": about.licence, "images": len(images), "answers": answers(row),
        "pixel F1": metrics.pooled_f1([each.found for each in images],
                                      [each.truth for each in images]),
        "pixel F1, shown": square.f1,
    }  # fmt: skip


def draw_row(figure: Any, row: Row, heads: Sequence[str]) -> dict[str, Any]:
    """Draw a row, and return what it says."""
    path, _ = networks.data_of(BOOK, row.network, row.profile)
    images = list(marked(row, path))
    square = median_square(images)
    said = measured(row, path, images, square)
    word = "real" if said["real"] else "simulated"
    figure.suptitle(f"{row.kind}, {word}: {row.question}", x=0.01, ha="left", weight="bold")
    axes = figure.subplots(1, 3)
    crops = networks.crops_of(BOOK, row.network, "testing", row.profile)
    draw_crops(axes[0], crops, images, row.cls)
    axes[1].imshow(square.evidence, cmap=plots.SCORES, vmin=-5, vmax=5)
    draw_found(axes[2], square)
    for axis, head in zip(axes, heads or [""] * 3, strict=True):
        axis.set_title(head)
        frame(axis, "" if said["real"] else word)
    figure.supxlabel(f"{said['answers'] * SECONDS / 60:.0f} min of answers: pixel F1 "
                     f"{said['pixel F1']:.2f}\nin {len(images)} images, here {square.f1:.2f}",
                     x=0.01, ha="left")  # fmt: skip
    return said


def draw(row: Row, path: Path) -> None:
    """Write the picture of a row, a PNG file, with a dataset in the working directory."""
    # Read on a telephone, at a third of its size.
    looks = {"font.size": 28, "axes.titlesize": 23, "figure.titlesize": 28,
             "figure.labelsize": 26}  # fmt: skip
    with plt.rc_context(looks):
        figure = plt.figure(figsize=(10, 4.95), layout="constrained", facecolor="white")
        said = draw_row(figure, row, HEADS if row is ROWS[0] else ())
        figure.savefig(path, dpi=100)
        plt.close(figure)
    note = PngInfo()
    note.add_text("row", json.dumps(said))
    if said["real"]:
        note.add_text("Copyright", f"{said['source']}; {said['licence']}")
    picture = Image.open(path).convert("RGB").quantize(255, Image.Quantize.FASTOCTREE)
    picture.save(path, optimize=True, pnginfo=note)
    print(row.network, json.dumps(said, indent=1), flush=True)


if __name__ == "__main__":
    for row in ROWS:
        if row.network in (sys.argv[1:] or [row.network]):
            with TemporaryDirectory() as empty, chdir(empty):
                draw(row, BOOK / "images" / f"cover-{row.network}.png")
