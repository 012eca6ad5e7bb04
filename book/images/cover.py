"""The picture on the first page, drawn by the trained network of the quick start.

    python book/images/cover.py _build/executed/quick/runs/digits-48px-2-20000-0

Canvases of test digits are not picked by hand: both examples have the median F1 of their kind.
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from micranet_helpers import metrics, plots, train
from micranet_helpers.data import digits
from micranet_helpers.maps import recipes
from micranet_helpers.maps.cam import grad_cam
from micranet_helpers.maps.detect import pieces
from micranet_helpers.maps.segmentation import segment
from micranet_helpers.networks.micranet import LAYERS

SMALLEST = 30  # pixels: a piece of a mask below that, a fifth of a digit, is not counted


def median_example(canvases: digits.Canvases, masks: Tensor, suited: Tensor) -> int:
    """Number of the canvas with the median pixel F1 among those that are suited."""
    truth = digits.class_masks(canvases.class_map)
    chosen = suited.nonzero().flatten().tolist() or [0]
    return sorted(chosen, key=lambda i: metrics.dice(masks[i], truth[i]))[len(chosen) // 2]


def show(axis: Axes, image: Tensor, mask: Tensor | None = None) -> None:
    """A grey canvas, with the pixels of each digit in its colour."""
    axis.imshow(image.numpy(), cmap="gray", vmin=0.08, vmax=1)  # noise would fill the file
    for cls in mask.any((1, 2)).nonzero().flatten().tolist() if mask is not None else ():
        colour = torch.tensor(to_rgba(plots.CLASS_COLOURS[cls], 0.85))
        axis.imshow((mask[cls, ..., None] * colour).numpy())


def axes_of(figure: Figure, title: str, *shape: int, **options: object) -> Any:
    """Axes without frames and ticks, below a title."""
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    axes = figure.subplots(*shape, squeeze=False, **options)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return axes


def draw_labels(figure: Figure, canvases: digits.Canvases) -> None:
    """What the network is taught: canvases, and which digits are on them."""
    [axes] = axes_of(figure, "1  Taught by labels: which digits are here?", 1, 6)
    for image, labels, axis in zip(canvases.images, canvases.labels, axes, strict=True):
        show(axis, image[0])
        axis.set_xlabel(", ".join(map(str, labels.nonzero().flatten().tolist())))


def draw_maps(figure: Figure, model: nn.Module, image: Tensor) -> None:
    """Eight maps for each predicted digit, beside the canvas."""
    cams = grad_cam(model, image[None])
    found = (cams.logits[0] > 0).nonzero().flatten().tolist()
    axes = axes_of(figure, "2  Asked where it looked: maps of eight layers", max(2, len(found)), 9)
    for cls, row in zip(found, axes, strict=False):
        show(row[0], image[0])
        row[0].set_ylabel(cls, rotation=0, ha="right", va="center")
        for axis, cam in zip(row[1:], cams.maps[0, cls], strict=True):
            axis.imshow(cam.numpy(), cmap=plots.SCORES)
    for axis, layer in zip(axes[-1, 1:], LAYERS, strict=True):
        axis.set_xlabel(layer)


def draw_masks(figure: Figure, image: Tensor, masks: Tensor) -> None:
    """Masks of a large canvas, and the number of objects of each digit."""
    title = "3  Answers that nobody drew: masks and counts"
    [[left, right, counts]] = axes_of(figure, title, 1, 3, width_ratios=(3, 3, 1))
    show(left, image[0])
    show(right, image[0], masks)
    number = [(pieces(mask, SMALLEST).max(), cls) for cls, mask in enumerate(masks)]
    for row, (count, cls) in enumerate((count, cls) for count, cls in number if count):
        place = {"y": 0.94 - 0.1 * row, "va": "center", "transform": counts.transAxes}
        counts.text(0.0, s="■", color=plots.CLASS_COLOURS[cls], **place)
        counts.text(0.3, s=f"{cls}: {count}", **place)


def draw(model: nn.Module, path: Path, side: int = 48) -> None:
    """Write the picture.

    Parameters
    ----------
    model : nn.Module
        A network trained on canvases of digits.
    path : Path
        A PNG file.
    side : int
        Side of the training canvases, pixels.
    """
    taught, _, tested = digits.split(digits.load(), 0)
    examples = digits.make_canvases(taught, 6, side, (1, 2), seed=3)
    small = digits.make_canvases(tested, 99, side, (2, 2), seed=1)
    large = digits.make_canvases(tested, 9, 4 * side, (12, 16), margin=12, seed=2)
    found = segment(model, small.images, recipes.DIGITS)
    right = ((found.probabilities > 0.5) == (small.labels > 0)).all(1)
    one = median_example(small, found.masks, right & (small.labels.sum(1) == 2))
    masks = segment(model, large.images, recipes.DIGITS, side=side).masks
    other = median_example(large, masks, torch.ones(len(masks)))
    with plt.rc_context({"font.size": 20, "axes.labelsize": 20, "figure.titlesize": 22}):
        figure = plt.figure(figsize=(10, 10.4), layout="constrained", facecolor="white")
        top, middle, bottom = figure.subfigures(3, 1, height_ratios=(2.6, 3.2, 4.7))
        draw_labels(top, examples)
        draw_maps(middle, model, small.images[one])
        draw_masks(bottom, large.images[other], masks[other])
        figure.savefig(path, dpi=100)
        plt.close(figure)
    for canvases, mask, i in ((small, found.masks[one], one), (large, masks[other], other)):
        f1 = metrics.dice(mask, digits.class_masks(canvases.class_map)[i])
        print(f"pixel F1 {f1:.2f}, number of each digit {canvases.counts[i].tolist()}")
    Image.open(path).convert("RGB").quantize(255, Image.Quantize.FASTOCTREE).save(path)


if __name__ == "__main__":
    draw(train.load(sys.argv[1]).eval(), Path(__file__).with_suffix(".png"))
