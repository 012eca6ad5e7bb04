"""Peaks, objects and boxes against hand-computed cases, all matchings and scikit-learn."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.metrics import average_precision_score

from micranet_helpers import metrics
from micranet_helpers.maps import detect

quick = settings(max_examples=40, deadline=None)

maps = hnp.arrays(np.float64, (9, 11), elements=st.integers(-3, 9), fill=st.nothing())
steps = hnp.arrays(np.float64, (9, 11), elements=st.integers(-3, 9))  # with plateaus
points_with_score = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 6), st.just(3)), elements=st.integers(0, 9)
)
corners = st.tuples(*[st.integers(0, 7)] * 2, *[st.integers(1, 6)] * 2)
boxes_anywhere = st.lists(corners.map(lambda c: (c[0], c[1], c[0] + c[2], c[1] + c[3])), max_size=4)


# Peaks


def test_peaks_by_hand():
    score = np.zeros((9, 12))
    score[0, 0], score[4, 5], score[4, 7], score[8, 11] = 2, 5, 4, 1
    assert detect.peaks(score, 2, 1).tolist() == [[4, 5, 5], [0, 0, 2]]
    assert detect.peaks(score, 1, 0).tolist() == [[4, 5, 5], [4, 7, 4], [0, 0, 2], [8, 11, 1]]
    assert detect.peaks(score, 1, 9).shape == (0, 3)
    assert detect.peaks(np.ones((4, 4)), 1, 0).shape == (0, 3)


@quick
@given(maps | steps, st.integers(1, 4), st.integers(-2, 8))
def test_peaks_are_highest_in_their_surroundings_sorted_and_apart(score, distance, threshold):
    found = detect.peaks(score, distance, threshold)
    assert (np.diff(found[:, 2]) <= 0).all()
    for row, column, value in found:
        r, c = int(row), int(column)
        around = (slice(max(s - distance, 0), s + distance + 1) for s in (r, c))
        assert value == score[r, c] == score[tuple(around)].max() > threshold
    for a, b in itertools.combinations(found[:, :2], 2):
        assert abs(a - b).max() >= distance  # equal only on a plateau
    if score.max() > threshold and np.ptp(score):
        assert found[0, 2] == score.max()


# Objects


def two_cells():
    rows, columns = np.ogrid[:40, :60]
    return [(rows - 20) ** 2 + (columns - column) ** 2 < 144 for column in (18, 38)]


def test_touching_cells_are_split_and_a_flat_part_is_kept():
    left, right = two_cells()
    mask = left | right
    mask[:2, 55:] = True
    height = np.where(mask, ndimage.distance_transform_edt(left | right), 0)
    labels = detect.instances(mask, height, min_distance=5)
    assert labels.dtype == np.int32 and set(np.unique(labels)) == {0, 1, 2, 3}
    assert len({labels[20, 18], labels[20, 38], labels[0, 59]}) == 3
    assert (labels[:2, 55:] == labels[0, 59]).all()
    assert (labels[20, 18] == labels)[left & ~right].all()
    assert detect.instances(mask, height, min_distance=30).max() == 2


def test_parts_are_split_for_themselves():
    """Higher parts that are near, even at a corner, hide no peak; flat parts have numbers too."""
    mask = np.zeros((5, 12), bool)
    mask[0, :7] = mask[1, 7:9] = mask[3, :3] = mask[4, 5:] = True
    height = np.zeros((5, 12))
    height[0, :7] = 5, 3, 3, 1, 3, 3, 5  # two objects
    height[1, 7:9] = 9  # at the corner of the second
    labels = detect.instances(mask, height, min_distance=3)
    assert labels[0].tolist()[:7] == [1, 1, 1, labels[0, 3], 2, 2, 2]
    # The lower two parts have the lowest height of all.
    assert [set(labels[mask * (row == np.arange(5)[:, None])]) for row in (1, 3, 4)] == [
        {3}, {4}, {5}
    ]


@quick
@given(hnp.arrays(bool, (9, 11)), maps | steps, st.integers(1, 4))
def test_objects_cover_the_mask_and_are_connected(mask, landscape, distance):
    labels = detect.instances(mask, landscape, distance)
    assert np.array_equal(labels > 0, mask)
    assert set(np.unique(labels)) - {0} == set(range(1, labels.max() + 1))
    parts, count = ndimage.label(mask)
    for number in range(1, labels.max() + 1):
        assert ndimage.label(labels == number)[1] == 1
    for part in range(1, count + 1):
        inside = parts == part
        if np.ptp(landscape[inside]) == 0:  # a part of constant height is not split
            assert len(np.unique(labels[inside])) == 1


def test_touching_pieces_are_split_if_asked() -> None:
    y, x = np.mgrid[:30, :50]
    mask = np.hypot(y - 15, x - 15) < 10
    mask |= np.hypot(y - 15, x - 32) < 10
    mask[0, 0] = True
    assert detect.pieces(mask).max() == 2 and detect.pieces(mask, area=2).max() == 1
    split = detect.pieces(mask, area=2, split=5)
    assert split.max() == 2 and split[15, 15] != split[15, 32]
    assert not detect.pieces(mask & False, split=5).any()


def test_pieces_touch_at_sides_not_at_corners():
    mask = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 1]], bool)
    assert detect.pieces(mask).tolist() == [[1, 1, 0], [0, 0, 2], [3, 0, 2]]
    assert detect.pieces(mask, area=2).tolist() == [[1, 1, 0], [0, 0, 2], [0, 0, 2]]


def test_small_objects_are_dropped():
    labels = np.array([[7, 7, 7, 0, 2**40, 0, 3, 3]])
    assert detect.drop_small(labels, 2).tolist() == [[2, 2, 2, 0, 0, 0, 1, 1]]
    assert detect.drop_small(labels, 4).max() == 0
    assert detect.drop_small(np.ones((2, 2), int), 1).tolist() == [[1, 1], [1, 1]]
    assert detect.drop_small(np.zeros((0, 3), int), 1).shape == (0, 3)


def test_table_by_hand():
    labels = np.array([[5, 5, 0], [5, 0, 2**40]])
    rows = detect.table(labels, np.arange(6).reshape(2, 3), 0.5)
    assert rows[0] == pytest.approx({
        "label": 5, "area_px": 3, "row": 1 / 3, "column": 1 / 3, "score": 4 / 3,
        "area_um2": 0.75, "row_um": 1 / 6, "column_um": 1 / 6,
    })  # fmt: skip
    assert rows[1]["label"] == 2**40 and rows[1]["score"] == 5
    assert list(detect.table(labels)[0]) == ["label", "area_px", "row", "column"]
    assert detect.table(labels * 0, labels) == []
    assert all(type(value) in (int, float) for row in rows for value in row.values())


# Boxes


def test_a_point_detects_the_box_it_is_in():
    box = [[10, 20, 12, 23]]  # rows 10 and 11, columns 20 to 22
    for point, slack, found in [
        ((10, 20), 0, 1), ((11, 22), 0, 1), ((9, 20), 0, 0), ((12, 22), 0, 0), ((11, 23), 0, 0),
        ((12, 22), 0.5, 1), ((12.1, 22), 0.5, 0), ((9, 19), 0.5, 1),
    ]:  # fmt: skip
        assert metrics.match_boxes([point], box, slack=slack).tp == found


def test_each_box_is_found_once_by_the_point_nearest_its_centre():
    box = [[0, 0, 9, 9]]
    matching = metrics.match_boxes([[0, 0, 9.0], [4, 5, 1.0], [40, 40, 1.0]], box)
    assert matching.pairs.tolist() == [[1, 0]]
    assert (matching.tp, matching.fp, matching.fn) == (1, 2, 0)
    # The first point is nearer to the centre of the only box that the second can find.
    boxes = [[0, 0, 9, 9], [4, 4, 9, 20]]
    assert metrics.match_boxes([[4, 4], [1, 1]], boxes).pairs.tolist() == [[0, 1], [1, 0]]


def test_ignored_points_count_neither_way():
    points, boxes, ignore = [[2, 2], [3, 3], [8, 8], [30, 30]], [[0, 0, 5, 5]], [[3, 3, 12, 12]]
    assert metrics.ignored(points, boxes, ignore).tolist() == [False, False, True, False]
    matching = metrics.match_boxes(points, boxes, ignore)
    # (3, 3) lies in an ignored box too, but it is a second point in a box to be found.
    assert (matching.tp, matching.fp, matching.fn) == (1, 2, 0)
    assert metrics.match_boxes([[8, 8]], [], ignore).f1 == 1.0
    assert metrics.match_boxes([], []).f1 == 1.0


@quick
@given(points_with_score, boxes_anywhere, st.sampled_from([0, 1]))
def test_as_many_pairs_as_possible_with_the_smallest_distances(points, boxes, slack):
    points = points[:4]
    matching = metrics.match_boxes(points, boxes, slack=slack)
    boxes = np.array(boxes).reshape(-1, 4)
    can = {
        (i, j) for i, j in np.ndindex(len(points), len(boxes))
        if metrics.match_boxes(points[i : i + 1], boxes[j : j + 1], slack=slack).tp
    }  # fmt: skip
    centres = (boxes[:, :2] + boxes[:, 2:] - 1) / 2

    def cost(pairs):
        return sum(np.hypot(*(points[i, :2] - centres[j])) for i, j in pairs)

    options = [pairs for k in range(5) for pairs in itertools.combinations(can, k)
               if len({i for i, _ in pairs}) == len({j for _, j in pairs}) == k]  # fmt: skip
    most = max(map(len, options))
    pairs = [tuple(pair) for pair in matching.pairs]
    assert set(pairs) <= can and len(pairs) == most
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == most
    best = min(cost(option) for option in options if len(option) == most)
    assert cost(pairs) == pytest.approx(best)


images = st.tuples(points_with_score, boxes_anywhere, boxes_anywhere)


@quick
@given(st.lists(images, min_size=1, max_size=3), st.sampled_from([0, 1]))
def test_curve_is_that_of_matching_at_each_threshold(images, slack):
    points, boxes, ignore = ([image[k] for image in images] for k in range(3))
    if not any(boxes):
        boxes[0] = [(0, 0, 5, 5)]
    curve = metrics.precision_recall(points, boxes, ignore, slack)
    counted = [p[~metrics.ignored(p, b, i, slack)] for p, b, i in
               zip(points, boxes, ignore, strict=True)]  # fmt: skip
    scores = np.unique(np.concatenate(counted)[:, 2])[::-1]
    assert curve.thresholds.tolist() == scores.tolist()
    for threshold, precision, recall in zip(*curve[:3], strict=True):
        matchings = [metrics.match_boxes(p[p[:, 2] >= threshold], b, i, slack)
                     for p, b, i in zip(points, boxes, ignore, strict=True)]  # fmt: skip
        tp = sum(matching.tp for matching in matchings)
        assert precision == tp / sum(matching.num_pred for matching in matchings)
        assert recall == tp / sum(map(len, boxes))
    assert (np.diff(curve.recall) >= 0).all() and 0 <= curve.average_precision <= 1


@quick
@given(hnp.arrays(np.float64, 12, elements=st.integers(0, 5)), hnp.arrays(bool, 12))
def test_average_precision_against_scikit_learn(scores, right):
    """Points that each have a box of their own, or none."""
    right[0] = True
    points = np.c_[np.arange(12) * 10, np.zeros(12), scores]
    boxes = [[row, 0, row + 1, 1] for row in points[right, 0]]
    curve = metrics.precision_recall([points[:5], points[5:]], [boxes[:1], boxes[1:]])
    together = metrics.precision_recall([points], [boxes])
    assert together.average_precision == pytest.approx(average_precision_score(right, scores))
    assert curve.average_precision <= together.average_precision  # boxes of the other image


def test_curve_without_points():
    curve = metrics.precision_recall([[]], [[[0, 0, 1, 1]]])
    assert curve.thresholds.shape == curve.precision.shape == curve.recall.shape == (0,)
    assert curve.average_precision == 0


# Errors

SCORE, BOX, LABELS = np.eye(4), np.array([[0, 0, 2, 2]]), np.ones((4, 4), int)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detect.peaks(SCORE[0], 1, 0), "H, W"),
        (lambda: detect.peaks(SCORE[:0], 1, 0), "H, W"),
        (lambda: detect.peaks(SCORE / 0, 1, 0), "finite"),
        (lambda: detect.peaks(SCORE, 0, 0), "min_distance"),
        (lambda: detect.instances(LABELS, SCORE, 1), "bool"),
        (lambda: detect.instances(LABELS[:2] > 0, SCORE, 1), "shape"),
        (lambda: detect.instances(LABELS > 0, SCORE, 0), "min_distance"),
        (lambda: detect.drop_small(SCORE, 1), "integers"),
        (lambda: detect.pieces(LABELS), "bool"),
        (lambda: detect.pieces(LABELS[0] > 0), "bool mask"),
        (lambda: detect.table(LABELS[0]), "H, W"),
        (lambda: detect.table(LABELS, SCORE[:2]), "shape"),
        (lambda: detect.table(LABELS, pixel_size_um=0), "pixel size"),
        (lambda: metrics.match_boxes([[1]], BOX), "row, column"),
        (lambda: metrics.match_boxes([[1, np.nan]], BOX), "finite"),
        (lambda: metrics.match_boxes([[1, 1]], np.c_[[1], BOX]), r"boxes\[:, 1:\]"),
        (lambda: metrics.match_boxes([[1, 1]], BOX, BOX * np.inf), "finite"),
        (lambda: metrics.match_boxes([[1, 1]], BOX[:, ::-1]), "ends before"),
        (lambda: metrics.match_boxes([[1, 1]], BOX, slack=-1), "slack"),
        (lambda: metrics.precision_recall([[[1, 1]]], [BOX]), "score"),
        (lambda: metrics.precision_recall([[]], [BOX, BOX]), "images"),
        (lambda: metrics.precision_recall([[]], [np.empty((0, 4))]), "no box"),
        (lambda: metrics.precision_recall([], []), "no box"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
