"""Count pixels and objects that any method finds, image by image, so that methods can be compared.

The counts give F1 of all images together and, by :mod:`micranet_helpers.metrics.intervals`, its
interval and that of the difference of two methods.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from micranet_helpers.maps.detect import pieces
from micranet_helpers.metrics.objects import match_objects, total


class Tally(NamedTuple):
    """Hold twice the true positives, and all found plus all true, of each image: int64 (2, N)."""

    pixels: NDArray[np.int64]
    objects: NDArray[np.int64]


def tally(
    found: Sequence[NDArray], true: Sequence[NDArray[np.integer]], smallest: int = 1
) -> Tally:
    """Count what is right in each image.

    ``found`` are, for each image and class, masks, whose connected pieces are its objects, or
    numbered objects, (K, H, W); ``true`` are numbered objects of the same shapes. Pieces of fewer
    than ``smallest`` pixels are no objects; their pixels count all the same. Objects are paired
    from an intersection over union of one half on. Raises TypeError if something found is neither a
    mask nor numbers, ValueError if there is no image, or found and true differ in number or shape.
    """
    shapes = [[each.shape for each in some] for some in (found, true)]
    if not shapes[0] or shapes[0] != shapes[1]:
        raise ValueError(
            f"Give each image what was found and what is true in one shape (classes, height, "
            f"width), not {shapes[0][:1]} for {len(found)} and {shapes[1][:1]} for {len(true)}."
        )
    pixels, objects = [], []
    for a, b in zip(map(np.asarray, found), map(np.asarray, true), strict=True):
        right = np.count_nonzero((a != 0) & (b != 0))
        pixels.append((2 * right, np.count_nonzero(a) + np.count_nonzero(b)))
        objects.append(_objects(a, b, smallest))
    return Tally(np.transpose(pixels), np.transpose(objects))


def f1(counts: NDArray[np.integer]) -> float:
    """Compute F1 of all images together from the pixels or objects of a :class:`Tally`, in [0, 1].

    It is 1 where there is nothing to find and nothing was found.
    """
    right, marks = counts.sum(1)
    return float(right / marks) if marks else 1.0


def _objects(found: NDArray, true: NDArray, smallest: int) -> tuple[int, int]:
    if found.dtype.kind not in "biu":
        raise TypeError(f"Give masks or numbered objects, not {found.dtype}: use a threshold.")
    if found.dtype == bool:
        found = np.stack([pieces(mask, smallest) for mask in found])
    done = total(match_objects(*planes) for planes in zip(found, true, strict=True))
    return 2 * done.tp, done.num_pred + done.num_true
