"""Pack pictures of widgets as PNG files, fast rather than small."""

import io

import matplotlib as mpl
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from micranet_helpers.plots.colours import SCORES

Picture = NDArray[np.uint8]

# Colours of a map from low, dark blue, to high, yellow: uint8, (256, 3).
COLOURS = mpl.colormaps[SCORES](np.arange(256), bytes=True)[:, :3]


def png(picture: Picture) -> bytes:
    """Pack a picture, (H, W, 3 or 4), as a PNG file.

    Levels (H, W) are shown in ``COLOURS``, and packed in a tenth of the time of (H, W, 3).
    """
    data = io.BytesIO()
    image = Image.fromarray(picture)
    if picture.ndim == 2:
        image.putpalette(COLOURS.tobytes())
    image.save(data, "PNG", compress_level=1)
    return data.getvalue()


def levels(plane: ArrayLike) -> Picture:
    """Scale a plane (H, W) to levels, uint8, from 0, its lowest value, to 255, its highest."""
    plane = np.asarray(plane)
    low, high = float(plane.min()), float(plane.max())
    return ((plane - np.float32(low)) * np.float32(255 / ((high - low) or 1))).astype(np.uint8)


BLANK = png(np.zeros((1, 1, 4), np.uint8))
"""Nothing to be seen; a picture without bytes is drawn as a broken one."""
