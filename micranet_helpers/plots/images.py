"""Draw images, masks, maps and detections."""

import textwrap
from collections.abc import Sequence
from itertools import zip_longest
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
from scipy.ndimage import uniform_filter
from skimage.segmentation import find_boundaries
from torch import Tensor

from micranet_helpers.data.dataset import Sample
from micranet_helpers.maps import LAYERS, STRIDES
from micranet_helpers.maps.outlines import contours
from micranet_helpers.metrics.boxes import ignored, match_boxes
from micranet_helpers.metrics.masks import as_array
from micranet_helpers.plots.colours import (
    CLASS_COLOURS,
    SCORES,
    SIGNED,
    WIDTH,
    class_colours,
    style,
)

Pictures = Sequence[NDArray[Any]] | Tensor
"""Images (C, H, W), or planes of masks (K, H, W), of one size or of several."""


_marks = [""]  # the word of `mark`


def mark(word: str) -> None:
    """Write a word, such as "simulated", into every picture of an image that is drawn from here on.

    So the picture says what it is where it is copied without its caption; "" ends it.
    """
    _marks[:] = [word]


def _write_mark(axis: Axes) -> None:
    rim = [withStroke(linewidth=2, foreground="black")]  # shows on every grey
    if _marks[0]:
        axis.text(0.98, 0.02, _marks[0], transform=axis.transAxes, ha="right", va="bottom",
                  color="white", fontsize=7, path_effects=rim)  # fmt: skip


@style()
def show_images(
    images: Tensor,
    titles: Sequence[str] = (),
    masks: Tensor | None = None,
    columns: int = 6,
    pixel_size_um: float | None = None,
    colour_map: str = "gray",
) -> None:
    """Show images in rows, with the pixels of each class in its colour.

    Parameters
    ----------
    images : Tensor, float, (N, 1, H, W)
        Grey images, shown on one scale.
    titles : sequence of str
        A title for each image.
    masks : Tensor, bool, (N, K, H, W), optional
        Pixels of each class; the legend shows the numbers of those present.
    columns : int
        Images in a row; each takes as much room where there are fewer.
    pixel_size_um : float, optional
        Side of a pixel, µm, for a scale bar in the first image.
    colour_map : str
        Of the images; :data:`~micranet_helpers.plots.colours.SCORES` where they are scores.
    """
    scale = {"cmap": colour_map, "vmin": images.min().item(), "vmax": images.max().item()}
    figure, axes = _grid(images, titles, columns, pixel_size_um, **scale)
    if masks is not None:
        for axis, planes in zip(axes, masks, strict=True):
            _overlay(axis, planes)
        shown = masks.any((0, 2, 3)).nonzero().flatten().tolist()
        _legend_below(figure, [Patch(color=CLASS_COLOURS[cls], label=str(cls)) for cls in shown])


def _grid(
    images: Sequence[Any] | Tensor, titles: Sequence[str] = (), columns: int = 6,
    pixel_size_um: float | Sequence[float | None] | None = None, **scale: Any,
) -> tuple[Figure, NDArray[Any]]:  # fmt: skip
    """Show images in rows as wide as a page, each on its own scale by default; return the axes."""
    rows, width = -(-len(images) // columns), WIDTH / columns
    titles = ["\n".join(textwrap.fill(line, int(14 * width)) for line in title.split("\n"))
              for title in titles]  # fmt: skip
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    tallest = max(image.shape[-2] / image.shape[-1] for image in images)
    height = width * tallest + 0.15 * lines + 0.05
    # More pixels than other figures have: the reader may want to enlarge a micrograph.
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False,
                                dpi=150)  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, parse_math=False)  # names of files may hold $
    sizes = pixel_size_um if isinstance(pixel_size_um, Sequence) else [pixel_size_um]
    for axis, image, size in zip_longest(axes.flat[: len(images)], images, sizes):
        _write_mark(axis)
        _scale_bar(axis, *image.shape[-2:], size)
        # Last: it sets the limits, whatever else is near the border.
        axis.imshow(as_array(image)[0] if scale else _visible(image), **scale or {"cmap": "gray"})
    return figure, axes.flat[: len(images)]


def _legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str] = ()) -> None:
    """Set a legend below all images, in room of its own."""
    if handles:
        named = {"labels": labels} if labels else {}
        figure.set_figheight(figure.get_figheight() + 0.3)
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=11,
                               columnspacing=1.2, handlelength=1.5, **named)  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)


def _overlay(axis: Axes, masks: Tensor) -> None:
    colours = np.zeros((*masks.shape[1:], 4))
    for cls, mask in enumerate(masks.cpu().numpy()):
        colours[mask] = to_rgba(CLASS_COLOURS[cls], 0.75)
    axis.imshow(colours, interpolation="nearest")


@style()
def show_samples(
    samples: Sequence[Sample],
    titles: Sequence[str] = (),
    classes: Sequence[str] = (),
    columns: int = 6,
    pixel_size_um: float | Sequence[float | None] | None = None,
) -> None:
    """Show images in rows, each on its own scale, with outlines of their objects.

    Parameters
    ----------
    samples : sequence of Sample
        One channel is shown in grey, three in colours: 8-bit colours as they are, all else from
        the least to the greatest value of each channel. Boxes are drawn where there are some,
        else outlines of the label's planes.
    classes : sequence of str
        Names of the label's planes for the legend; without them no outline is drawn.
    titles, columns
        As for :func:`show_images`.
    pixel_size_um : float or sequence of float or None, optional
        Side of a pixel, µm, for a scale bar in the first image; or one for each image.
    """
    images, colours = [sample.image for sample in samples], class_colours(classes)
    figure, axes = _grid(images, titles, columns, pixel_size_um)
    for sample, axis in zip(samples, axes, strict=True):
        _outline(axis, sample, colours)
    named = zip(colours, classes, strict=True)
    _legend_below(figure, [Patch(color=colour, label=name) for colour, name in named])


def _visible(image: NDArray[Any] | Tensor) -> NDArray[Any]:
    pixels = as_array(image).transpose(1, 2, 0)
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return pixels
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    return (pixels - low) / np.maximum(high - low, 1e-6)


def _outline(axis: Axes, sample: Sample, colours: Sequence[str]) -> None:
    if sample.boxes is not None:
        for cls, *box in sample.boxes[sample.boxes[:, 0].argsort()[::-1]]:
            if cls < len(colours):
                _draw_boxes(axis, [box], edgecolor=colours[int(cls)], linewidth=1.2)
    elif sample.label.ndim == 3:
        for plane, colour in zip(sample.label, colours, strict=False):
            lines = np.zeros((*plane.shape, 4))
            lines[find_boundaries(plane)] = to_rgba(colour)
            axis.imshow(lines, interpolation="nearest")


def _draw_boxes(axis: Axes, boxes: ArrayLike, **look: Any) -> None:
    for top, left, bottom, right in boxes:
        place, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
        axis.add_patch(Rectangle(place, *size, fill=False, **look))


def _scale_bar(axis: Axes, height: int, width: int, pixel_size_um: float | None) -> None:
    if not pixel_size_um:
        return
    most = width * pixel_size_um / 3
    length = max(n * 10.0**k for k in range(-3, 4) for n in (1, 2, 5) if n * 10.0**k <= most)
    x, y = 0.05 * width, 0.94 * height
    # The dark rim shows on bright images, such as stained smears.
    thick, thin = ([withStroke(linewidth=width, foreground="black")] for width in (4, 2.5))
    axis.plot([x, x + length / pixel_size_um], [y, y], color="white", linewidth=2.5,
              solid_capstyle="butt", path_effects=thick)  # fmt: skip
    axis.annotate(f"{length:g} µm", (x, y), xytext=(0, 3), textcoords="offset points",
                  color="white", fontsize=8, path_effects=thin)  # fmt: skip


@style()
def show_outlines(
    images: Pictures, masks_pred: Pictures, masks_true: Pictures, titles: Sequence[str] = (),
    classes: Sequence[str] = ("prediction",), columns: int = 4, pixel_size_um: float | None = None,
) -> None:  # fmt: skip
    """Show images, as :func:`show_samples` does, with outlines of predicted and true objects.

    Masks, or object numbers (0: none), are bool or integer (K, H, W) for each image, of K
    ``classes``, which the legend names. Predictions have the colour of the class, the truth is
    dashed in black and white. The rest is as for :func:`show_images`.
    """
    figure, axes = _grid(images, titles, columns, pixel_size_um)
    colours = class_colours(classes)
    for i, axis in enumerate(axes):
        for plane, colour in zip(masks_pred[i], colours, strict=False):
            _draw_contours(axis, plane, {"color": colour, "linewidth": THIN})
        for plane in masks_true[i]:
            for dashes in DASHED:
                _draw_contours(axis, plane, dashes)
    lines = [Line2D([], [], color=colour, linewidth=THIN) for colour in colours]
    if any(plane.any() for planes in masks_true for plane in planes):
        # A tuple of lines is drawn as one, so the legend shows black under white.
        lines.append(tuple(Line2D([], [], **dashes) for dashes in DASHED))
    _legend_below(figure, lines, [*classes, "truth"][: len(lines)])


THIN = 1.2  # pt: a nucleus of 16 px, on a page, is 6 pt wide

DASHED = (
    {"color": "black", "linewidth": 0.8},
    {"color": "white", "linewidth": 0.8, "linestyle": (0, (3, 3))},
)
"""Two lines that make one, visible on every grey."""


LARGEST = 1024  # px, longest side of a picture of outlines


def on_screen(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Show an image, (C, H, W), as (H, W, 3): each channel between its percentiles 0.5 and 99.5."""
    shown = (image if len(image) == 3 else image[:1]).astype(np.float32)
    low, high = np.percentile(shown, (0.5, 99.5), axis=(1, 2), keepdims=True)
    grey = ((shown - low) / np.where(high > low, high - low, 1)).clip(0, 1) * 255
    return np.broadcast_to(grey.astype(np.uint8), (3, *grey.shape[1:])).transpose(1, 2, 0).copy()


def outlined(
    image: NDArray[Any], labels: NDArray[np.integer], colours: Sequence[Sequence[int]]
) -> NDArray[np.uint8]:
    """Draw the outlines of objects on an image, (H, W, 3); of a large one, every n-th pixel.

    ``image`` is (C, H, W), ``labels`` (K, H, W); ``colours`` are numbers up to 255 for each class.
    """
    step = -(-max(image.shape[1:]) // LARGEST)
    picture = on_screen(image[:, ::step, ::step])
    for colour, plane in zip(colours, labels[:, ::step, ::step], strict=True):
        picture[find_boundaries(plane, mode="inner")] = colour
    return picture


def _draw_contours(axis: Axes, plane: NDArray[Any] | Tensor, style: dict[str, Any]) -> None:
    found = contours(as_array(plane).astype(np.int32))
    lines = [line[:, ::-1] for _, outlines in found for line in outlines]
    axis.add_collection(LineCollection(lines, **style), autolim=False)


FOUND, FALSE, MISSED, UNCOUNTED = "#009e73", "#d55e00", "#0072b2", "#444444"
"""Colours of right, false, missed and uncounted detections."""


@style()
def show_detections(
    images: Pictures, points: Sequence[ArrayLike], boxes: Sequence[ArrayLike],
    ignore: Sequence[ArrayLike], slack: float,
) -> None:  # fmt: skip
    """Show images, three in a row, each on its own scale, with right, false and missed detections.

    For each image, ``points`` (N, 2) are found, ``boxes`` (M, 4) should be found, boxes (P, 4) of
    ``ignore`` are not counted, px: as for :func:`~micranet_helpers.metrics.boxes.match_boxes`,
    which decides, with ``slack``, what is right.
    """
    figure, axes = _grid(images, columns=3)
    for axis, *known in zip(axes, points, boxes, ignore, strict=True):
        _draw_detections(axis, *known, slack)
    handles = [
        Line2D([], [], linestyle="", **_marker("o", FOUND), label="found"),
        Line2D([], [], linestyle="", **_marker("X", FALSE), label="false"),
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=MISSED, linewidth=2, label="missed"),
    ]
    if any(np.size(each) for each in ignore):
        handles.append(Rectangle((0, 0), 1, 1, fill=False, edgecolor=UNCOUNTED, linestyle=":",
                                 linewidth=1.5, label="not counted"))  # fmt: skip
    _legend_below(figure, handles)


def _draw_detections(
    axis: Axes, points: ArrayLike, boxes: ArrayLike, ignore: ArrayLike, slack: float
) -> None:
    state, found, missed = _sorted(points, boxes, ignore, slack)
    rims = [withStroke(linewidth=3.5, foreground="white")]  # shows on dark images
    _draw_boxes(axis, found, edgecolor=FOUND, linewidth=0.8)
    _draw_boxes(axis, missed, edgecolor=MISSED, linewidth=2, path_effects=rims)
    _draw_boxes(axis, ignore, edgecolor=UNCOUNTED, linewidth=1.5, linestyle=":", path_effects=rims)
    for kind, (shape, colour) in enumerate((("o", FOUND), ("X", FALSE), (".", UNCOUNTED))):
        if (state == kind).any():
            rows, columns = np.asarray(points, float)[state == kind, :2].T
            axis.plot(columns, rows, linestyle="", **_marker(shape, colour))


def _sorted(
    points: ArrayLike, boxes: ArrayLike, ignore: ArrayLike, slack: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Sort points into found (0), false (1) and uncounted (2), boxes into found and missed."""
    pairs = match_boxes(points, boxes, ignore, slack).pairs
    state = np.where(ignored(points, boxes, ignore, slack), 2, 1)
    state[pairs[:, 0]] = 0
    boxes = np.reshape(boxes, (-1, 4))
    return state, boxes[pairs[:, 1]], np.delete(boxes, pairs[:, 1], axis=0)


def _marker(shape: str, colour: str) -> dict[str, Any]:
    return {"marker": shape, "color": colour, "markeredgecolor": "white", "markersize": 5.5}


@style()
def show_maps(
    image: Tensor, maps: Tensor, title: str = "", pixel_size_um: float | None = None
) -> None:
    """Show a grey image (1, H, W) beside its maps of all eight layers, (8, H, W), for one class.

    Each map is on its own scale, in the colours of :func:`show_score`; signed if some value is
    below 0. The title is that of the image, which has a scale bar if the side of a pixel, µm, is
    given.
    """
    places = [["image", *LAYERS[:4]], ["image", *LAYERS[4:]]]
    _, axes = plt.subplot_mosaic(
        places, figsize=(WIDTH, 2.55), dpi=150, width_ratios=[2.25, 1, 1, 1, 1]
    )
    axes["image"].imshow(image[0].cpu().numpy(), cmap="gray")
    axes["image"].set_title(title, parse_math=False)
    _write_mark(axes["image"])
    _scale_bar(axes["image"], *image.shape[-2:], pixel_size_um)
    for cam, layer, stride in zip(maps, LAYERS, STRIDES, strict=True):
        show_score(axes[layer], cam, f"{layer} (1 : {stride})", bool(maps.min() < 0))
    for axis in axes.values():
        axis.set_axis_off()


def show_score(axis: Axes, score: ArrayLike, title: str = "", signed: bool = False) -> None:
    """Show a map (H, W) of finite values in the book's colours.

    ``signed`` maps are purple below 0, white at 0, orange above; others from dark blue, low, to
    yellow, high.
    """
    values = as_array(score)
    top = np.abs(values).max()
    axis.imshow(values, **({"cmap": SIGNED, "vmin": -top, "vmax": top} if signed
                           else {"cmap": SCORES}))  # fmt: skip
    axis.set_title(title, fontsize=9, parse_math=False)


def cut_out(array: Any, row: float, column: float, side: int) -> Any:
    """Cut a square (..., side, side) out of an image, mask or label image (..., H, W), as a view.

    Row and column of its centre, px, are moved where the square would leave the image; it is
    smaller where the image is.
    """
    height, width = array.shape[-2:]
    top = int(np.clip(row - side // 2, 0, max(height - side, 0)))
    left = int(np.clip(column - side // 2, 0, max(width - side, 0)))
    return array[..., top : top + side, left : left + side]


def busiest(mask: ArrayLike, side: int) -> tuple[int, int]:
    """Find the square of an image, of ``side`` px, that a mask (H, W) fills most.

    Returns row and column of its middle, px, for :func:`show_places`.
    """
    filled = uniform_filter((as_array(mask) > 0).astype(np.float32), side, mode="constant")
    row, column = np.unravel_index(filled.argmax(), filled.shape)
    return int(row), int(column)


def show_places(
    images: Pictures, places: Sequence[Sequence[float]], side: int,
    titles: Sequence[str] = (), masks_pred: Pictures | None = None,
    masks_true: Pictures | None = None, classes: Sequence[str] = ("prediction",), columns: int = 6,
    pixel_size_um: float | None = None,
) -> None:  # fmt: skip
    """Show squares that are cut out of images, e.g. errors seen close up.

    ``places`` are row and column of the middle of each square, px, one for each of the images (C,
    H, W); ``side`` is the side of all, px. ``masks_pred`` and ``masks_true`` are outlined, if
    given; these and the rest are as for :func:`show_outlines`. Nothing is drawn without images.
    """
    if not len(images):
        return
    bare = np.zeros((0, 1, 1))
    planes = [images, *([bare] * len(images) if each is None else each
                        for each in (masks_pred, masks_true))]  # fmt: skip
    cut = [[cut_out(plane, *place, side) for plane, place in zip(group, places, strict=True)]
           for group in planes]  # fmt: skip
    show_outlines(*cut, titles, () if masks_pred is None else classes, columns, pixel_size_um)


def show_wrong_detections(
    images: Pictures, points: Sequence[ArrayLike],
    boxes: Sequence[ArrayLike], ignore: Sequence[ArrayLike], slack: float, side: int,
) -> None:  # fmt: skip
    """Show false detections and missed boxes close up, and print how many there are.

    ``side`` is the side of a picture, px; of each kind, at most six are shown. Everything else is
    as for :func:`show_detections`.
    """
    wrong: dict[str, list] = {"false": [], "missed": []}
    for image, of_image, *known in zip(images, points, boxes, ignore, strict=True):
        state, _, missed = _sorted(of_image, *known, slack)
        wrong["false"] += [(image, place[:2]) for place in np.asarray(of_image)[state == 1]]
        wrong["missed"] += [(image, place) for place in missed.reshape(-1, 2, 2).mean(1)]
    for kind, cases in wrong.items():
        print(kind, len(cases))
        shown = cases[:6]
        show_places([image for image, _ in shown], [place for _, place in shown], side,
                    [kind] * len(shown))  # fmt: skip


def label_titles(counts: Tensor) -> list[str]:
    """List the classes present, e.g. ``"3, 7"``, for each row of counts or labels (N, K)."""
    rows = torch.as_tensor(counts) > 0
    return [", ".join(map(str, row.nonzero().flatten().tolist())) or "none" for row in rows]
