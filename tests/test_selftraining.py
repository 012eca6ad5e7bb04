"""Self-training: what the labels of crops rule out, by hand; crops with their masks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import label as components
from torch import Tensor
from torch.utils.data import DataLoader

from micranet_helpers import train as tr
from micranet_helpers.data import dataset
from micranet_helpers.data.crops import CropDataset, Rule
from micranet_helpers.maps.cam import evidence
from micranet_helpers.maps.selftraining import PixelCrops, absent, level, of_split, targets
from micranet_helpers.maps.tiles import padded
from micranet_helpers.networks import precision

SHAPES = [(40, 56), (24, 16), (30, 90)]
RULE = Rule(("cell", "fibre"), visible_share=0.5)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a few square objects of two classes."""
    rng = np.random.default_rng(0)
    samples = []
    for number, (height, width) in enumerate(SHAPES):
        label = np.zeros((2, height, width), np.uint8)
        for plane in label:
            for thing in range(1, 4):
                top, left = rng.integers(0, height - 5), rng.integers(0, width - 5)
                plane[top : top + 5, left : left + 5] = thing
        image = rng.integers(0, 256, (1, height, width)).astype(np.uint8)
        samples.append(dataset.Sample(f"image {number}", image, label, 0.0, 1 / 255))
    about = dataset.About(RULE.classes, "made up", "CC0")
    folder = tmp_path_factory.mktemp("pseudo")
    return dataset.write(folder / "a.hdf5", {"training": samples}, about)


# --- what is absent ----------------------------------------------------------------------------


@settings(max_examples=15)
@given(side=st.sampled_from([8, 16, 24, 64]), data=st.data())
def test_absent_is_what_a_crop_without_the_class_covers(path, side, data) -> None:
    """Pixel by pixel, over the crops that the rule keeps."""
    crops = CropDataset(path, "training", side, data.draw(st.integers(3, side)), RULE)
    found = absent(crops, SHAPES)
    by_hand = [np.zeros((2, *shape), bool) for shape in SHAPES]
    for (image, top, left), labels in zip(crops.positions, crops.labels.tolist(), strict=True):
        height, width = SHAPES[image]
        rows = [y for y in range(height) if top <= y < top + side]
        columns = [x for x in range(width) if left <= x < left + side]
        for k in (k for k in range(2) if not labels[k]):
            by_hand[image][k][np.ix_(rows, columns)] = True
    assert all((a == b).all() for a, b in zip(found, by_hand, strict=True))


def test_absent_contradicts_no_mask_and_leaves_no_crop_out(path: Path) -> None:
    crops = CropDataset(path, "training", 8, 4, RULE)
    with_ratio = CropDataset(path, "training", 8, 4, RULE, ratio=(1, 1))
    assert len(with_ratio) < len(crops)
    found = absent(crops, np.array(SHAPES))
    for a, b in zip(found, absent(with_ratio, SHAPES), strict=True):
        assert a.dtype == bool and (a == b).all() and a.any() and not a.all()
    for known, one in zip(found, dataset.read(path, "training"), strict=True):
        assert not (known & (one.label > 0)).any()


# --- thresholds and targets --------------------------------------------------------------------

PLANES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)
# Few values, so that many are equal.
SCORES = PLANES.flatmap(lambda s: hnp.arrays(np.float32, s, elements=st.integers(-3, 3)))


def expected_error(scores: np.ndarray, none: np.ndarray, threshold: float) -> float:
    """Mistakes expected among the pixels above, as the definition says."""
    above = (scores[~none] > threshold).sum()
    return (scores[none] > threshold).mean() * (~none).sum() / above


@given(scores=SCORES, error=st.floats(0.01, 1), data=st.data())
def test_level_is_the_lowest_that_keeps_to_the_error(scores, error, data) -> None:
    none = data.draw(hnp.arrays(bool, scores.shape))
    none[:, 0, 0] = True
    found = level([scores, scores + 1], [none, none], error)
    assert found.shape == (len(scores),)
    for k, threshold in enumerate(found):
        values, without = np.stack([scores[k], scores[k] + 1]), np.stack([none[k]] * 2)
        others = values[~without]
        possible = [each for each in (0, 1, 2, 3) if (others > each).any()]
        good = [each for each in possible if expected_error(values, without, each) <= error]
        if good:
            assert np.array_equal(others > threshold, others > good[0])
        elif others.size:  # the classifier is wrong: what it scores highest is taken
            assert (others >= threshold).sum() >= 0.01 * others.size


def test_level_of_known_scores() -> None:
    """Of 500 pixels without the class 50 score 5; so would 50 of the 500 others, were all empty."""
    scores, none = np.full((1, 10, 100), 10.0), np.zeros((1, 10, 100), bool)
    scores[:, :5], none[:, :5] = -1, True
    scores[:, 0, :50] = 5
    assert level([scores], [none], 0.10).tolist() == [0]
    assert level([scores], [none], 0.09).tolist() == [5]
    scores[:, 5:] = 4  # nothing keeps to the error: 4 is below the mistakes
    assert level([scores], [none], 0.09).tolist() == [4]


@given(scores=SCORES, data=st.data())
def test_targets_say_what_is_known(scores: np.ndarray, data: st.DataObject) -> None:
    none = data.draw(hnp.arrays(bool, scores.shape))
    low, high = sorted(data.draw(st.tuples(st.integers(-3, 3), st.integers(-3, 3))))
    made = targets(scores, none, low, high)
    assert made.dtype == np.float32 and made.shape == scores.shape
    assert (made[none] == 0).all()
    assert (made[(scores > high) & ~none] == 1).all()
    assert np.isin(made[(scores < low)], (0, 1)).all()
    between = ~none & (scores >= low) & (scores <= high)
    assert (np.isnan(made[between]) | (made[between] == 1)).all()
    # Whatever else is 1 lies in a hole: it cannot reach the border past the object.
    for k, plane in enumerate(made):
        objects = (scores[k] > high) & ~none[k]
        outside, _ = components(np.pad(~objects, 1, constant_values=True))
        holes = (outside != outside[0, 0])[1:-1, 1:-1] & ~objects
        assert ((plane == 1) == objects | (holes & ~none[k])).all()


@given(scores=SCORES, ring=st.integers(1, 3), data=st.data())
def test_near_an_outline_nothing_is_known_but_what_is_absent(scores, ring, data) -> None:
    none = data.draw(hnp.arrays(bool, scores.shape))
    sure, made = targets(scores, none, 0, 1), targets(scores, none, 0, 1, ring=ring)
    for (k, *at), value in np.ndenumerate(made):
        others = np.argwhere((sure[k] == 1) != (sure[k][*at] == 1))
        near = (((others - at) ** 2).sum(1) <= ring**2).any()
        expected = np.nan if near and not none[k][*at] else sure[k][*at]
        np.testing.assert_equal(value, expected)


@given(scores=SCORES, data=st.data())
def test_a_box_that_shows_a_class_has_some_of_it(scores: np.ndarray, data: st.DataObject) -> None:
    none = data.draw(hnp.arrays(bool, scores.shape))
    rows, columns = (slice(*sorted(data.draw(st.lists(st.integers(0, length), min_size=2,
                                                      max_size=2, unique=True))))
                     for length in scores.shape[1:])  # fmt: skip
    box = data.draw(st.integers(0, len(scores) - 1)), rows, columns
    without, made = targets(scores, none, 9, 9), targets(scores, none, 9, 9, [box])
    inside = np.zeros(scores.shape, bool)
    inside[box] = True
    assert (made[none] == 0).all() and (made >= without).all()
    possible, most = scores[inside & ~none], scores[inside].size
    if possible.size and np.unique(scores[inside]).size == most > 10:
        best = possible >= np.sort(possible)[-min(most // 10, possible.size)]
        assert (made[inside & ~none][best] == 1).all()


def test_targets_of_a_split_follow_from_evidence_and_labels(path, monkeypatch) -> None:
    monkeypatch.setattr(precision, "choose_precision", lambda: "32-true")
    model, data = random_model(num_classes=2), CropDataset(path, "training", 8, 8, RULE)
    images, made = of_split(model, path, data)
    samples = list(dataset.read(path, "training"))
    scores = []
    for each in samples:
        height, width = each.pixels.shape[1:]
        whole = evidence(model, padded(torch.from_numpy(each.pixels)[None], 16))
        scores.append(whole[0, :, :height, :width].numpy())
    without = absent(data, SHAPES)
    high = level(scores, without)
    assert len(images) == len(made) == len(SHAPES)
    for image, target, sample, score, none in zip(
        images, made, samples, scores, without, strict=True
    ):
        np.testing.assert_array_equal(image, sample.pixels)
        np.testing.assert_array_equal(target, targets(score, none, np.minimum(high, 0), high))
        assert (target[none] == 0).all()
    assert any((target == 1).any() for target in made)
    # A ring that would leave no object of a class is not drawn.
    for target, whole in zip(made, of_split(model, path, data, ring=9)[1], strict=True):
        np.testing.assert_array_equal(target, whole)


def test_a_guide_changes_the_scores_of_a_split(path: Path) -> None:
    model, data = random_model(num_classes=2), CropDataset(path, "training", 8, 8, RULE)
    seen = []

    def no(sample: dataset.Sample, score: np.ndarray) -> np.ndarray:
        seen.append((sample.name, score.shape))
        return np.full_like(score, -10)

    _, made = of_split(model, path, data, guide=no)
    samples = list(dataset.read(path, "training"))
    assert seen == [(each.name, (2, *each.image.shape[1:])) for each in samples]
    assert not any((target == 1).any() for target in made), "without a guide some are"


# --- crops -------------------------------------------------------------------------------------


def arrays(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images whose channels are the targets, 2 for unknown. Class 1 is rare, class 2 missing."""
    rng = np.random.default_rng(seed)
    masks = []
    for height, width in [(60, 80), (20, 50), (33, 10)]:
        mask = np.zeros((3, height, width), np.float32)
        mask[0, 5:9, 2:6] = 1
        mask[0, rng.random((height, width)) < 0.2] = np.nan
        masks.append(mask)
    masks[0][1, 59, 79] = 1
    return [np.nan_to_num(mask, nan=2) for mask in masks], masks


def crops(side: int = 24, n: int = 40, **options: object) -> PixelCrops:
    return PixelCrops(*arrays(), side, n, **options)


def loaded(data: PixelCrops, workers: int = 0) -> tuple[Tensor, Tensor]:
    batches = list(DataLoader(data, 8, num_workers=workers))
    return tuple(torch.cat(part) for part in zip(*batches, strict=True))


def test_half_of_the_crops_hold_an_object() -> None:
    images, masks = loaded(crops(16, 200))
    shown = (masks == 1).flatten(2).any(2)
    assert images.shape == masks.shape == (200, 3, 16, 16)
    assert images.dtype == masks.dtype == torch.float32
    assert shown[::2].any(1).all()
    assert 0.3 < shown[::2, 1].float().mean() < 0.7, "of a random class"
    assert shown[1::2].any(1).float().mean() < 0.7, "anywhere"
    assert crops().labels.tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("side", [8, 24, 96])
def test_image_and_target_are_turned_alike(side: int) -> None:
    """The image is the target, and tone keeps the order of 0, 1 and 2."""
    images, masks = loaded(crops(side))
    for image, mask in zip(images, masks, strict=True):
        known = torch.isfinite(mask)
        for value in (0, 1):
            assert len(image[known & (mask == value)].unique()) <= 1
        zeros, ones = (image[known & (mask == value)] for value in (0, 1))
        if len(zeros) and len(ones):
            assert ones.min() > zeros.max()


def test_crops_without_augmentation_are_parts_of_the_images() -> None:
    images, _ = arrays()
    plain = crops(10, augment=False)
    for image, mask in (plain[i] for i in range(20)):
        assert torch.equal(image, mask.nan_to_num(2))
        assert any(
            np.array_equal(image, whole[:, y : y + 10, x : x + 10])
            for whole in images
            for y in range(whole.shape[1] - 9)
            for x in range(whole.shape[2] - 9)
        )


def test_small_images_are_mirrored_where_nothing_is_known() -> None:
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    made, mask = PixelCrops([image], [np.ones((2, 3, 4), np.float32)], 8, 1, augment=False)[0]
    assert torch.equal(mask[:, :3, :4], torch.ones(2, 3, 4))
    assert mask[:, 3:].isnan().all() and mask[:, :, 4:].isnan().all()
    assert made[0].tolist() == np.pad(image[0], [(0, 5), (0, 4)], mode="reflect").tolist()


def test_each_pixel_of_a_class_is_as_likely() -> None:
    """Drawn by the thousand, as crops of one pixel: within five standard errors."""
    masks = [np.zeros((1, 2, 5), np.float32), np.zeros((1, 1, 3), np.float32)]
    masks[0][0, 1, :3], masks[1][0, 0, 2] = 1, 1
    masks[0][0, 0, 0] = np.nan
    images = [np.arange(10.0).reshape(1, 2, 5), np.arange(10.0, 13).reshape(1, 1, 3)]
    data = PixelCrops([np.float32(image) for image in images], masks, 1, 2600, augment=False)
    drawn = [int(data[i][0]) for i in range(2600)]
    assert set(drawn[::2]) == {5, 6, 7, 12}, "pixels of the class"
    assert max(abs(drawn[::2].count(pixel) - 325) for pixel in (5, 6, 7, 12)) < 80
    assert set(drawn[1::2]) == set(range(1, 13)), "anywhere but where nothing is known"
    assert max(map(drawn[1::2].count, range(13))) < 160


def test_crops_are_those_of_seed_and_epoch_for_any_number_of_workers() -> None:
    def equal(a: tuple, b: tuple) -> bool:
        return all(torch.equal(x.nan_to_num(9), y.nan_to_num(9)) for x, y in zip(a, b, strict=True))

    base, later = loaded(crops()), crops()
    assert equal(base, loaded(crops())) and equal(base, loaded(crops(), 2))
    assert equal(crops()[-1], crops()[39])
    later.set_epoch(1)
    assert not equal(base, loaded(later)) and not equal(base, loaded(crops(seed=1)))
    with pytest.raises(IndexError):
        crops()[40]


def test_crops_of_images_without_the_class_lie_anywhere() -> None:
    images, masks = arrays()
    data = PixelCrops(images, [mask * 0 for mask in masks], 8, 20)
    assert not data.labels.any()
    assert not any((target == 1).any() for _, target in data)


IMAGES, MASKS = arrays()
SCORES_OF_TWO = np.zeros((2, 4, 4))
BAD = {
    "no error": (lambda: level([SCORES_OF_TWO], [SCORES_OF_TWO == 0], 0), "above 0 and at most 1"),
    "any error": (lambda: level([SCORES_OF_TWO], [SCORES_OF_TWO == 0], 2), "above 0 and at most 1"),
    "no crop without": (lambda: level([SCORES_OF_TWO], [SCORES_OF_TWO != 0], 0.1),
                        "Class 0 is absent from no crop"),
    "thresholds": (lambda: targets(SCORES_OF_TWO, SCORES_OF_TWO > 0, 1, 0), "must not be above"),
    "fewer masks": (lambda: PixelCrops(IMAGES, MASKS[:2], 8, 1), "differ in number or size"),
    "other masks": (lambda: PixelCrops(IMAGES[::-1], MASKS, 8, 1), "differ in number or size"),
    "no side": (lambda: PixelCrops(IMAGES, MASKS, 0, 1), "must be 1 or more"),
    "nothing known": (lambda: PixelCrops(IMAGES, [m * np.nan for m in MASKS], 8, 1),
                      "Nothing is known of any pixel"),
    "no crop": (lambda: PixelCrops(IMAGES, MASKS, 8, 0), "must be 1 or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_unet_is_trained_on_the_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two classes, each a channel of the image; an interrupted run sees the same crops."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    images, masks = ([array[:2] for array in part] for part in arrays())
    options = {"network": "UNet", "batch_size": 4, "learning_rate": 1e-2, "precision": "32-true"}

    def fit(folder: str, epochs: int) -> Tensor:
        data = PixelCrops(images, masks, 16, 16)
        held_out = PixelCrops(images, masks, 16, 8, seed=1, augment=False)
        tr.fit(data, held_out, tmp_path / folder, epochs, schedule="plateau", **options)
        return tr.load(tmp_path / folder, "last").lastConv.weight

    whole = fit("whole", 3)
    fit("parts", 1)
    assert torch.equal(fit("parts", 3), whole)
    losses = tr.history(tmp_path / "whole")["loss"]
    assert losses[-1] < losses[0]
