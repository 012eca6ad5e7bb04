"""Compute bootstrap confidence intervals of F1, with images as units.

As many images as there are get drawn with replacement, again and again, and F1 of each draw is
computed (Efron 1979, doi 10.1214/aos/1176344552). Images are assumed to be independent, and
networks are not trained anew: the true uncertainty is larger.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST = 5
"""Smallest number of images that an interval is given for."""

LEVEL = 0.95
"""Share of the draws within an interval."""


def f1_interval(tally: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """Compute the 95 % interval of F1: its low and high end, from random draws of a ``seed``.

    ``tally``, float (2, N), holds for each image twice the true positives, and all that are
    predicted plus all that are true: pixels or objects. F1 is the sum of the first over the sum of
    the second. The ends are NaN where there are fewer than :data:`LEAST` images. Raises ValueError
    if the tally has another shape.
    """
    return _interval(_f1, _tally(tally), seed)


def gain_interval(tally: ArrayLike, other: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """Compute the 95 % interval of the difference of two methods' F1 (a paired bootstrap).

    Tallies, seed and ends are as for :func:`f1_interval`; both tallies are of the same images in
    the same order. Both methods are measured on the same draws of images, so that easy and hard
    images weigh alike. If the interval holds 0, these images cannot show which method is better.
    Raises ValueError if a tally has another shape, or they differ in it.
    """
    tally, other = _tally(tally), _tally(other)
    if tally.shape != other.shape:
        raise ValueError(
            f"The methods have {tally.shape[1]} and {other.shape[1]} images: give the same ones."
        )

    def gain(right, marks, other_right, other_marks, axis) -> NDArray:
        return _f1(right, marks, axis) - _f1(other_right, other_marks, axis)

    return _interval(gain, np.concatenate([tally, other]), seed)


def _interval(statistic, rows: NDArray[np.float64], seed: int) -> tuple[float, float]:
    if rows.shape[1] < LEAST:
        return float("nan"), float("nan")
    from scipy.stats import bootstrap  # takes a second to load

    options = {"paired": True, "method": "percentile", "confidence_level": LEVEL, "rng": seed}
    low, high = bootstrap(tuple(rows), statistic, **options).confidence_interval
    return float(low), float(high)


def _f1(right: NDArray, marks: NDArray, axis: int) -> NDArray:
    """Compute F1 of all images; 1 where there is nothing to find and nothing was found."""
    right, marks = right.sum(axis), marks.sum(axis)
    return np.where(marks > 0, right / np.maximum(marks, 1), 1.0)


def _tally(tally: ArrayLike) -> NDArray[np.float64]:
    tally = np.asarray(tally, np.float64)
    if tally.ndim != 2 or len(tally) != 2 or tally.shape[1] == 0:
        raise ValueError(f"A tally must have the shape (2, images), not {tally.shape}.")
    return tally
