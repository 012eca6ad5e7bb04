"""Tiles: what is put together again is what was cut."""

from functools import partial

import pytest
import torch
from conftest import random_images
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from tqdm import tqdm

from micranet_helpers.maps import tiles
from micranet_helpers.maps.tiles import over_tiles, padded

quick = settings(max_examples=40, deadline=None)


def identity(part: Tensor) -> tuple[Tensor, Tensor]:
    return part, part.amax((2, 3))


@quick
@given(st.integers(1, 2), st.integers(2, 40), st.integers(2, 40), st.integers(1, 24), st.data())
def test_identity_is_reproduced(batch: int, height: int, width: int, side: int, data) -> None:
    assume(min(height, width) > side // 2)
    stride = data.draw(st.integers(max(1, side // 5), side))
    images = random_images(batch, 2, height, width, seed=height)
    scores, probabilities = over_tiles(images, identity, side, stride)
    assert scores.shape == images.shape
    torch.testing.assert_close(scores, images, rtol=0, atol=1e-6)
    assert torch.equal(probabilities, images.amax((2, 3)))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 23), (9, 100)])
def test_function_sees_only_whole_tiles_in_small_batches(height: int, width: int) -> None:
    shapes = []

    def note(part: Tensor) -> tuple[Tensor, Tensor]:
        shapes.append(tuple(part.shape))
        return identity(part)

    over_tiles(random_images(2, 3, height, width), note, 16, 4)
    assert {shape[1:] for shape in shapes} == {(3, 16, 16)}
    assert max(shape[0] for shape in shapes) <= tiles.TILES_PER_BATCH


def test_size_of_the_batches_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(2, 1, 40, 50)

    def by_tile(part: Tensor) -> tuple[Tensor, Tensor]:
        return part - part.mean((2, 3), keepdim=True), part.mean((2, 3))

    expected = over_tiles(images, by_tile, 16, 8)
    for size in (1, 7, 1000):
        monkeypatch.setattr(tiles, "TILES_PER_BATCH", size)
        for actual, wanted in zip(over_tiles(images, by_tile, 16, 8), expected, strict=True):
            torch.testing.assert_close(actual, wanted)


def test_overlap_is_the_mean_weighted_towards_the_centre() -> None:
    """Two tiles of 4 px, 2 px apart, each painting its number: weights 1, 3, 3, 1."""

    def paint(part: Tensor) -> tuple[Tensor, Tensor]:
        number = part[:, :, :1, :1] / 2  # the column where the tile starts, over the stride
        return number.expand_as(part), number.flatten(1)

    images = torch.arange(6.0).expand(1, 1, 4, 6)
    scores, probabilities = over_tiles(images, paint, 4, 2)
    torch.testing.assert_close(scores[0, 0, 1], torch.tensor([0, 0, 1 / 4, 3 / 4, 1, 1]))
    assert probabilities.tolist() == [[1.0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_result_stays_on_the_gpu() -> None:
    images = random_images(1, 1, 30, 20).cuda()
    scores, probabilities = over_tiles(images, identity, 16, 8)
    assert scores.is_cuda and probabilities.is_cuda
    torch.testing.assert_close(scores, images, rtol=0, atol=1e-6)


@quick
@given(st.integers(17, 60), st.integers(17, 60), st.integers(1, 8))
def test_margins_count_only_at_the_border_of_the_image(height, width, stride) -> None:
    """A function that is wrong in its margin of 4 px, and right within."""

    def spoilt(part: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.full_like(part, -1.0)
        scores[..., 4:-4, 4:-4] = part[..., 4:-4, 4:-4]
        return scores, part.amax((2, 3))

    images = random_images(1, 1, height, width)
    scores, _ = over_tiles(images, spoilt, 16, stride, margin=4)
    inside = (..., slice(4, -16), slice(4, -16))
    torch.testing.assert_close(scores[inside], images[inside], rtol=0, atol=1e-6)
    assert torch.equal(scores[..., 0, :], torch.full_like(scores[..., 0, :], -1.0))


def test_progress_shows_only_for_long_work(monkeypatch, capsys) -> None:
    monkeypatch.setattr(tiles, "tqdm", partial(tqdm, disable=False))  # whatever TQDM_DISABLE is
    for patience, shown in ((3600, False), (0, True)):
        monkeypatch.setattr(tiles, "PATIENCE", patience)
        over_tiles(random_images(2, 1, 40, 40), identity, 16, 8)
        out, err = capsys.readouterr()
        assert out == "" and ("/32 [" in err) == shown  # 2 images of 4×4 tiles


@pytest.mark.parametrize(
    ("shape", "stride", "margin", "message"),
    [
        ((1, 1, 8, 32), 8, 0, "8×32 px are too small"),
        ((1, 1, 32, 8), 8, 0, "32×8 px are too small"),
        ((1, 1, 32, 32), 8, 8, "too small: the side must exceed 16 px"),
        ((1, 1, 32, 32), 0, 0, "from 1 to 16 px, .* margins, not 0"),
        ((1, 1, 32, 32), 17, 0, "from 1 to 16 px, .* margins, not 17"),
        ((1, 1, 32, 32), 9, 4, "from 1 to 8 px, .* margins, not 9"),
    ],
)
def test_images_and_tiles_that_do_not_fit_are_refused(shape, stride, margin, message) -> None:
    with pytest.raises(ValueError, match=message):
        over_tiles(torch.rand(shape), identity, 16, stride, margin)


@pytest.mark.parametrize("shape", [(1, 1, 4, 20), (1, 1, 20, 4), (1, 1, 0, 20)])
def test_images_that_cannot_be_mirrored_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="too small.* exceed 4 px"):
        padded(torch.rand(shape), 8)
