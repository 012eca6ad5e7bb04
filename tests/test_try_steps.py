"""The graphs of the page `try` in onnxruntime: they compute what the package does."""

from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import onnxruntime
import pytest
import torch
from conftest import random_images
from hypothesis import assume, given
from hypothesis import strategies as st
from micranet_book import steps

from micranet_helpers.data.scaling import normalize, scale_of
from micranet_helpers.maps import combine, gaussian, otsu, triangle
from micranet_helpers.plots.colours import SCORES

sides = st.integers(9, 60)
seeds = st.integers(0, 10**6)


@cache
def session(name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    proto = steps.STEPS[name].to_model_proto()
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(name: str, *values: Any) -> Any:
    """Run a step on values in the order of its inputs."""
    names = [each.name for each in session(name).get_inputs()]
    found = session(name).run(None, dict(zip(names, map(np.asarray, values), strict=True)))
    return found if len(found) > 1 else found[0]


def number(value: float, kind: type = np.float32) -> np.ndarray:
    return np.array([value], kind)


def smooth(*shape: int, seed: int) -> torch.Tensor:
    """Maps as they are: smooth, in [0, 1]."""
    maps = gaussian(random_images(*shape, seed=seed), 2.0)
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low)


@given(sides, sides, st.sampled_from(["pca", "mean", "sum", "prod"]),
       st.lists(st.booleans(), min_size=8, max_size=8).filter(any), seeds)  # fmt: skip
def test_combinations(height: int, width: int, how: str, chosen: list[bool], seed: int) -> None:
    maps = smooth(8, height, width, seed=seed)
    expected = combine(maps, how, np.flatnonzero(chosen).tolist())
    np.testing.assert_allclose(run(how, maps, chosen), expected, atol=3e-5)


def test_constant_maps_have_a_component_of_zeros() -> None:
    assert not run("pca", np.full((8, 9, 9), 0.3, np.float32), [True] * 8).any()


@given(sides, sides, st.integers(0, 20).map(lambda half: half / 2), seeds)
def test_smoothing(height: int, width: int, sigma: float, seed: int) -> None:
    score = random_images(height, width, seed=seed)
    found = run("smoothed", score, number(sigma))
    np.testing.assert_allclose(found, gaussian(score, sigma), atol=2e-6)


@given(sides, sides, st.sampled_from([otsu, triangle]), st.sampled_from([1, 3]), seeds)
def test_thresholds(height: int, width: int, mark: Any, power: int, seed: int) -> None:
    score = smooth(height, width, seed=seed) ** power
    level = float(run(mark.__name__, score))
    np.testing.assert_array_equal(score > level, mark(score))


@pytest.mark.parametrize("name", ["otsu", "triangle", "none"])
def test_nothing_is_above_the_threshold_of_a_constant_score(name: str) -> None:
    score = np.full((9, 9), 0.3, np.float32)
    assert not (score > run(name, score)).any()


@given(st.integers(1, 3), sides, sides, st.sampled_from(["fixed", "minmax", "standard"]),
       st.sampled_from([np.uint8, np.uint16]), seeds)  # fmt: skip
def test_scaling(
    channels: int, height: int, width: int, how: str, kind: type, seed: int
) -> None:  # fmt: skip
    image = random_images(channels, height, width, seed=seed).numpy() * np.iinfo(kind).max
    image = image.astype(kind)
    image[0] = image[0, 0, 0] if seed % 5 == 0 else image[0]  # now and then a constant channel
    values, kind = image.astype(np.float32), image.dtype
    assume(how != "fixed" or kind == np.uint8)
    found = run(how, values, number(0), number(1 / 255), np.array([0, 0, 0, 0, 7, 5]))
    scaled = normalize(image, *scale_of(image, how))
    expected = np.pad(scaled, [(0, 0), (0, 7), (0, 5)], mode="reflect")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_pictures_go_from_black_to_white_unless_they_are_shown_as_they_are() -> None:
    image = np.array([[[10, 20], [30, 50]]] * 3, np.float32)
    np.testing.assert_array_equal(run("visible", image, [True]), image.transpose(1, 2, 0))
    stretched = [[[0], [63]], [[127], [255]]]
    np.testing.assert_array_equal(run("visible", image, [False]), np.tile(stretched, 3))
    for bytes_ in (True, False):  # of other numbers of channels, the first
        np.testing.assert_array_equal(run("visible", image[:2], [bytes_]), stretched)


def test_maps_are_painted_in_the_colours_of_the_book() -> None:
    maps = np.stack([np.linspace(0, 1, 512), np.zeros(512)]).reshape(2, 16, 32).astype(np.float32)
    found = run("heat", maps, number(2, np.int64))
    assert found.shape == (2, 8, 16, 4)
    expected = mpl.colormaps[SCORES]((255 * maps).astype(int), bytes=True)
    assert np.abs(found.astype(int) - expected[:, ::2, ::2]).max() <= 3  # the next colour


def test_objects_are_coloured_and_outlined() -> None:
    labels = np.zeros((7, 7), np.int32)
    labels[1:6, 1:6] = 1
    labels[:, 5:] = 2  # reaches the border, where there is no outline
    picture, colour = np.full((7, 7, 1), 100, np.float32), np.full((1, 1, 4), 200, np.uint8)
    found = run("overlaid", picture, labels, colour, number(0.5), [False])
    expected = np.full((7, 7), 100)
    expected[1:6, 1:5] = 200
    expected[2:5, 2:4] = 150
    expected[:, 5:] = [200, 150]
    np.testing.assert_array_equal(found[..., 0], expected)
    assert (found[..., 3] == 255).all() and (found[..., :1] == found[..., 1:3]).all()
    above = run("overlaid", picture, 0 * labels, colour, number(0.25), [True])
    assert (above[..., :3] == 125).all()
