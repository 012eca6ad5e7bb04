"""Intervals of F1 over images."""

import numpy as np
import pytest

from micranet_helpers.metrics.intervals import LEAST, f1_interval, gain_interval

RNG = np.random.default_rng(0)
TALLY = np.stack([RNG.integers(0, 80, 40), RNG.integers(80, 200, 40)]).astype(float)


def test_interval_is_that_of_draws_by_hand() -> None:
    draws = np.random.default_rng(1).integers(0, 40, (20_000, 40))
    by_hand = TALLY[0][draws].sum(1) / TALLY[1][draws].sum(1)
    assert f1_interval(TALLY) == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.006)


def test_a_way_gains_nothing_over_itself() -> None:
    assert gain_interval(TALLY, TALLY) == (0, 0)


def test_pairing_sees_a_small_gain_that_single_intervals_hide() -> None:
    better = TALLY + [[2], [0]]
    low, high = gain_interval(better, TALLY)
    assert 0 < low < high
    assert f1_interval(better)[0] < f1_interval(TALLY)[1]  # these overlap


def test_nothing_to_find_and_nothing_found_is_right() -> None:
    assert f1_interval(np.zeros((2, LEAST))) == (1, 1)


def test_too_few_images_have_no_interval() -> None:
    assert np.isnan(f1_interval(TALLY[:, : LEAST - 1])).all()
    assert np.isfinite(f1_interval(TALLY[:, :LEAST])).all()


def test_the_same_seed_gives_the_same_interval() -> None:
    assert f1_interval(TALLY, 3) == f1_interval(TALLY, 3) != f1_interval(TALLY, 4)


def test_what_is_no_tally_of_the_same_images_is_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, images\), not \(3, 4\)"):
        f1_interval(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="40 and 39 images: give the same ones"):
        gain_interval(TALLY, TALLY[:, 1:])
