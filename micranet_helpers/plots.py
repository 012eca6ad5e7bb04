"""The figures of the book: one visual language, colours that colour-blind readers can tell."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import find_objects
from skimage.measure import find_contours
from skimage.segmentation import find_boundaries
from torch import Tensor

from micranet_helpers.data.layout import Sample
from micranet_helpers.detect import ignored, match_boxes
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
        axis.imshow(_visible(sample.image), cmap="gray")
        if classes:
            _outline(axis, sample, len(classes))
        if titles:
            axis.set_title(titles[i], fontsize=9)
    if pixel_size_um:
        _scale_bar(axes[0], samples[0].image.shape[-1], pixel_size_um)
    colours = zip(CLASS_COLOURS, classes, strict=False)
    if handles := [Patch(color=colour, label=name) for colour, name in colours]:
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)


def _visible(image: NDArray[Any] | Tensor) -> NDArray[Any]:
    pixels = np.asarray(image.cpu() if isinstance(image, Tensor) else image).transpose(1, 2, 0)
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
    # The dark rim shows on bright images, such as stained smears.
    thick, thin = ([withStroke(linewidth=width, foreground="black")] for width in (4.5, 2.5))
    axis.plot(x, [y, y], color="white", linewidth=3, solid_capstyle="butt", path_effects=thick)
    axis.annotate(
        f"{length:g} µm", (x.mean(), y), xytext=(0, 4), textcoords="offset points",
        color="white", ha="center", fontsize=8, path_effects=thin,
    )  # fmt: skip


def show_outlines(
    images: Sequence[NDArray[Any]] | Tensor,
    masks_pred: Sequence[NDArray[Any]] | Tensor,
    masks_true: Sequence[NDArray[Any]] | Tensor,
    titles: Sequence[str] = (),
    classes: Sequence[str] = ("prediction",),
    columns: int = 4,
    pixel_size_um: float | None = None,
) -> None:
    """Show images in rows, with the outlines of predicted and true objects.

    Parameters
    ----------
    images : sequence of ndarray or Tensor, (C, H, W)
        Shown as by :func:`show_samples`: one channel in grey, three in colours.
    masks_pred, masks_true : sequence of ndarray or Tensor, bool or integer, (K, H, W)
        Masks, or object numbers (0: none), for each image and class. Predictions are drawn in the
        colour of the class, the truth of all classes is dashed in black and white.
    titles : sequence of str
        A title for each image.
    classes : sequence of str
        Names of the K classes for the legend.
    columns : int
        Images in a row.
    pixel_size_um : float, optional
        Side of a pixel, µm, for a scale bar in the first image.
    """
    figure, axes = _grid(len(images), columns, 0.25, 0.4)
    for i, (image, axis) in enumerate(zip(images, axes, strict=False)):
        axis.imshow(_visible(image), cmap="gray")
        if titles:
            axis.set_title(titles[i], fontsize=9)
        for plane, colour in zip(masks_pred[i], CLASS_COLOURS, strict=False):
            _draw_contours(axis, plane, {"color": colour, "linewidth": 2.4})
        for plane in masks_true[i]:
            for style in DASHED:
                _draw_contours(axis, plane, style)
    if pixel_size_um:
        _scale_bar(axes[0], images[0].shape[-1], pixel_size_um)
    lines = [Line2D([], [], color=colour, linewidth=2.4)
             for _, colour in zip(classes, CLASS_COLOURS, strict=False)]  # fmt: skip
    truth = tuple(Line2D([], [], **style) for style in DASHED)
    # A tuple of lines is drawn as one, so the legend shows black under white.
    figure.legend([*lines, truth], [*classes, "annotation"], loc="outside lower center", ncols=6,
                  frameon=False)  # fmt: skip


DASHED = (
    {"color": "black", "linewidth": 1.2},
    {"color": "white", "linewidth": 1.2, "linestyle": (0, (3, 3))},
)
"""Two lines that make one, visible on every grey."""


def _draw_contours(axis: Axes, plane: NDArray[Any] | Tensor, style: dict[str, Any]) -> None:
    """Draw the outline of each object, also where it touches another or the border."""
    labels = np.asarray(plane.cpu() if isinstance(plane, Tensor) else plane).astype(np.int32)
    lines = []
    for number, place in enumerate(find_objects(labels), 1):
        if place:
            corner = place[1].start - 1, place[0].start - 1
            inside = np.pad(labels[place] == number, 1)
            lines += [line[:, ::-1] + corner for line in find_contours(inside, 0.5)]
    style = {f"{key}s": value for key, value in style.items()}
    axis.add_collection(LineCollection(lines, **style), autolim=False)


FOUND, FALSE, MISSED, UNCOUNTED = "#009e73", "#d55e00", "#0072b2", "#444444"
"""Colours of right detections, false ones, missed objects and what is not counted."""


def show_detections(
    images: Sequence[NDArray[Any]] | Tensor,
    points: Sequence[ArrayLike],
    boxes: Sequence[ArrayLike],
    titles: Sequence[str] = (),
    ignore: Sequence[ArrayLike] | None = None,
    slack: float = 0,
    columns: int = 3,
    pixel_size_um: float | None = None,
) -> None:
    """Show images in rows, with right and false detections and what was missed.

    Parameters
    ----------
    images : sequence of ndarray or Tensor, (C, H, W)
        Shown as by :func:`show_samples`.
    points : sequence of array-like, float, (N, 2) or more columns
        Row and column, px, of what was found in each image.
    boxes : sequence of array-like, float, (M, 4)
        Top, left, bottom, right, px, of what should be found.
    titles : sequence of str
        A title for each image.
    ignore : sequence of array-like, float, (P, 4), optional
        Boxes that count neither way.
    slack : float
        As in :func:`~micranet_helpers.detect.match_boxes`, which tells right from false.
    columns : int
        Images in a row.
    pixel_size_um : float, optional
        Side of a pixel, µm, for a scale bar in the first image.

    Raises
    ------
    ValueError
        If points or boxes have a wrong shape.
    """
    ignore = [()] * len(images) if ignore is None else ignore
    figure, axes = _grid(len(images), columns, 0.25, 0.4)
    for i, (image, axis) in enumerate(zip(images, axes, strict=False)):
        axis.imshow(_visible(image), cmap="gray")
        if titles:
            axis.set_title(titles[i], fontsize=9)
        _draw_detections(axis, points[i], boxes[i], ignore[i], slack)
    if pixel_size_um:
        _scale_bar(axes[0], images[0].shape[-1], pixel_size_um)
    handles = [
        Line2D([], [], linestyle="", **_marker("o", FOUND), label="found"),
        Line2D([], [], linestyle="", **_marker("X", FALSE), label="false"),
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=MISSED, linewidth=2, label="missed"),
    ]
    if any(np.size(each) for each in ignore):
        handles.append(Rectangle((0, 0), 1, 1, fill=False, edgecolor=UNCOUNTED, linestyle=":",
                                 linewidth=1.5, label="not counted"))  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def _draw_detections(
    axis: Axes, points: ArrayLike, boxes: ArrayLike, ignore: ArrayLike, slack: float
) -> None:
    pairs = match_boxes(points, boxes, ignore, slack).pairs
    state = np.where(ignored(points, boxes, ignore, slack), 2, 1)
    state[pairs[:, 0]] = 0
    missed = np.delete(np.reshape(boxes, (-1, 4)), pairs[:, 1], axis=0)
    found = np.reshape(boxes, (-1, 4))[pairs[:, 1]]
    rim = withStroke(linewidth=3.5, foreground="white")  # shows on dark images
    for group, style in (
        (found, {"edgecolor": FOUND, "linewidth": 0.8}),
        (missed, {"edgecolor": MISSED, "linewidth": 2, "path_effects": [rim]}),
        (np.reshape(ignore, (-1, 4)),
         {"edgecolor": UNCOUNTED, "linewidth": 1.5, "linestyle": ":", "path_effects": [rim]}),
    ):  # fmt: skip
        for top, left, bottom, right in group:
            place, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
            axis.add_patch(Rectangle(place, *size, fill=False, **style))
    for kind, (shape, colour) in enumerate((("o", FOUND), ("X", FALSE), (".", UNCOUNTED))):
        if (state == kind).any():
            rows, columns = np.asarray(points, float)[state == kind, :2].T
            axis.plot(columns, rows, linestyle="", **_marker(shape, colour))


def _marker(shape: str, colour: str) -> dict[str, Any]:
    return {"marker": shape, "color": colour, "markeredgecolor": "white", "markersize": 7}


def plot_precision_recall(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    points: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Plot precision over recall, and the thresholds that were chosen.

    Parameters
    ----------
    curves : mapping of str to (recall, precision)
        Name of each curve and its values, each array-like (T,), in the order of falling
        thresholds, as of :func:`~micranet_helpers.detect.precision_recall`.
    points : mapping of str to (recall, precision), optional
        What the chosen threshold of a curve gives, under the curve's name.
    """
    figure, axis = plt.subplots(figsize=(5, 4.4), layout="constrained")
    styles = [(colour, line) for line in ("-", "--") for colour in CLASS_COLOURS[4:]]
    for (name, (recall, precision)), (colour, line) in zip(curves.items(), styles, strict=False):
        axis.plot(recall, precision, line, color=colour, label=name)
        if points and name in points:
            axis.plot(*points[name], marker="o", color=colour, markeredgecolor="black")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.03), ylim=(0, 1.03))
    if points:
        axis.plot([], [], "o", color="white", markeredgecolor="black", label="chosen threshold")
    figure.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=2)


def plot_bland_altman(measured: ArrayLike, true: ArrayLike, unit: str) -> None:
    """Plot differences of two measurements over their mean (Bland–Altman plot).

    The lines show the mean difference and the 95 % limits of agreement, mean ± 1.96 standard
    deviations; the legend states them.

    Parameters
    ----------
    measured, true : array-like, float, (N,)
        What was measured and what it should be, of at least two objects or images.
    unit : str
        Their unit.

    Raises
    ------
    ValueError
        If the values are not finite, not as many, or less than two.

    References
    ----------
    Bland & Altman 1986, Lancet 327, 307–310, doi 10.1016/S0140-6736(86)90837-8.
    """
    measured, true = _pair(measured, true, least=2)
    difference = measured - true
    mean, width = difference.mean(), 1.96 * difference.std(ddof=1)
    figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
    axis.plot((measured + true) / 2, difference, "o", color=CLASS_COLOURS[4], alpha=0.6)
    axis.axhline(mean, color="black", label=f"mean difference: {mean:.3g} {unit}")
    limits = f"95 % limits of agreement: {mean - width:.3g} to {mean + width:.3g} {unit}"
    for limit, label in ((mean - width, limits), (mean + width, None)):
        axis.axhline(limit, color="black", linestyle="--", label=label)
    axis.set(xlabel=f"mean of measured and true, {unit}", ylabel=f"measured − true, {unit}")
    figure.legend(loc="outside upper center", frameon=False, fontsize=8)


def plot_counts(predicted: ArrayLike, true: ArrayLike) -> None:
    """Plot predicted over true numbers of objects; a dot of more images is larger.

    Parameters
    ----------
    predicted, true : array-like, (N,)
        Number of objects in each image.

    Raises
    ------
    ValueError
        If the values are not finite, not as many, or there are none.
    """
    predicted, true = _pair(predicted, true, least=1)
    places, images = np.unique(np.c_[true, predicted], axis=0, return_counts=True)
    figure, axis = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
    highest = places.max() + 1
    axis.plot([0, highest], [0, highest], "--", color="grey", label="equal", zorder=0)
    area = np.maximum(30 * images * min(1, 10 / images.max()), 6)
    axis.scatter(*places.T, area, color=CLASS_COLOURS[4], alpha=0.7, label="images")
    axis.set(xlabel="true number", ylabel="predicted number", aspect="equal")
    for side in (axis.xaxis, axis.yaxis):
        side.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=2)


def _pair(first: ArrayLike, second: ArrayLike, least: int) -> tuple[NDArray[np.float64], ...]:
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.ndim != 1 or first.shape != second.shape or len(first) < least:
        raise ValueError(
            f"Give two lists of as many numbers, at least {least}, not {first.shape} and "
            f"{second.shape}."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("Some numbers are NaN or infinite: leave these out of both lists.")
    return first, second


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


def cut_out(array: Any, row: float, column: float, side: int) -> Any:
    """Cut a square out of an image, to show something from near.

    Parameters
    ----------
    array : ndarray or Tensor, (..., H, W)
        Image, mask or label image.
    row, column : float
        Middle of the square, px. It is moved where the square would leave the image.
    side : int
        Side of the square, px.

    Returns
    -------
    ndarray or Tensor, (..., side, side)
        A view; smaller where the image is.
    """
    height, width = array.shape[-2:]
    top = int(np.clip(row - side // 2, 0, max(height - side, 0)))
    left = int(np.clip(column - side // 2, 0, max(width - side, 0)))
    return array[..., top : top + side, left : left + side]


def label_titles(counts: Tensor) -> list[str]:
    """Titles that list the classes present: ``"3, 7"`` for a row of counts or labels (N, K)."""
    rows = torch.as_tensor(counts) > 0
    return [", ".join(map(str, row.nonzero().flatten().tolist())) or "none" for row in rows]
