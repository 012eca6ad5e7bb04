"""Metrics against hand-computed cases, written-out loops, torchmetrics and scikit-learn."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score, roc_auc_score
from torchmetrics.functional.classification import multilabel_accuracy, multilabel_exact_match

from micranet_helpers import metrics

quick = settings(max_examples=40, deadline=None)

SHAPE = (7, 9)
masks = hnp.arrays(bool, SHAPE)
label_images = hnp.arrays(np.int64, SHAPE, elements=st.integers(0, 4))


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


# Dice


@quick
@given(masks, masks)
def test_dice_is_the_symmetric_f1_score(a, b):
    dice = metrics.dice(a, b)
    assert dice == pytest.approx(f1_score(b.ravel(), a.ravel(), zero_division=1.0))
    assert dice == metrics.dice(b, a)
    assert (dice == 1) == np.array_equal(a, b)


@quick
@given(hnp.arrays(bool, (3, *SHAPE)), hnp.arrays(bool, (3, *SHAPE)))
def test_dim_gives_one_value_per_image(a, b):
    a[0] = b[0] = False  # nothing to find, nothing found: 1
    per_image = metrics.dice(torch.tensor(a), torch.tensor(b), dim=(-2, -1))
    assert per_image.dtype == torch.float32 and per_image[0] == 1
    one_by_one = [metrics.dice(*pair) for pair in zip(a, b, strict=True)]
    assert per_image.tolist() == pytest.approx(one_by_one)


def test_many_pixels_are_counted_exactly():
    """Above 2**24 a float32 count would stop growing; a uint8 count would wrap at 256."""
    mask = torch.ones(4097, 4097, dtype=torch.uint8)
    other = mask.clone()
    other[0, 0] = 0
    n = 4097**2
    assert metrics.dice(mask, other) == (2 * n - 2) / (2 * n - 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_stay_on_their_device():
    mask = torch.ones(2, 3, 4, dtype=torch.bool, device="cuda")
    assert metrics.dice(mask, mask.cpu().numpy(), dim=(-2, -1)).is_cuda


# Labelled objects


def test_scores_of_a_matching():
    matching = metrics.Matching(np.array([[0, 1], [3, 0]]), num_pred=5, num_true=4)
    assert (matching.tp, matching.fp, matching.fn) == (2, 3, 2)
    assert (matching.precision, matching.recall) == (2 / 5, 2 / 4)
    assert matching.f1 == pytest.approx(4 / 9)


def test_match_objects_by_hand():
    true = np.array([[7, 7, 7, 0, 3, 3, 0, 9]])
    pred = np.array([[1, 1, 0, 0, 5, 5, 5, 0]])
    matching = metrics.match_objects(pred, true)  # IoU: 1-7 and 5-3 both 2/3, 9 is missed
    assert sorted(matching.pairs.tolist()) == [[1, 7], [5, 3]]
    assert (matching.tp, matching.fp, matching.fn) == (2, 0, 1)
    assert metrics.match_objects(torch.tensor(pred), true, min_iou=2 / 3).tp == 2
    assert metrics.match_objects(pred, true, min_iou=0.67).tp == 0


@quick
@given(label_images, label_images, st.sampled_from([0.1, 0.3, 0.5, 0.8]))
def test_object_pairs_overlap_enough_and_are_one_to_one(pred, true, min_iou):
    matching = metrics.match_objects(pred, true, min_iou)
    for p, t in matching.pairs:
        assert p != 0 and t != 0
        assert iou(pred == p, true == t) >= min_iou
    assert len(set(matching.pairs[:, 0])) == len(set(matching.pairs[:, 1])) == matching.tp
    assert matching.num_pred == len(set(pred.ravel()) - {0})
    swapped = metrics.match_objects(true, pred, min_iou)
    assert (swapped.fp, swapped.fn) == (matching.fn, matching.fp)


@quick
@given(label_images, label_images, st.sampled_from([0.1, 0.500001]))
def test_object_sum_of_ious_is_the_largest(pred, true, min_iou):
    ids = [sorted(set(labels.ravel()) - {0}) for labels in (pred, true)]
    gain = np.array([[iou(pred == p, true == t) for t in ids[1]] for p in ids[0]])
    gain = np.where(gain >= min_iou, gain, 0).reshape(len(ids[0]), len(ids[1]))
    gain = gain if gain.shape[0] <= gain.shape[1] else gain.T
    choices = itertools.permutations(range(gain.shape[1]), len(gain))
    best = max(sum(gain[i, c[i]] for i in range(len(gain))) for c in choices)
    pairs = metrics.match_objects(pred, true, min_iou).pairs
    assert sum(iou(pred == p, true == t) for p, t in pairs) == pytest.approx(best)


def test_labels_with_gaps_cost_nothing():
    labels = np.zeros((4, 4), np.int64)
    labels[0, 0], labels[2, 2] = 2**40, 5
    assert metrics.match_objects(labels, labels).pairs.tolist() == [[5, 5], [2**40, 2**40]]
    assert metrics.match_objects(labels.astype(np.uint16), labels.astype(np.uint16)).tp == 1


def test_objects_of_empty_and_full_images():
    empty, full = np.zeros((3, 3), int), np.ones((3, 3), int)
    assert metrics.match_objects(empty, empty).f1 == 1.0
    assert metrics.match_objects(empty, full).f1 == metrics.match_objects(full, empty).f1 == 0.0
    assert metrics.match_objects(full, full).f1 == 1.0  # no background pixel at all
    assert metrics.match_objects(np.zeros((0, 3), int), np.zeros((0, 3), int)).f1 == 1.0


# Image-level labels


@quick
@given(hnp.arrays(bool, (5, 3)), hnp.arrays(bool, (5, 3)))
def test_label_scores_against_torchmetrics(pred, target):
    p, t = torch.tensor(pred).int(), torch.tensor(target).int()
    expected = multilabel_accuracy(p, t, num_labels=3, average="micro").item()
    assert metrics.label_accuracy(pred, target) == pytest.approx(expected)
    expected = multilabel_exact_match(p, t, num_labels=3).item()
    assert metrics.exact_match(torch.tensor(pred), target) == pytest.approx(expected)


def test_label_scores_by_hand():
    """Also of one class, as P. vivax and EM have it, which torchmetrics refuses."""
    pred, target = np.array([[1, 0, 1], [0, 0, 0]]), np.array([[1, 0, 1], [0, 1, 0]])
    assert metrics.label_accuracy(pred, target) == 5 / 6
    assert metrics.exact_match(pred, target) == 1 / 2
    pred, target = np.array([[1], [0], [1]]), np.array([[1], [1], [1]])
    assert metrics.label_accuracy(pred, target) == metrics.exact_match(pred, target) == 2 / 3


# Objects and pixels of several images


@quick
@given(st.lists(st.tuples(label_images, label_images), min_size=1, max_size=4))
def test_total_counts_as_if_the_images_were_one(images):
    pooled = metrics.total(metrics.match_objects(*pair) for pair in images)
    numbered = [[np.where(plane, plane + 10 * i, 0) for plane in pair]
                for i, pair in enumerate(images)]  # fmt: skip
    one = metrics.match_objects(*map(np.hstack, zip(*numbered, strict=True)))
    for score in ("tp", "fp", "fn", "precision", "recall", "f1"):
        assert getattr(pooled, score) == getattr(one, score)


def test_merged_and_split_objects_by_hand():
    true, pred = np.zeros((6, 12), int), np.zeros((6, 12), int)
    true[1:5, 1:3], true[1:5, 4:6], true[1:5, 8:12] = 5, 2, 9
    pred[0:6, 0:6], pred[1:5, 8:10], pred[1:5, 10:12] = 1, 7, 3
    assert metrics.holders(true, pred).tolist() == [1]  # 5 and 2 merged
    assert metrics.holders(pred, true).tolist() == [9]  # split into 7 and 3
    pred[1:3, 1:3] = 0  # half of 5 only is in 1
    assert metrics.holders(true, pred).tolist() == []
    assert metrics.holders(np.zeros_like(true), pred).tolist() == []


def test_seg_score_by_hand():
    true = np.array([[7, 7, 7, 0, 3, 3, 0, 9, 9, 9]])
    pred = np.array([[1, 1, 0, 0, 5, 0, 0, 2, 2, 2]])
    # 1 covers 2/3 of 7 (IoU 2/3); 5 covers just half of 3, so it counts 0; 2 is 9.
    assert metrics.seg_score(pred, true) == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert metrics.seg_score(torch.tensor(pred), true) == metrics.seg_score(pred, true)
    assert np.isnan(metrics.seg_score(pred, true * 0))


@quick
@given(label_images, label_images)
def test_seg_score_against_a_loop(pred, true):
    scores = []
    for t in set(true.ravel()) - {0}:
        inside = true == t
        found = set(pred.ravel()) - {0}
        covering = [p for p in found if 2 * (pred == p)[inside].sum() > inside.sum()]
        scores.append(iou(pred == covering[0], inside) if covering else 0)
    expected = np.mean(scores) if scores else np.nan
    assert metrics.seg_score(pred, true) == pytest.approx(expected, nan_ok=True)


@quick
@given(hnp.arrays(bool, (4, *SHAPE)), hnp.arrays(bool, (4, *SHAPE)), hnp.arrays(bool, (4, *SHAPE)))
def test_pooled_f1_is_the_dice_of_all_counted_pixels(pred, true, ignore):
    assert metrics.pooled_f1(list(pred), list(true)) == pytest.approx(metrics.dice(pred, true))
    sizes = [each.ravel()[: 10 * (i + 1)] for i, each in enumerate(pred)], [
        each.ravel()[: 10 * (i + 1)] for i, each in enumerate(true)
    ]
    assert metrics.pooled_f1(*sizes) == pytest.approx(metrics.dice(*map(np.concatenate, sizes)))
    expected = metrics.dice(pred[~ignore], true[~ignore])
    assert metrics.pooled_f1(pred, torch.tensor(true), ignore) == pytest.approx(expected)


# Areas under the ROC curve


def test_areas_against_scikit_learn_with_ties():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (60, 3), generator=draw).float()
    labels = (scores + torch.randint(0, 9, (60, 3), generator=draw) > 9).float()
    labels[:20, 1] = torch.nan  # unknown
    known = labels.isfinite().T
    expected = [roc_auc_score(labels[known[k], k], scores[known[k], k]) for k in range(3)]
    assert metrics.roc_areas(scores, labels) == pytest.approx(expected)


def test_a_class_without_yes_or_without_no_has_no_area():
    labels = torch.tensor([[1.0, 0, 1], [1, 0, 0]])
    areas = metrics.roc_areas(torch.tensor([[1.0, 1, 1], [0, 0, 0]]), labels)
    assert np.isnan(areas[:2]).all() and areas[2] == 1


# Thresholds


def test_best_threshold_by_hand():
    assert metrics.best_threshold([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]) == pytest.approx(0.4)
    assert metrics.best_threshold([3, 1, 0], [1, 0, 0]) == 2
    assert metrics.best_threshold(torch.tensor([2.0, 1.0]), torch.tensor([False, True])) == 1


@quick
@given(st.data(), st.sampled_from([np.float32, np.float64]))
def test_no_threshold_has_a_higher_f1(data, dtype):
    size = data.draw(st.integers(2, 12))
    numbers = st.floats(-8, 8, width=np.dtype(dtype).itemsize * 8) | st.integers(-2, 2).map(float)
    scores = data.draw(hnp.arrays(dtype, size, elements=numbers))
    present = data.draw(hnp.arrays(bool, size))
    present[:2] = True, False
    threshold = metrics.best_threshold(scores, present)
    best = max(metrics.dice(present, scores >= level) for level in scores)
    assert metrics.dice(present, scores >= threshold) == pytest.approx(best)
    order = data.draw(st.permutations(range(size)))
    assert metrics.best_threshold(scores[order], present[order]) == threshold


def test_of_equal_thresholds_the_widest_gap_is_taken():
    # One right of one, or two right of four chosen: both 2/3.
    scores, present = [10, 8, 7, 1, 0], [1, 0, 0, 1, 0]
    assert f1_score(present, np.array(scores) >= 10) == f1_score(present, np.array(scores) >= 1)
    assert metrics.best_threshold(scores, present) == 9  # gap 2, not 1


# Errors

MASKS, LABELS = np.ones((2, 3, 3), bool), np.ones((3, 3), int)
CROPS = np.ones((2, 3), bool)
SHAPES = {
    "dice": (metrics.dice, MASKS, MASKS[:, :2], r"\(2, 3, 3\).*\(2, 2, 3\)"),
    "dice would broadcast": (metrics.dice, MASKS, MASKS[:1], "shape"),
    "objects of a mask": (metrics.match_objects, LABELS == 1, LABELS, "skimage.measure.label"),
    "float objects": (metrics.match_objects, LABELS, LABELS * 1.0, "integers"),
    "stack of objects": (metrics.match_objects, LABELS[None], LABELS[None], "shape"),
    "negative objects": (metrics.match_objects, LABELS, LABELS - 2, "from -1"),
    "objects": (metrics.match_objects, LABELS, LABELS[:2], "different shapes"),
    "no mask": (metrics.pooled_f1, [], [], "as many"),
    "fewer masks": (metrics.pooled_f1, MASKS, MASKS[:1], "as many"),
    "areas of one axis": (metrics.roc_areas, torch.zeros(4), torch.zeros(4, 2), "one shape"),
    "areas of classes": (metrics.roc_areas, torch.zeros(4, 3), torch.zeros(4, 2), "one shape"),
    "areas of crops": (metrics.roc_areas, torch.zeros(5, 2), torch.zeros(4, 2), "one shape"),
    "no positive": (metrics.best_threshold, [1, 2], [0, 0], "No positive"),
    "no negative": (metrics.best_threshold, [1, 2], [True, True], "No negative"),
    "no crop": (metrics.best_threshold, [], [], "No"),
    "fewer labels": (metrics.best_threshold, [1, 2], [1], "each crop"),
    "two classes": (metrics.best_threshold, [[1, 2]], [[0, 1]], "one class"),
    "NaN": (metrics.best_threshold, [1, np.nan], [0, 1], "finite"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_what_does_not_fit_together_is_refused(case):
    score, one, other, message = SHAPES[case]
    with pytest.raises(ValueError, match=message):
        score(one, other)


@pytest.mark.parametrize("score", [metrics.label_accuracy, metrics.exact_match])
def test_label_scores_refuse_other_shapes(score):
    for wrong in (CROPS[:0], CROPS[:, :0], CROPS[0], CROPS[None]):
        with pytest.raises(ValueError, match="images, classes"):
            score(wrong, wrong)
    with pytest.raises(ValueError, match="differ in shape"):
        score(CROPS, CROPS[:1])


@pytest.mark.parametrize(
    "score", [metrics.dice, metrics.label_accuracy, metrics.exact_match, metrics.pooled_f1]
)
def test_numbers_between_0_and_1_need_a_threshold(score):
    for floats in (CROPS * 0.7, torch.tensor(CROPS * 0.7)):
        with pytest.raises(TypeError, match="[Tt]hreshold"):
            score(floats, CROPS)


def test_other_options_are_refused():
    for min_iou in (0, 1.1, np.nan):
        with pytest.raises(ValueError, match="min_iou"):
            metrics.match_objects(LABELS, LABELS, min_iou)
    for ignore, message in ((MASKS[:1], "as many"), (MASKS[:, :2], "shape")):
        with pytest.raises(ValueError, match=message):
            metrics.pooled_f1(MASKS, MASKS, ignore)
    with pytest.raises(ValueError):
        metrics.total([])
