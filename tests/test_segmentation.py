"""Combination, smoothing and thresholds against NumPy, SciPy, scikit-learn and scikit-image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_images, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import gaussian, threshold_otsu, threshold_triangle
from sklearn.decomposition import PCA
from torch import Tensor

from micranet_helpers import maps as seg
from micranet_helpers.maps import recipes
from micranet_helpers.maps.cam import grad_cam
from micranet_helpers.maps.segmentation import magnified
from micranet_helpers.networks.micranet import MICRANet

quick = settings(max_examples=20, deadline=None)


def correlated_maps(*leading: int, seed: int = 0, layers: int = 8) -> Tensor:
    """Noisy copies of one pattern: the first component stands out, as in real maps."""
    pattern = random_images(*leading, 1, 12, 9, seed=seed)
    gains = torch.linspace(1, 0.3, layers)[:, None, None]
    return gains * pattern + 0.2 * random_images(*leading, layers, 12, 9, seed=seed + 1)


# Combination


@quick
@given(
    st.sampled_from(["mean", "sum", "prod"]),
    st.none() | st.lists(st.integers(-8, 7), min_size=1, max_size=9),
    st.sampled_from([(), (2,), (2, 1, 3)]),
)
def test_combination_against_numpy(how, layers, leading) -> None:
    maps = random_images(*leading, 8, 5, 6)
    chosen = maps.numpy() if layers is None else maps.numpy()[..., layers, :, :]
    actual = seg.combine(maps, how, layers)
    assert actual.shape == (*leading, 5, 6)
    np.testing.assert_allclose(actual, getattr(np, how)(chosen, axis=-3), rtol=1e-5)


def test_pca_leaves_4b_out_and_takes_its_sign_from_it() -> None:
    maps = correlated_maps(2)
    maps[:, 7] *= -1
    expected = seg.pca(maps[:, :7], maps[:, 7])
    assert torch.equal(seg.combine(maps), expected)
    assert torch.equal(seg.combine(maps, "pca", range(7)), expected)
    assert not torch.allclose(seg.combine(maps, "pca", range(8)).abs(), expected.abs())
    five = maps[:, :5]
    assert torch.equal(seg.combine(five), seg.pca(five, five[:, 4]))


@quick
@given(st.integers(0, 99), st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True))
def test_pca_against_sklearn(seed: int, layers: list[int]) -> None:
    maps = correlated_maps(seed=seed)
    points = maps[layers].flatten(1).T.double().numpy()
    expected = PCA(1, svd_solver="full").fit_transform(points)[:, 0]
    actual = seg.combine(maps, "pca", layers).flatten().numpy()
    expected *= np.sign(expected @ actual)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@quick
@given(st.integers(0, 99))
def test_pca_correlates_positively_with_the_reference(seed: int) -> None:
    maps = correlated_maps(seed=seed)
    reference = maps[7]
    scores = seg.pca(maps[:7], reference)

    def covariance(scores: Tensor, other: Tensor) -> Tensor:
        return ((scores - scores.mean()) * (other - other.mean())).mean()

    assert covariance(scores, reference) > 0
    torch.testing.assert_close(seg.pca(-maps[:7], reference), scores)
    torch.testing.assert_close(seg.pca(maps[:7], -reference), -scores)
    torch.testing.assert_close(seg.pca(maps[:7], 1e-3 * reference + 5), scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3.0])
def test_pca_with_a_constant_reference_counts_the_largest_loading(value: float) -> None:
    """Layer 2 varies most; its loading is positive whatever the signs of the others."""
    maps = correlated_maps(layers=4)
    maps[2] *= 10
    reference = torch.full((12, 9), value)
    for signs in ([1, 1, 1, 1], [-1, -1, 1, -1], [1, 1, -1, 1]):
        signed = maps * torch.tensor(signs)[:, None, None]
        scores = seg.pca(signed, reference)
        assert (scores * (signed[2] - signed[2].mean())).sum() > 0


@pytest.mark.parametrize("values", [[0.0] * 7, [1.0] * 7, [0.1, -0.3, 0.7, 1 / 3, 0.9, 1e6, -2]])
def test_pca_of_constant_maps_is_zero(values: list[float]) -> None:
    maps = torch.tensor(values)[:, None, None].expand(7, 12, 9)
    assert not seg.pca(maps, random_images(12, 9)).any()


def test_pca_of_constant_maps_beside_others_does_not_spread() -> None:
    maps = correlated_maps(3)
    maps[1] = 0
    scores = seg.combine(maps)
    assert scores.isfinite().all()
    assert not scores[1].any()
    torch.testing.assert_close(scores[[0, 2]], seg.combine(maps[[0, 2]]))


# Smoothing


@quick
@given(st.floats(0.2, 6), st.integers(1, 40), st.integers(1, 40))
def test_gaussian_against_scikit_image(sigma: float, height: int, width: int) -> None:
    maps = random_images(2, 3, height, width)
    expected = gaussian(maps.numpy(), (0, 0, sigma, sigma))
    np.testing.assert_allclose(seg.gaussian(maps, sigma), expected, atol=2e-6)


def test_gaussian_of_width_zero_changes_nothing() -> None:
    maps = random_images(2, 5, 6)
    assert torch.equal(seg.gaussian(maps, 0), maps)


# Thresholds


THRESHOLDS = {seg.otsu: threshold_otsu, seg.triangle: threshold_triangle}


def images_to_threshold(dtype: torch.dtype = torch.float32) -> Tensor:
    """Random, smooth, two-humped, skewed to either side, and constant: (6, 40, 50)."""
    noise = random_images(6, 40, 50).to(dtype)
    noise[1] = seg.gaussian(noise[1], 3)
    noise[2] = torch.where(noise[2] > 0.7, 2 + noise[1], noise[1])
    noise[3] = noise[3] ** 6
    noise[4] = -3 * noise[4] ** 6
    noise[5] = 0.1
    return noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("function", THRESHOLDS)
def test_thresholds_against_scikit_image(function, dtype: torch.dtype) -> None:
    images = images_to_threshold(dtype)
    masks = function(images)
    assert masks.dtype == torch.bool and masks.shape == images.shape
    for mask, image in zip(masks[:-1], images[:-1].numpy(), strict=True):
        np.testing.assert_array_equal(mask, image > THRESHOLDS[function](image))
        assert mask.any() and not mask.all()
    assert not masks[-1].any()


@pytest.mark.parametrize("q", [0, 0.5, 29, 50, 80, 99, 100])
def test_percentile_against_numpy(q: float) -> None:
    images = images_to_threshold()
    masks = seg.percentile(images, q)
    for mask, image in zip(masks, images.double().numpy(), strict=True):
        np.testing.assert_array_equal(mask, image > np.percentile(image, q, method="lower"))
    assert masks[0].float().mean() == pytest.approx(1 - q / 100, abs=1 / 40)
    assert not masks[-1].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda maps: seg.combine(maps, "median"), 'not "median"'),
        (lambda maps: seg.combine(maps, "pca", [8]), "from 0 to 7, at least one"),
        (lambda maps: seg.combine(maps, "mean", [0, -9]), "from 0 to 7, at least one"),
        (lambda maps: seg.combine(maps, layers=[]), "from 0 to 7, at least one"),
        (lambda maps: seg.combine(maps[0]), r"\(\.\.\., layers, H, W\)"),
        (lambda maps: seg.combine(maps[:, :0]), r"\(\.\.\., layers, H, W\)"),
        (lambda maps: seg.percentile(maps, 100.1), "from 0 to 100"),
        (lambda maps: seg.percentile(maps, float("nan")), "from 0 to 100"),
        (lambda maps: seg.segment([], maps[None], PLAIN), "at least one model"),
    ],
)
def test_what_does_not_exist_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(random_images(8, 4, 4))


# Recipes


def above_half_of_the_peak(scores: Tensor, images: Tensor) -> Tensor:
    return scores >= scores.amax((-2, -1), keepdim=True) / 2


def mean_of(*layers: str):
    return seg.from_maps(lambda maps, images: seg.combine(maps, "mean"), layers)


PLAIN = seg.Recipe("plain", mean_of("2b", "4b"), above_half_of_the_peak)


@pytest.fixture(scope="module")
def divided() -> tuple[MICRANet, Tensor]:
    """A network and four images for which it predicts some classes and others not."""
    model, images = random_model(num_classes=4, seed=5), random_images(4, 1, 32, 32)
    with torch.no_grad():
        logits = model(images)
        model.linear1.bias -= logits.median(0).values + 1e-3
        model.linear1.bias[3] = -99
    return model, images


def test_segment_follows_the_recipe(divided: tuple[MICRANet, Tensor]) -> None:
    model, images = divided
    masks, scores, probabilities = seg.segment(model, images, PLAIN)
    torch.testing.assert_close(probabilities, model(images).sigmoid().detach())
    maps = grad_cam(model, images, probabilities > 0.5).maps
    torch.testing.assert_close(scores, maps[:, :, [3, 7]].mean(2))
    assert masks.dtype == torch.bool
    predicted = probabilities > 0.5
    assert predicted.any() and not predicted.all()
    assert torch.equal(masks[predicted], (scores >= scores.amax((-2, -1), True) / 2)[predicted])


@pytest.mark.parametrize("side", [None, 16])
def test_classes_that_are_not_predicted_get_empty_masks(divided, side) -> None:
    """Even by a recipe that marks every pixel."""
    recipe = seg.Recipe("all", mean_of("4b"), lambda scores, images: torch.ones_like(scores) > 0)
    segments = seg.segment(*divided, recipe, side)
    predicted = segments.probabilities > 0.5
    assert predicted.any() and not predicted.all()
    assert torch.equal(segments.masks.all((-2, -1)), predicted)
    assert torch.equal(segments.masks.any((-2, -1)), predicted)


def test_tiles_take_images_of_any_size_and_the_highest_probability() -> None:
    model, image = random_model(3, 2), random_images(1, 3, 37, 50)
    segments = seg.segment(model, image, PLAIN, side=24, stride=13)
    assert segments.masks.shape == segments.scores.shape == (1, 2, 37, 50)
    padded = torch.nn.functional.pad(image, (0, 13, 0, 13), mode="reflect")
    tiles = [padded[:, :, y : y + 24, x : x + 24] for y in (0, 13) for x in (0, 13, 26)]
    expected = torch.cat([model(tile) for tile in tiles]).sigmoid().amax(0)
    torch.testing.assert_close(segments.probabilities[0], expected.detach())


def test_default_stride_is_a_third_of_a_tile(divided: tuple[MICRANet, Tensor]) -> None:
    third, default = (seg.segment(*divided, PLAIN, 24, stride) for stride in (8, None))
    assert all(torch.equal(a, b) for a, b in zip(third, default, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu() -> None:
    maps = correlated_maps(2)
    for how in ("pca", "mean"):
        on_gpu = seg.combine(maps.cuda(), how)
        assert on_gpu.is_cuda
        torch.testing.assert_close(on_gpu.cpu(), seg.combine(maps, how), atol=1e-4, rtol=1e-4)
    images = images_to_threshold()
    for function in (*THRESHOLDS, lambda maps: seg.percentile(maps, 80)):
        assert (function(images.cuda()).cpu() == function(images)).float().mean() > 0.999


@pytest.mark.parametrize("side", [None, 16])
@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.ones(1, 1, 32, 32, dtype=torch.uint8), TypeError, "scale them to float32"),
        (torch.ones(0, 1, 32, 32), ValueError, "empty"),
        (torch.ones(1, 32, 32), ValueError, "shape"),
        (torch.ones(1, 1, 5, 32, 32), ValueError, "shape"),
        (torch.ones(1, 1, 32, 32, dtype=torch.uint16), TypeError, "scale them to float32"),
        (torch.ones(1, 3, 32, 32), ValueError, "shape"),
        (torch.full((1, 1, 32, 32), torch.nan), ValueError, "NaN"),
        (torch.ones(1, 1, 37, 4), ValueError, "too small"),
    ],
    ids=["uint8", "empty", "rank", "z-stack", "16 bit", "channels", "NaN", "small"],
)
def test_images_that_do_not_fit_are_refused(model, images, error, message, side) -> None:
    with pytest.raises(error, match=message):
        seg.segment(model, images, PLAIN, side)


# Any size, several models, thresholds


@quick
@given(st.integers(9, 40), st.integers(9, 40))
def test_sides_that_are_no_multiples_of_8_are_mirrored_and_cropped_back(height, width) -> None:
    model, images = random_model(num_classes=2), random_images(1, 1, height, width)
    segments = seg.segment(model, images, PLAIN)
    below, beside = -height % 8, -width % 8
    larger = torch.nn.functional.pad(images, (0, beside, 0, below), mode="reflect")
    whole = seg.segment(model, larger, PLAIN)
    assert torch.equal(segments.scores, whole.scores[..., :height, :width])
    assert torch.equal(segments.probabilities, whole.probabilities)
    expected = above_half_of_the_peak(segments.scores, images)
    predicted = segments.probabilities[..., None, None] > 0.5
    assert torch.equal(segments.masks, expected & predicted)


def test_scores_and_logits_of_several_models_are_averaged() -> None:
    images = random_images(2, 1, 32, 32)
    models = [random_model(num_classes=2, seed=seed) for seed in range(3)]
    with torch.no_grad():
        for model, bias in zip(models, (9.0, 9.0, -9.0), strict=True):
            model.linear1.bias[0] += bias - model(images)[:, 0].mean()
    together = seg.segment(models, images, PLAIN)
    alone = [seg.segment(model, images, PLAIN) for model in models]
    mean = torch.stack([each.scores for each in alone]).mean(0)
    torch.testing.assert_close(together.scores, mean)
    assert alone[0].scores[:, 0].any() and not alone[2].scores[:, 0].any()
    logits = torch.stack([model(images).detach() for model in models]).mean(0)
    torch.testing.assert_close(together.probabilities, logits.sigmoid())
    assert (together.probabilities[:, 0] > 0.5).all() and together.masks[:, 0].any()


def test_a_class_is_predicted_from_its_threshold_on(divided: tuple[MICRANet, Tensor]) -> None:
    """Thresholds at the very probabilities of the first image, and just above them."""
    model, images = divided
    probabilities = seg.segment(model, images, PLAIN).probabilities
    at = seg.segment(model, images, PLAIN, thresholds=probabilities[0].tolist())
    above = seg.segment(model, images, PLAIN, thresholds=(probabilities[0] + 1e-4).tolist())
    assert at.masks[0].flatten(1).any(1).all() and not above.masks[0].any()
    assert at.scores[0].flatten(1).any(1).all() and not above.scores[0].any()
    expected = probabilities >= probabilities[0]
    assert torch.equal(at.masks.flatten(2).any(2), expected)
    torch.testing.assert_close(at.probabilities, probabilities)


def test_crops_side_by_side_are_segmented_each_for_itself(divided: tuple[MICRANet, Tensor]) -> None:
    model, images = divided
    rows = [torch.cat(list(images[i : i + 2]), -1) for i in (0, 2)]
    each = seg.segment(model, images, PLAIN).masks
    expected = torch.cat([torch.cat(list(each[i : i + 2]), -1) for i in (0, 2)], -2)
    masks = seg.crop_by_crop(model, torch.cat(rows, -2), PLAIN, 32)
    assert masks.dtype == torch.bool and torch.equal(masks, expected)
    none = seg.crop_by_crop(model, torch.cat(rows, -2), PLAIN, 32, thresholds=[1.1] * 4)
    assert expected.any() and not none.any()


@pytest.mark.parametrize("kind", ["published", "default"])
def test_only_the_network_runs_in_half_precision(kind: str) -> None:
    model, images = random_model(num_classes=2, seed=1), random_images(1, 1, 96, 96)
    images = seg.gaussian(images, 3)
    plain = recipes.recipe("mnist", kind)
    seen = []

    def mask(scores: Tensor, pictures: Tensor) -> Tensor:
        seen.append((scores.dtype, (scores @ scores.mT).dtype))
        return plain.mask(scores, pictures)

    recipe = replace(plain, mask=mask)
    exact = seg.segment(model, images, recipe, thresholds=[0, 0])
    with torch.autocast("cpu", torch.bfloat16):
        half = seg.segment(model, images, recipe, thresholds=[0, 0])
    assert seen == [(torch.float32, torch.float32)] * 2
    assert not torch.equal(half.probabilities, exact.probabilities)  # autocast was on
    assert half.scores.dtype == torch.float32
    assert (half.scores - exact.scores).abs().mean() < 0.03 < exact.scores.std()


def test_sides_of_magnified_images_are_rounded_and_never_nothing() -> None:
    image = torch.rand(1, 2, 1, 103)
    assert magnified(image, 0.5).shape == (1, 2, 1, 52)
    assert torch.equal(magnified(image, 1.0), image)
