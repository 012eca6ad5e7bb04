"""Degraded supervision: by distances counted out, by boxes drawn by hand; nothing swallowed."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from micranet_helpers.lessons.baselines.supervision import LEVELS, degrade

ALT = {"ALT2": 2, "ALT5": 5, "ALT10": 10}
NUMBERS = (1, 2, 7, 200)


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


@given(label=labels(), level=st.sampled_from(LEVELS))
def test_no_object_is_invented_and_the_input_is_left_alone(label, level) -> None:
    before = label.copy()
    degraded = degrade(label, level)
    assert degraded.shape == label.shape and degraded.dtype == label.dtype
    assert set(np.unique(degraded)) <= {0, *np.unique(label)}
    assert level != "FS" or (degraded == label).all(), "full supervision is the label itself"
    degraded += 1
    assert (label == before).all()


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "int64", "uint64"])
@pytest.mark.parametrize("level", LEVELS)
def test_planes_are_altered_on_their_own_whatever_their_numbers(level, dtype) -> None:
    small = np.zeros((3, 30, 30), int)
    small[0, :, 4:22], small[1, 10:29, 20:], small[1, 3, 3], small[2, 0, 0] = 1, 1, 1, 2
    highest = np.iinfo(dtype).max
    numbers = np.array([0, highest - 1, highest], dtype)
    degraded = degrade(numbers[small], level)
    assert degraded.dtype == numbers.dtype
    expected = np.stack([degrade(plane, level) for plane in small])
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


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 4), int), "ALT3"), "must be one of FS, ALT2, ALT5, ALT10, BBOX, not 'ALT3'"),
        ((np.zeros((4, 4)), "FS"), "must hold integers .* not float64"),
        ((np.zeros((4, 4), bool), "FS"), "not bool .* number the objects of a mask"),
        ((np.zeros(4, int), "FS"), r"of shape \(4,\)"),
        ((np.array([[0, -1]]), "FS"), "from -1"),
    ],
    ids=["level", "float", "mask", "rank", "negative"],
)
def test_bad_input_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        degrade(*arguments)
