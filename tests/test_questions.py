"""Questions about boxes: what follows from answers, what they cost, and what to ask next."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micranet_helpers.data.own.answers import NO, UNKNOWN, YES, Question
from micranet_helpers.label.questions import (
    crops_of_mask,
    known,
    most_useful,
    open_questions,
    simulate,
)  # fmt: skip

SIDE = 16
SHAPES = {"a.png": (64, 64), "b.png": (40, 100)}


def asked(answers: dict, **options) -> list[Question]:
    return list(open_questions(SHAPES, SIDE, answers, **options))


def asked_about(file: str, answers: dict) -> list[Question]:
    return [box for box in asked(answers) if box.file == file]


def replied(present: dict, number: int = 9999, shapes=SHAPES, largest=None, **options) -> dict:
    """The answers of a simulated annotator to the questions in plain order."""
    answers: dict[Question, str] = {}
    boxes = open_questions(shapes, SIDE, answers, largest)
    simulate(present, SIDE, boxes, answers, number, **options)
    return answers


def truth(seed: int, share: float = 0.2) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"a.png": draw.random((4, 4)) < share, "b.png": draw.random((3, 7)) < share}


def test_the_first_question_is_about_the_whole_image() -> None:
    assert asked({}) == [Question("a.png", 0, 0, 64), Question("b.png", 0, 0, 128)]
    assert [*open_questions({"c.png": (9, 16)}, SIDE, {})] == [Question("c.png", 0, 0, SIDE)]


def test_no_ends_a_branch_and_makes_all_its_crops_negative_at_no_cost() -> None:
    answers = {Question("a.png", 0, 0, 64): NO}
    assert [box.file for box in asked(answers)] == ["b.png"]
    labels = known(SHAPES, SIDE, answers)
    assert list(labels) == ["a.png"] and labels["a.png"].shape == (4, 4)
    assert not labels["a.png"].any()


def test_images_take_turns_also_where_all_is_yes() -> None:
    answers: dict[Question, str] = {}
    for _ in range(11):  # as the labeller asks: anew after each answer
        answers[next(open_questions(SHAPES, SIDE, answers))] = YES
    files = [*["a.png"] * 3, *["b.png"] * 4, *["a.png", "b.png"] * 2]
    assert [box.file for box in answers] == files
    assert [box.side for box in answers] == [64, 32, 16, 128, 64, 32, *[16] * 5]
    again = replied({name: np.ones(grid.shape) for name, grid in truth(0).items()}, 11)
    assert again == answers


def test_quarters_of_a_crop_follow_it_at_once() -> None:
    crop, corners = Question("a.png", 0, 0, SIDE), [(0, 0), (0, 8), (8, 0), (8, 8)]
    answers = {Question("a.png", 0, 0, 64): YES, Question("a.png", 0, 0, 32): YES}
    assert next(open_questions({"a.png": (64, 64)}, SIDE, answers, quarters=True)) == crop
    for answer, expected in ((YES, corners), (UNKNOWN, corners), (NO, [])):
        boxes = asked(answers | {crop: answer}, quarters=True)
        quarters = [box for box in boxes if box.side == SIDE // 2]
        assert quarters == [Question("a.png", *corner, 8) for corner in expected]
    shapes = {name: (SIDE, SIDE) for name in "abc"}
    turns = [box.file for box in open_questions(shapes, SIDE, answers, quarters=True)]
    assert turns == ["a", "b", "c"], "nobody has answered"
    answers = {}
    for box in open_questions(shapes, SIDE, answers, quarters=True):
        answers[box] = YES
    files = [box.file for box in answers]
    assert set(files[:10]) == {"a", "b"} and files[2] == "b" and files[10:] == ["c"] * 5
    odd = list(open_questions({"a.png": (30, 30)}, 15, {}, 15, quarters=True))
    assert {box.side for box in odd} == {15}


@pytest.mark.parametrize("answer", [YES, UNKNOWN])
def test_yes_and_cannot_tell_open_the_quarters(answer: str) -> None:
    box = Question("a.png", 0, 0, 64)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32)]
    assert asked_about("a.png", {box: answer}) == [
        Question("a.png", *corner, 32) for corner in corners
    ]
    assert np.isnan(known(SHAPES, SIDE, {box: answer})["a.png"]).all()


def test_quarters_outside_the_image_are_not_asked() -> None:
    box = Question("b.png", 0, 0, 128)
    halves = [Question("b.png", 0, left, 64) for left in (0, 64)]
    assert asked_about("b.png", {box: YES}) == halves
    inner = asked_about("b.png", {box: YES, halves[1]: YES})[1:]
    assert inner == [Question("b.png", y, x, 32) for y in (0, 32) for x in (64, 96)]
    crop = Question("b.png", 32, 96, SIDE)
    assert known(SHAPES, SIDE, {crop: YES})["b.png"][2, 6] == 1


def test_a_crop_is_positive_negative_or_unknown_and_the_smaller_box_counts() -> None:
    crops = [Question("a.png", 16, left, SIDE) for left in (0, 16, 32)]
    answers = dict(zip(crops, (YES, NO, UNKNOWN), strict=True))
    labels = known(SHAPES, SIDE, answers)["a.png"]
    np.testing.assert_array_equal(labels[1, :3], [1, 0, np.nan])
    assert np.isnan(labels).sum() == 14
    again = known(SHAPES, SIDE, {**answers, Question("a.png", 0, 0, 64): NO})["a.png"]
    np.testing.assert_array_equal(again[1, :3], labels[1, :3])
    assert np.isnan(again).sum() == np.nansum(again) == 1


def test_answers_about_other_crops_or_files_are_left_out() -> None:
    places = [("a.png", 0, 0, 8), ("a.png", 8, 0, SIDE), ("c.png", 0, 0, 64)]
    others = [Question(*place) for place in places]
    assert not known(SHAPES, SIDE, dict.fromkeys(others, NO))


def test_boxes_larger_than_asked_for_are_opened() -> None:
    assert {box.side for box in asked({}, largest=SIDE)} == {SIDE}
    assert len(asked({}, largest=SIDE)) == 16 + 21
    done = {Question("a.png", 0, 0, 64): NO}
    assert len(asked(done, largest=SIDE)) == 21, "what a no has settled is not asked again"


@given(st.integers(0, 99), st.floats(0, 1))
def test_answers_without_errors_give_the_true_label_of_every_crop(seed: int, share: float) -> None:
    present = truth(seed, share)
    answers = replied(present)
    assert not asked(answers)
    for file, labels in known(SHAPES, SIDE, answers).items():
        np.testing.assert_array_equal(labels, present[file])


def test_where_objects_are_rare_few_questions_are_needed() -> None:
    shapes = {f"{n}.png": (128, 128) for n in range(20)}
    present = {file: np.zeros((8, 8), bool) for file in shapes}
    present["3.png"][5, 2] = present["7.png"][0, 0] = True
    tree, plain = (replied(present, shapes=shapes, largest=side) for side in (None, SIDE))
    assert len(tree) == 20 + 2 * 12 and len(plain) == 20 * 64


def test_where_most_boxes_show_objects_crops_are_asked_at_once() -> None:
    shapes = {f"{n}.png": (128, 128) for n in range(20)}
    dense = {file: np.ones((8, 8), bool) for file in shapes}
    assert len(replied(dense, shapes=shapes)) == 20 * 64 + 3 * 8, "eight of each larger size"
    given = {Question(f"{n}.png", 0, 0, 128): YES if n > 1 else NO for n in range(8)}
    assert {box.side for box in open_questions(shapes, SIDE, given)} == {64}, "6 of 8"
    given[Question("8.png", 0, 0, 128)] = NO
    assert {box.side for box in open_questions(shapes, SIDE, given)} == {64, 128}


def test_wrong_answers_are_as_frequent_as_asked_for_and_repeatable() -> None:
    shapes = {f"{n}.png": (256, 256) for n in range(20)}
    present = {file: np.zeros((16, 16), bool) for file in shapes}
    runs = [replied(present, 5000, shapes, SIDE, error=0.05, seed=1) for _ in range(2)]
    assert runs[0] == runs[1] and len(runs[0]) == 5000
    assert np.mean([answer == YES for answer in runs[0].values()]) == pytest.approx(0.05, abs=0.01)


def test_what_the_network_doubts_most_is_asked_first_and_images_take_turns() -> None:
    chance = {"a.png": np.full((4, 4), 0.05), "b.png": np.full((3, 7), 0.85)}
    chance["a.png"][0, :3] = 0.5, 0.45, 0.4
    boxes = asked({}, largest=SIDE)
    first = most_useful(boxes, chance, SIDE, 3)
    assert first[0] == Question("a.png", 0, 0, SIDE)
    assert [box.file for box in first].count("a.png") == 2, "not three of one image"
    assert most_useful(asked({}), {}, SIDE) == asked({})[:1], "0.5 where nothing is known"


def test_crops_of_a_mask_are_positive_above_a_share() -> None:
    mask = np.zeros((32, 40), np.uint8)
    mask[:4, :4], mask[20:, 34:] = 1, 2  # 16 px of 256; 72 px, partly outside the image
    np.testing.assert_array_equal(crops_of_mask(mask, SIDE), [[1, 0, 0], [0, 0, 1]])
    assert not crops_of_mask(mask, SIDE, share=0.1)[0, 0]
