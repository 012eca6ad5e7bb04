"""The figures of the book: one visual language, colours that colour-blind readers can tell."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries
from torch import Tensor

from micranet_helpers.data.layout import Sample
from micranet_helpers.model import LAYERS, STRIDES

CLASS_COLOURS = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2",
    "#d55e00", "#cc79a7", "#999999", "#882255", "#44aa99",
)  # fmt: skip
"""Colour of each class, the same in every figure: eight of Okabe & Ito, two of Tol."""


def show_images(
    images: Tensor,
    titles: Sequence[str] = (),
    masks: Tensor | None = None,
    columns: int = 6,
) -> None:
    """Show images in rows, with the pixels of each class in its colour.

    Parameters
    ----------
    images : Tensor, float, (N, 1, H, W)
        Grey images, shown on one scale of grey.
    titles : sequence of str
        A title for each image.
    masks : Tensor, bool, (N, K, H, W), optional
        Pixels of each class; the legend shows the numbers of those present.
    columns : int
        Images in a row.
    """
    figure, axes = _grid(len(images), columns, 0.2, 0.4 * (masks is not None))
    grey = {"cmap": "gray", "vmin": images.min().item(), "vmax": images.max().item()}
    for i, (image, axis) in enumerate(zip(images, axes, strict=False)):
        axis.imshow(image[0].cpu().numpy(), **grey)
        if masks is not None:
            _overlay(axis, masks[i])
        if titles:
            axis.set_title(titles[i], fontsize=9)
    if masks is not None:
        shown = masks.any((0, 2, 3)).nonzero().flatten().tolist()
        handles = [Patch(color=CLASS_COLOURS[cls], label=str(cls)) for cls in shown]
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=10, frameon=False)


def _grid(
    count: int, columns: int, above: float, below: float = 0.0
) -> tuple[Figure, NDArray[Any]]:
    """Make a place for each image, in rows; room above each row and below all is in inches."""
    columns = min(columns, count)
    rows, width = -(-count // columns), 10 / max(columns, 3)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, (width + above) * rows + below),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes.ravel()


def _overlay(axis: Axes, masks: Tensor) -> None:
    colours = np.zeros((*masks.shape[1:], 4))
    for cls, mask in enumerate(masks.cpu().numpy()):
        colours[mask] = to_rgba(CLASS_COLOURS[cls], 0.75)
    axis.imshow(colours, interpolation="nearest")


def show_samples(
    samples: Sequence[Sample],
    titles: Sequence[str] = (),
    classes: Sequence[str] = (),
    columns: int = 6,
    pixel_size_um: float | None = None,
) -> None:
    """Show images in rows, each on its own scale, with outlines of their objects.

    Parameters
    ----------
    samples : sequence of Sample
        One channel is shown in grey, three as red, green and blue: 8-bit colours as they are, all
        else from the least to the greatest value of each channel. Boxes are drawn where there are
        some, else outlines of the label's planes.
    titles : sequence of str
        A title for each image.
    classes : sequence of str
        Names of the label's planes for the legend; without them no outline is drawn.
    columns : int
        Images in a row.
    pixel_size_um : float, optional
        Side of a pixel, µm, for a scale bar in the first image.
    """
    figure, axes = _grid(len(samples), columns, 0.25)
    for i, (sample, axis) in enumerate(zip(samples, axes, strict=False)):
        axis.imshow(_visible(sample), cmap="gray")
        if classes:
            _outline(axis, sample, len(classes))
        if titles:
            axis.set_title(titles[i], fontsize=9)
    if pixel_size_um:
        _scale_bar(axes[0], samples[0].image.shape[-1], pixel_size_um)
    colours = zip(CLASS_COLOURS, classes, strict=False)
    if handles := [Patch(color=colour, label=name) for colour, name in colours]:
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)


def _visible(sample: Sample) -> NDArray[Any]:
    pixels = sample.image.transpose(1, 2, 0)
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return pixels
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    return (pixels - low) / np.maximum(high - low, 1e-6)


def _outline(axis: Axes, sample: Sample, count: int) -> None:
    if sample.boxes is not None:
        for cls, top, left, bottom, right in sample.boxes[sample.boxes[:, 0] < count]:
            place, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
            colour = CLASS_COLOURS[int(cls)]
            axis.add_patch(Rectangle(place, *size, fill=False, edgecolor=colour, linewidth=1.2))
    elif sample.label.ndim == 3:
        for plane, colour in zip(sample.label[:count], CLASS_COLOURS, strict=False):
            lines = np.zeros((*plane.shape, 4))
            lines[find_boundaries(plane)] = to_rgba(colour)
            axis.imshow(lines, interpolation="nearest")


def _scale_bar(axis: Axes, width: int, pixel_size_um: float) -> None:
    most = width * pixel_size_um / 3
    length = max(n * 10.0**k for k in range(-3, 4) for n in (1, 2, 5) if n * 10.0**k <= most)
    y = axis.get_ylim()[0] * 0.94
    x = np.array([0.05 * width, 0.05 * width + length / pixel_size_um])
    axis.plot(x, [y, y], color="white", linewidth=3)
    axis.text(x.mean(), y * 0.97, f"{length:g} µm", color="white", ha="center", fontsize=8)


def show_maps(image: Tensor, maps: Tensor, title: str = "") -> None:
    """Show an image beside its maps of all eight layers.

    Parameters
    ----------
    image : Tensor, float, (1, H, W)
        A grey image.
    maps : Tensor, float, (8, H, W)
        Its maps for one class; dark blue is low, yellow is high.
    title : str
        Title of the image.
    """
    _, axes = plt.subplots(1, 9, figsize=(12, 1.8), layout="constrained")
    axes[0].imshow(image[0].cpu().numpy(), cmap="gray")
    axes[0].set_title(title, fontsize=9)
    for axis, cam, layer, stride in zip(axes[1:], maps, LAYERS, STRIDES, strict=True):
        axis.imshow(cam.cpu().numpy(), cmap="cividis")
        axis.set_title(f"{layer} (1 : {stride})", fontsize=9)
    for axis in axes:
        axis.set_axis_off()


def plot_history(histories: dict[str, dict[str, list[float]]]) -> None:
    """Plot the losses and the share of right labels of some runs over their epochs.

    Parameters
    ----------
    histories : dict
        Name of each run and what :func:`~micranet_helpers.train.history` says of it.
    """
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for (name, history), colour in zip(histories.items(), CLASS_COLOURS[4:] * 2, strict=False):
        epochs = history["epoch"]
        left.plot(epochs, history["loss"], "--o", color=colour, label=f"{name}, training")
        left.plot(epochs, history["val_loss"], "-o", color=colour, label=f"{name}, validation")
        right.plot(epochs, np.array(history["val_accuracy"]) * 100, "-o", color=colour, label=name)
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    right.set(xlabel="epoch", ylabel="validation labels right, %")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(frameon=False, fontsize=8, handlelength=3.5)


def label_titles(counts: Tensor) -> list[str]:
    """Titles that list the classes present: ``"3, 7"`` for a row of counts or labels (N, K)."""
    rows = torch.as_tensor(counts) > 0
    return [", ".join(map(str, row.nonzero().flatten().tolist())) or "none" for row in rows]
