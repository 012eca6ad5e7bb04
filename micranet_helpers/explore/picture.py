"""Paint the explorer's pictures in the colours of the book's figures.

NumPy paints: matplotlib would take longer than a slider may.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries
from torch import Tensor

from micranet_helpers.explore.session import Session
from micranet_helpers.maps import LAYERS
from micranet_helpers.plots.colours import CLASS_COLOURS, WIDTH, style
from micranet_helpers.plots.png import COLOURS, Picture, levels

LARGE, SMALL = 384, 96  # sides of the crop's picture (at least) and of a map's (at most), px


def overview(session: Session, side: int = LARGE) -> Picture:
    """Show the whole image, every n-th pixel of a large one, with a frame around the crop."""
    step = -(-max(session.raw.shape[1:]) // side)
    picture = _visible(session.raw[:, ::step, ::step])
    top, left, size = (value // step for value in session.place)
    bottom, right = top + max(size, 1) - 1, left + max(size, 1) - 1
    frame = np.zeros(picture.shape[:2], bool)
    frame[[top, bottom], left : right + 1] = frame[top : bottom + 1, [left, right]] = True
    picture[frame] = _rgb(CLASS_COLOURS[0])
    return picture


def overlay(session: Session, opacity: float) -> Picture:
    """Show the crop with its objects in the colour of the class, and their outlines.

    Opacity, 0 to 1, is that of the objects. Without a mask the combined map lies on the crop
    instead. A small crop is enlarged by repeating pixels.
    """
    picture = _visible(session.raw[:, *session.window])
    if not session.masked:
        return _enlarged(_blend(picture, COLOURS[levels(session.score)], opacity))
    labels, colour = session.labels, _rgb(CLASS_COLOURS[session.cls % len(CLASS_COLOURS)])
    inside = labels > 0
    picture[inside] = _blend(picture[inside], colour, opacity)
    picture[find_boundaries(labels, mode="inner")] = colour
    return _enlarged(picture)


def tiles(maps: Tensor) -> list[Picture]:
    """Show each map, (8, S, S) in [0, 1], by itself: levels of every n-th pixel."""
    step = -(-maps.shape[-1] // SMALL)
    return [levels(each) for each in maps[:, ::step, ::step]]


@style()
def show(session: Session, opacity: float = 0.5) -> None:
    """Draw a figure with what the explorer shows; ``opacity``, 0 to 1, is that of the objects."""
    large = [name for name in ("image", "score", "overlay") for _ in range(8)]
    small = [layer for layer in LAYERS for _ in range(3)]
    rows = [large] if session.marks else [large, small]
    _, axes = plt.subplot_mosaic(rows, figsize=(WIDTH, 3.5 if small in rows else 2.6), dpi=150,
                                 height_ratios=[8, 3][: len(rows)])  # fmt: skip
    axes["image"].imshow(overview(session))
    axes["image"].set_title("image and crop")
    for layer, picture in () if session.marks else zip(LAYERS, tiles(session.maps), strict=True):
        axes[layer].imshow(COLOURS[picture])
        axes[layer].set_title(f"✓ {layer}" if layer in session.choice.layers else layer)
    axes["score"].imshow(COLOURS[levels(session.score)])
    smoothed = "" if session.marks else f", smoothed {session.choice.sigma:g} px"
    axes["score"].set_title(f"{session.how}{smoothed}")
    axes["overlay"].imshow(overlay(session, opacity))
    axes["overlay"].set_title(summary(session).replace(": ", ":\n"))
    for axis in axes.values():
        axis.set_axis_off()


def summary(session: Session) -> str:
    """Summarise in a line what was found: class, number and area of the objects."""
    text = session.classes[session.cls]
    if not session.masked:
        return f"{text}: no threshold"
    share = session.area_px / session.labels.size
    area = f"{session.area_px:,} px ({share:.1%})"
    if session.area_um2 is not None:
        area += f", {session.area_um2:,.1f} µm²"
    return f"{text}: {session.count} object{'s' * (session.count != 1)}, {area}"


def _visible(image: NDArray[Any]) -> Picture:
    """Leave 8-bit colours as they are, and stretch all else from least to greatest value."""
    shown = image if len(image) == 3 else image[:1]
    if not (shown.dtype == np.uint8 and len(shown) == 3):
        shown = np.stack([levels(channel) for channel in shown])
    return np.ascontiguousarray(np.broadcast_to(shown, (3, *shown.shape[1:])).transpose(1, 2, 0))


def _rgb(colour: str) -> Picture:
    return (np.array(to_rgb(colour)) * 255).astype(np.uint8)


def _blend(below: Picture, above: Picture, opacity: float) -> Picture:
    return (below * np.float32(1 - opacity) + above * np.float32(opacity)).astype(np.uint8)


def _enlarged(picture: Picture) -> Picture:
    factor = -(-LARGE // len(picture))
    return picture.repeat(factor, 0).repeat(factor, 1) if len(picture) < LARGE else picture
