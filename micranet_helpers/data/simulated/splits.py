"""Share simulated images out to the splits of a dataset."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from micranet_helpers.data.layout import Sample

LICENCE = "MIT"
"""Terms of what this package draws: its own."""


def share_out(num_images: int, draw: Callable[[int], Sample]) -> dict[str, Iterator[Sample]]:
    """Draw 70 % of the images for training, 15 % for validation and 15 % for testing.

    Parameters
    ----------
    num_images : int
        Images in all, at least 3.
    draw : function
        From the number of an image to the image; all are independent.

    Returns
    -------
    dict of str to iterator of Sample
        Each split draws its images when they are asked for.

    Raises
    ------
    ValueError
        If there are fewer images than splits.
    """
    if num_images < 3:
        raise ValueError(f"Three splits need at least 3 images, not {num_images}.")
    held = max(1, round(0.15 * num_images))
    ends = pairwise((0, num_images - 2 * held, num_images - held, num_images))
    return {
        split: map(draw, range(*end))
        for split, end in zip(("training", "validation", "testing"), ends, strict=True)
    }
