"""Scale the numbers of an image for the network, by an offset and a factor of each channel.

They are those of the whole image, never of a crop: a crop of background scaled by itself would
show noise as bright as cells.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SCALINGS = ("fixed", "minmax", "standard", "range")
"""What the network sees as 0 and 1: "fixed", 0 and the largest number of the integer type (floats
stay as they are); "minmax", the least and greatest value of each channel of the image;
"standard", its mean, and its mean plus its standard deviation; "range", two numbers that are the
same for all images, such as the least and greatest value of the training images."""

Scale = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Offset and factor, () or (C,): the network sees ``(image - offset) * factor``."""


def scale_of(image: NDArray[Any], how: str) -> Scale:
    """Compute the offset and factor of an image, uint8, uint16 or float (C, H, W).

    ``how`` is "fixed", "minmax" or "standard"; a constant channel becomes 0 by the last two.
    Raises ValueError for another, as "range" is no matter of one image.
    """
    if how == "fixed":
        return between(0, np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)
    if how == "minmax":
        return between(image.min((1, 2)), image.max((1, 2)))
    if how == "standard":
        return image.mean((1, 2), np.float64), _inverse(image.std((1, 2), np.float64))
    raise ValueError(f"Scale an image by 'fixed', 'minmax' or 'standard', not {how!r}.")


def between(low: ArrayLike, high: ArrayLike) -> Scale:
    """Compute the offset and factor that bring ``low`` to 0 and ``high`` to 1, () or (C,)."""
    offset = np.asarray(low, np.float64)
    return offset, _inverse(np.asarray(high, np.float64) - offset)


def _inverse(width: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / np.where(width > 0, width, 1)


def normalize(image: NDArray[Any], offset: ArrayLike, factor: ArrayLike) -> NDArray[np.float32]:
    """Compute ``(image - offset) * factor``, float32 (C, H, W); both are numbers or (C,)."""
    offset, factor = (np.asarray(value, np.float32).reshape(-1, 1, 1) for value in (offset, factor))
    return np.subtract(image, offset, dtype=np.float32) * factor
