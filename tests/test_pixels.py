"""The pixel classifier: filters by oracles, a texture to learn; strokes within their objects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_erosion,
    gaussian_filter,
    gaussian_gradient_magnitude,
    gaussian_laplace,
)
from scipy.stats import rankdata
from skimage.measure import label as connected_regions
from skimage.morphology import skeletonize

from micranet_helpers.lessons.baselines import pixels
from micranet_helpers.lessons.baselines.pixels import SIGMAS, features, fit, predict, scribbles


@pytest.fixture
def two_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faster, where the scales do not matter."""
    monkeypatch.setattr(pixels, "SIGMAS", (0.3, 1.0))


def random_image(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


def seven(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """The features of one scale of an image of one channel."""
    found = features(image)
    assert found.shape == (43, *image.shape[1:]) and found.dtype == np.float32
    first = 7 * SIGMAS.index(sigma) - 6
    return found[first : first + 7]


# --- features ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.7, 1.6, 5])
def test_smoothing_laplacian_and_gradient_are_those_of_scipy(sigma: float) -> None:
    image = random_image(1, 40, 56)
    oracles = (gaussian_filter, gaussian_laplace, gaussian_gradient_magnitude)
    for found, oracle in zip(seven(image, sigma)[:3], oracles, strict=True):
        np.testing.assert_allclose(found, oracle(image[0], sigma, mode="reflect"), atol=1e-5)


def test_eigenvalues_of_a_paraboloid_and_a_ramp_are_those_of_calculus() -> None:
    y, x = np.mgrid[:81, :81].astype(np.float32) - 40
    curved = 0.3 * y**2 + 0.2 * y * x - 0.1 * x**2
    expected = np.linalg.eigvalsh([[0.6, 0.2], [0.2, -0.2]])[::-1]
    np.testing.assert_allclose(seven(curved[None], 3.5)[5:, 40, 40], expected, atol=0.01)
    first, second = seven((0.3 * y + 0.4 * x)[None], 3.5)[3:5, 40, 40]
    assert first > 1e4 * abs(second), "a ramp rises in one direction"
    steeper = seven((0.6 * y + 0.8 * x)[None], 3.5)[3, 40, 40]
    assert steeper == pytest.approx(4 * first, rel=1e-4), "the tensor is quadratic in the slope"


def test_features_are_ordered_by_channel_and_scale() -> None:
    image = random_image(3, 20, 24)
    found = features(image)
    assert found.shape == (3 * 43, 20, 24)
    for c in range(3):
        np.testing.assert_array_equal(found[c * 43], gaussian_filter(image[c], 0.3))
        for s, sigma in enumerate(SIGMAS[1:]):
            first = c * 43 + 1 + 7 * s
            np.testing.assert_array_equal(found[first : first + 7], seven(image[c : c + 1], sigma))


# --- classifier --------------------------------------------------------------------------------


def textures(seed: int, side: int = 160) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Coarse texture on fine texture, with the same histogram of intensities."""
    rng = np.random.default_rng(seed)
    objects = gaussian_filter(rng.normal(size=(side, side)), 16) > 0
    noise = (gaussian_filter(rng.normal(size=(side, side)), sigma) for sigma in (2, 0))
    coarse, fine = (rankdata(each).reshape(each.shape) / each.size for each in noise)
    return np.where(objects, coarse, fine).astype(np.float32)[None], objects[None].astype(np.uint8)


@pytest.mark.parametrize("sigmas, low, high", [(SIGMAS, 0.9, 1), ((0.3,), 0.35, 0.65)])
def test_a_texture_is_learnt_that_intensity_cannot_show(sigmas, low, high, monkeypatch) -> None:
    """From a few strokes on one image, for another; 0.5 would be chance."""
    monkeypatch.setattr(pixels, "SIGMAS", sigmas)
    image, label = textures(0)
    other, truth = textures(1)
    probability = predict(fit([image], [scribbles(label, strokes=8)]), other)
    assert probability.shape == truth.shape and probability.dtype == np.float32
    assert low < ((probability > 0.5) == truth).mean() < high


def classes(num_classes: int, channels: int = 1, shape: tuple = (40, 48)) -> tuple[NDArray, ...]:
    """Vertical bands of one brightness each, and what is drawn on the upper half."""
    bands = np.arange(shape[1]) * (num_classes + 1) // shape[1]
    image = np.broadcast_to(bands, (channels, *shape)) + 0.1 * random_image(channels, *shape)
    drawn = np.broadcast_to(bands + 1, shape).copy()
    drawn[shape[0] // 2 :] = 0
    return image.astype(np.float32), drawn


@pytest.mark.usefixtures("two_scales")
@pytest.mark.parametrize("num_classes, channels", [(1, 1), (2, 3)])
def test_planes_are_the_classes_without_background(num_classes: int, channels: int) -> None:
    image, drawn = classes(num_classes, channels)
    found = predict(fit([image], [drawn]), image)
    assert found.shape == (num_classes, *drawn.shape)
    assert found.min() >= 0 and (found.sum(0) <= 1 + 1e-6).all()
    for k, plane in enumerate(found):
        assert ((plane > 0.5)[:20] == (drawn == k + 2)[:20]).mean() > 0.99


@pytest.mark.usefixtures("two_scales")
def test_seed_and_scribbles_settle_the_forest() -> None:
    image, drawn = textures(0)[0], scribbles(textures(0)[1], 4)

    def thresholds(seed: int, order: int = 1) -> list:
        pair = [image, image[:, ::-1].copy()][::order], [drawn, drawn[::-1].copy()][::order]
        return [tree.tree_.threshold.tolist() for tree in fit(*pair, seed)]

    base = thresholds(0)
    assert len(base) == 100
    assert base == thresholds(0) and base != thresholds(1)


@pytest.mark.usefixtures("two_scales")
def test_how_much_is_drawn_on_a_class_does_not_weigh() -> None:
    """Where both look the same, both stay as likely, though one is drawn on nine times as much."""
    drawn = np.ones((20, 20), int)
    drawn[:, :2] = 2
    found = predict(fit([np.zeros((1, 20, 20))], [drawn]), np.zeros((1, 5, 5)))
    np.testing.assert_allclose(found, 0.5, atol=0.05)


@pytest.mark.parametrize("shape", [(101, 130), (30, 140)])
def test_tiles_give_what_the_whole_image_gives(shape, monkeypatch) -> None:
    image, drawn = random_image(2, *shape), np.zeros(shape, int)
    drawn[::4, ::5], drawn[1::4, ::5] = 1, 2
    classifier = fit([image], [drawn])
    whole = predict(classifier, image)
    monkeypatch.setattr(pixels, "TILE", 64)
    np.testing.assert_allclose(predict(classifier, image), whole, atol=1e-5)


@pytest.mark.usefixtures("two_scales")
def test_bad_images_and_scribbles_are_refused() -> None:
    image, drawn = classes(1)
    holes = image.copy()
    holes[0, 0, 0] = np.nan
    for bad, message in [
        (([image[0]], [drawn]), "channels, height, width"),
        (([holes], [drawn]), "NaN or infinite"),
        (([], []), "Give 0 images"),
        (([image, image], [drawn]), "Give 2 images, not 1, their scribbles"),
        (([image], [drawn[:-1]]), r"image's size \(40, 48\), not \(39, 48\)"),
        (([image], [drawn - 1]), "from 0 .* from -1"),
        (([image], [drawn.astype(float)]), "must hold integers"),
        (([image], [drawn * 0]), "No pixel has the value 1"),
        (([image], [drawn * (drawn == 1)]), "No pixel has the value 2: draw on the background"),
        (([image], [drawn * (drawn == 2)]), "No pixel has the value 1: draw on the background"),
        (([image], [drawn + (drawn == 2)]), "No pixel has the value 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(*bad)
    with pytest.raises(ValueError, match="has 24 features, but .* expecting 8"):
        predict(fit([image], [drawn]), np.repeat(image, 3, 0))


# --- scribbles ---------------------------------------------------------------------------------


def random_label(seed: int, num_classes: int) -> NDArray[np.uint16]:
    """Rectangles of any size, which touch, cover and cross those of other classes."""
    rng = np.random.default_rng(seed)
    label = np.zeros((num_classes, 48, 64), np.uint16)
    for number in range(1, rng.integers(2, 12)):
        (top, left), (height, width) = rng.integers(0, (46, 62)), rng.integers(1, 20, 2)
        label[rng.integers(num_classes), top : top + height, left : left + width] = number
    return label


def drawn_so(label, strokes, length, margin=2, seed=0) -> NDArray[np.uint8]:
    """Scribbles of strokes of another length, or with another margin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "LENGTH", length)
        patch.setattr(pixels, "MARGIN", margin)
        return scribbles(label, strokes, seed)


def alone(label: NDArray[np.uint16]) -> list[NDArray[np.uint16]]:
    """The background, then the objects of each class where no other class is."""
    shown = (label > 0).sum(0)
    return [(shown == 0).astype(np.uint16), *(plane * (shown == 1) for plane in label)]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    num_classes=st.integers(1, 3),
    strokes=st.integers(1, 6),
    length=st.integers(1, 25),
    margin=st.integers(0, 3),
)
def test_strokes_lie_inside_one_object_of_their_class(seed, num_classes, strokes, length, margin):
    label = random_label(seed, num_classes)
    drawn = drawn_so(label, strokes, length, margin, seed)
    assert drawn.dtype == np.uint8 and drawn.shape == label.shape[1:]
    for value, plane in enumerate(alone(label), 1):
        painted = connected_regions(drawn == value)
        assert painted.max() <= strokes
        assert painted.max() >= (plane > 0).any()
        assert (plane[drawn == value] > 0).all()
        for stroke in range(1, painted.max() + 1):
            [number] = np.unique(plane[painted == stroke])
            regions = connected_regions(plane == number)
            region = regions == regions[painted == stroke][0]
            assert region[painted == stroke].all()
            box = np.ones((2 * margin + 1,) * 2)
            allowed = binary_erosion(region, box, border_value=1) | skeletonize(region)
            assert allowed[painted == stroke].all(), "off the border, or in the middle"
            assert np.ptp(np.nonzero(painted == stroke), axis=1).max() < length


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_large_objects_get_the_strokes_that_are_asked_for(seed: int) -> None:
    label = np.zeros((2, 128, 128), np.uint8)
    label[0, 5:60, 5:120], label[1, 70:120, 5:60], label[1, 70:120, 60:120] = 1, 1, 2
    drawn = drawn_so(label, strokes=5, length=12, seed=seed)
    assert connected_regions(drawn).max() == 15
    for value in (1, 2, 3):
        strokes = connected_regions(drawn == value)
        assert strokes.max() == 5
        sizes = np.bincount(strokes.ravel())[1:]
        assert sizes.min() >= 8 and sizes.max() <= 12  # straight; 12 / √2 px at 45°


def test_strokes_follow_a_bent_fibre_and_differ_by_seed() -> None:
    label = np.zeros((1, 60, 60), np.uint8)
    label[0, 10:13, 10:50] = label[0, 10:50, 10:13] = 1
    turns = 0
    for seed in range(20):
        drawn = drawn_so(label, 1, length=30, seed=seed)
        rows, columns = np.nonzero(drawn == 2)
        assert (((rows == 11) | (columns == 11)) & (np.maximum(rows, columns) < 50)).all()
        turns += np.ptp(rows) > 5 and np.ptp(columns) > 5
    assert turns > 2
    again = [scribbles(label, 4, seed=seed) for seed in (1, 1, 2)]
    assert (again[0] == again[1]).all() and (again[0] != again[2]).any()


def test_strokes_stop_where_there_is_no_more_room() -> None:
    label = np.zeros((1, 30, 30), np.uint8)
    label[0, 10, 10] = label[0, 20, 20:22] = label[0, 2:8, 24:30] = 1
    drawn = drawn_so(label, strokes=9, length=4)
    assert drawn[10, 10] == 2 and (drawn[20, 20:22] == 2).all(), "thin objects of a mask, too"
    assert 3 <= connected_regions(drawn == 2).max() < 9
    assert connected_regions(drawn == 1).max() == 9
    assert not scribbles(label + 1, strokes=2)[label[0] > 5].any()
    whole = scribbles(np.ones((1, 30, 30), int), strokes=2)
    assert set(np.unique(whole)) == {0, 2}, "no background, nothing drawn on it"


def test_bad_drawings_are_refused() -> None:
    label = random_label(0, 1)
    with pytest.raises(ValueError, match="must be 1 or more, not 0"):
        scribbles(label, 0)
    for bad in (label[0], label.astype(float)):
        with pytest.raises(ValueError, match=r"integers from 0 .* of shape \(K, H, W\)"):
            scribbles(bad, 1)
