"""The same measures for every method."""

import numpy as np
import pytest

from micranet_helpers.lessons.baselines.compare import f1, tally
from micranet_helpers.metrics.masks import pooled_f1


def squares(*places: tuple[int, int], planes: int = 1) -> np.ndarray:
    label = np.zeros((planes, 32, 32), np.int64)
    for number, (row, column) in enumerate(places, 1):
        label[0, row : row + 6, column : column + 6] = number
    return label


def test_pixels_and_objects_by_hand() -> None:
    true = [squares((2, 2), (20, 20)), squares((5, 5))]
    found = [squares((2, 2), (2, 20)), squares((7, 5))]  # one right, one false; 4 of 8 rows shared
    done = tally(found, true)
    assert done.pixels.tolist() == [[72, 48], [144, 72]]
    assert done.objects.tolist() == [[2, 2], [4, 2]], "an IoU of one half is enough"
    assert f1(done.objects) == pytest.approx(4 / 6)


def test_pixel_f1_is_the_pooled_one() -> None:
    rng = np.random.default_rng(0)
    found, true = (rng.random((2, 3, 2, 24, 24)) > 0.6) * 1
    assert f1(tally([*found], [*true]).pixels) == pytest.approx(pooled_f1([*found], [*true]))


def test_pieces_of_a_mask_are_objects_and_small_ones_are_none() -> None:
    true = squares((2, 2), (20, 20))
    mask = true > 0
    mask[0, 12, 12] = True
    for smallest, marks in ((1, 5), (2, 4)):
        assert tally([mask], [true], smallest).objects.tolist() == [[4], [marks]]
    touching = squares((2, 2), (2, 8))
    assert tally([touching], [touching]).objects.tolist() == [[4], [4]], "numbers tell them apart"
    assert tally([touching > 0], [touching]).objects.tolist() == [[2], [3]], "half of the union"


def test_classes_are_not_mixed() -> None:
    true = squares((2, 2), planes=2)
    assert f1(tally([true[::-1]], [true]).objects) == 0


def test_nothing_to_find_and_nothing_found_is_right() -> None:
    none = squares()
    assert f1(tally([none > 0], [none]).objects) == f1(tally([none], [none]).pixels) == 1


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(ValueError, match="in one shape"):
        tally([squares()], [squares(planes=2)])
    with pytest.raises(ValueError, match="in one shape"):
        tally([], [])
    with pytest.raises(TypeError, match="not float64: use a threshold"):
        tally([np.zeros((1, 8, 8))], [np.zeros((1, 8, 8), int)])
