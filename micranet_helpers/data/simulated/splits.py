"""Share simulated images out to the splits of a dataset."""

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise

from micranet_helpers.data.dataset import SPLITS, Sample

LICENCE = "MIT"
"""Terms of what this package draws: its own."""


def shares(num_images: int) -> tuple[int, int, int]:
    """Count the images of each split: 70 % for training, 15 % each for validation and testing.

    Parameters
    ----------
    num_images : int
        Images in all, at least 3.

    Returns
    -------
    tuple of int
        Images for training, validation and testing, at least one each.

    Raises
    ------
    ValueError
        If there are fewer images than splits.
    """
    if num_images < 3:
        raise ValueError(f"Three splits need at least 3 images, not {num_images}.")
    held = max(1, round(0.15 * num_images))
    return num_images - 2 * held, held, held


def share_out(num_images: int, draw: Callable[[int], Sample]) -> dict[str, Iterator[Sample]]:
    """Draw the images of each split when they are asked for.

    Parameters
    ----------
    num_images : int
        Images in all, at least 3.
    draw : function
        From the number of an image to the image; all are independent.

    Returns
    -------
    dict of str to iterator of Sample
        The splits training, validation and testing; see :func:`shares`.

    Raises
    ------
    ValueError
        If there are fewer images than splits.
    """
    ends = pairwise(accumulate(shares(num_images), initial=0))
    return {split: map(draw, range(*end)) for split, end in zip(SPLITS, ends, strict=True)}
