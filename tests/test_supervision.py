"""Degraded supervision: by distances counted out, by boxes drawn by hand; nothing swallowed."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from skimage.morphology import disk

from micranet_helpers.baselines.supervision import LEVELS, degrade

ALT = {"ALT2": 2, "ALT5": 5, "ALT10": 10}
NUMBERS = (1, 2, 7, 200)
each_distance = pytest.mark.parametrize(("level", "distance"), ALT.items(), ids=list(ALT))
both_directions = pytest.mark.parametrize("direction", ["grow", "shrink"])


@st.composite
def labels(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Blocks that may touch, overlap, be cut by the border or come in parts, with pixels out."""
    height, width = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    label = np.zeros((height, width), np.uint8)
    for number in draw(st.lists(st.sampled_from((0, *NUMBERS)), max_size=8)):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        bottom, right = draw(st.integers(top + 1, 40)), draw(st.integers(left + 1, 40))
        label[top:bottom, left:right] = number
    return label


def box_of(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.nonzero(mask)
    return np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


# --- all levels --------------------------------------------------------------------------------


@given(label=labels(), level=st.sampled_from(LEVELS), grow=st.booleans())
def test_no_object_is_invented_and_the_input_is_left_alone(label, level, grow) -> None:
    before = label.copy()
    degraded = degrade(label, level, "grow" if grow else "shrink")
    assert degraded.shape == label.shape and degraded.dtype == label.dtype
    assert set(np.unique(degraded)) <= {0, *np.unique(label)}
    assert level != "FS" or (degraded == label).all(), "full supervision is the label itself"
    degraded += 1
    assert (label == before).all()


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "int64", "uint64"])
@pytest.mark.parametrize("level", LEVELS)
@both_directions
def test_planes_are_altered_on_their_own_whatever_their_numbers(level, direction, dtype) -> None:
    small = np.zeros((3, 30, 30), int)
    small[0, :, 4:22], small[1, 10:29, 20:], small[1, 3, 3], small[2, 0, 0] = 1, 1, 1, 2
    highest = np.iinfo(dtype).max
    numbers = np.array([0, highest - 1, highest], dtype)
    degraded = degrade(numbers[small], level, direction)
    assert degraded.dtype == numbers.dtype
    expected = np.stack([degrade(plane, level, direction) for plane in small])
    assert (degraded == numbers[expected]).all()


# --- outlines moved ----------------------------------------------------------------------------


@settings(max_examples=40)
@given(label=labels(), level=st.sampled_from(list(ALT)))
def test_background_within_the_distance_goes_to_the_nearest_object(label, level) -> None:
    """By the squared distances of all pairs of pixels."""
    grown = degrade(label, level)
    assert (grown[label > 0] == label[label > 0]).all()
    background, objects = np.argwhere(label == 0), np.argwhere(label > 0)
    assume(len(background) and len(objects))
    squared = ((background[:, None] - objects) ** 2).sum(-1)
    least = squared.min(1)
    taken, far = grown[label == 0], least > ALT[level] ** 2
    assert (taken[far] == 0).all()
    of_taken = label[tuple(objects.T)] == taken[:, None]
    assert ((squared == least[:, None]) & of_taken).any(1)[~far].all()


@settings(max_examples=60)
@given(label=labels(), level=st.sampled_from(list(ALT)))
def test_shrinking_is_the_erosion_of_each_object_by_a_disc(label, level) -> None:
    expected = np.zeros_like(label)
    for number in NUMBERS:  # the border of the image is no background
        inside = binary_erosion(label == number, disk(ALT[level]), border_value=1)
        expected[inside] = number
    assert (degrade(label, level, "shrink") == expected).all()


@pytest.mark.parametrize("radius", range(0, 21, 4))
@each_distance
def test_a_disc_that_grew_shrinks_to_itself(radius: int, level: str, distance: int) -> None:
    label = np.pad(disk(radius), distance + 1)
    grown = degrade(label, level)
    assert (grown[grown.shape[0] // 2] > 0).sum() == 2 * (radius + distance) + 1
    assert (degrade(grown, level, "shrink") == label).all()


# --- boxes -------------------------------------------------------------------------------------


@given(label=labels())
def test_boxes_hold_their_objects_and_smaller_ones_are_on_top(label: NDArray) -> None:
    boxes = {n: box_of(label == n) for n in NUMBERS if (label == n).any()}
    boxed = degrade(label, "BBOX")
    assert ((boxed > 0) >= (label > 0)).all()
    for n, box in boxes.items():
        for other in np.unique(boxed[box]):
            there = boxes[other]  # nothing in a box is background
            assert label[there].size <= label[box].size
        assert (boxed == n).sum() == (boxed[box] == n).sum()


@given(corners=st.tuples(*[st.integers(0, 30)] * 4), sides=st.tuples(*[st.integers(1, 20)] * 4))
def test_of_two_different_boxes_none_is_lost(corners: tuple, sides: tuple) -> None:
    label, (y1, x1, y2, x2), (h1, w1, h2, w2) = np.zeros((50, 50), np.uint8), corners, sides
    label[y1 : y1 + h1, x1 : x1 + w1] = 1
    label[y2, x2] = label[y2 + h2 - 1, x2 + w2 - 1] = 2
    assume((label == 1).any() and box_of(label == 1) != box_of(label == 2))
    assert np.unique(degrade(label, "BBOX")).tolist() == [0, 1, 2]


def test_a_cell_in_a_ring_stays_and_the_ring_is_filled() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[1:8, 1:8], label[2:7, 2:7], label[4, 3] = 1, 0, 2
    expected = np.zeros_like(label)
    expected[1:8, 1:8], expected[4, 3] = 1, 2
    assert (degrade(label, "BBOX") == expected).all()


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 4), int), "ALT3"), "must be one of FS, ALT2, ALT5, ALT10, BBOX, not 'ALT3'"),
        ((np.zeros((4, 4), int), "FS", "both"), 'must be "grow" or "shrink", not \'both\''),
        ((np.zeros((4, 4)), "FS"), "must hold integers .* not float64"),
        ((np.zeros((4, 4), bool), "FS"), "not bool .* number the objects of a mask"),
        ((np.zeros(4, int), "FS"), r"of shape \(4,\)"),
        ((np.array([[0, -1]]), "FS"), "from -1"),
    ],
    ids=["level", "direction", "float", "mask", "rank", "negative"],
)
def test_bad_input_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        degrade(*arguments)
