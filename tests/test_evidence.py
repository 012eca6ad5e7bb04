"""Evidence: map 4b in logits, how far it looks, and that tiles do not change it."""

from dataclasses import replace

import pytest
import torch
from conftest import every_pool, random_images, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from micranet_helpers.maps import recipes
from micranet_helpers.maps.cam import MARGIN, evidence, grad_cam, presence
from micranet_helpers.maps.segmentation import segment
from micranet_helpers.networks.micranet import MICRANet

INSIDE = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))


def ranged(scores: Tensor) -> Tensor:
    lowest, highest = scores.amin((-2, -1), keepdim=True), scores.amax((-2, -1), keepdim=True)
    return (scores - lowest) / (highest - lowest)


@torch.no_grad()
def peaks_of_8x8() -> MICRANet:
    """A network that hands the image through: A is the maximum of 8×8 px; w = 2, −1; b = 3, 5."""
    model = MICRANet(1, 2).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.zero_()
            module.weight[0, 0, 1, 1] = (1 + 1e-5) ** 0.5  # against the eps of the batch norm
            module.bias.zero_()
    model.linear1.weight.zero_()
    model.linear1.weight[:, 0] = torch.tensor([2.0, -1.0])
    model.linear1.bias.copy_(torch.tensor([3.0, 5.0]))
    return model


@torch.no_grad()
def all_ears() -> MICRANet:
    """A network without biases, of positive weights: any light anywhere in view changes it."""
    model = random_model(num_classes=1)
    for name, parameter in model.named_parameters():
        parameter.abs_() if name.endswith("weight") else parameter.zero_()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
    return model


def distance(side: int, row: int, column: int) -> Tensor:
    """Of each pixel of a square image from one place, px, by rows or columns: the larger one."""
    places = torch.arange(side)
    return torch.maximum((places[:, None] - row).abs(), (places - column).abs())


def test_a_network_written_by_hand() -> None:
    images = random_images(2, 1, 32, 48)
    scores = evidence(peaks_of_8x8(), images, step=8)
    peaks = F.max_pool2d(images, 8)
    expected = torch.cat([3 + 2 * peaks, 5 - peaks], 1).repeat_interleave(8, 2)
    torch.testing.assert_close(scores, expected.repeat_interleave(8, 3), atol=1e-4, rtol=0)
    highest = images.amax((2, 3))
    logits = presence(peaks_of_8x8(), images)
    torch.testing.assert_close(logits, torch.cat([3 + 2 * highest, 5 - highest], 1))


def test_steps_of_4_are_mirrored_at_the_border() -> None:
    images, expected = random_images(2, 1, 32, 48), 0
    around = F.pad(images, (4, 4, 4, 4), mode="reflect")
    for down in (0, 4):
        for right in (0, 4):
            peaks = F.max_pool2d(around[..., 4 - down :, 4 - right :], 8, ceil_mode=True)
            fine = peaks.repeat_interleave(8, 2).repeat_interleave(8, 3)
            expected += fine[..., down : down + 32, right : right + 48] / 4
    scores = evidence(peaks_of_8x8(), images)
    torch.testing.assert_close(
        scores, torch.cat([3 + 2 * expected, 5 - expected], 1), atol=1e-4, rtol=0
    )


def test_the_positions_that_cover_a_pixel_are_averaged() -> None:
    """A spot at (18, 29) lights blocks 16–23 and 12–19 of rows, 24–31 and 28–35 of columns."""
    images = torch.zeros(1, 1, 48, 64)
    images[0, 0, 18, 29] = 1.0
    scores = evidence(peaks_of_8x8(), images)
    rows, columns = torch.zeros(48, 1), torch.zeros(64)
    for start in (16, 12):
        rows[start : start + 8] += 0.5
    for start in (24, 28):
        columns[start : start + 8] += 0.5
    torch.testing.assert_close(scores[0, 0], 3 + 2 * rows * columns, atol=1e-4, rtol=0)


def test_equals_grad_cam_of_4b_where_positive(model: MICRANet) -> None:
    images = random_images(2, 1, 96, 112)
    scores = evidence(model, images, step=8)
    above_bias = scores - model.linear1.bias[:, None, None]
    cam = grad_cam(model, images, normalize=False, layers=("4b",)).maps[:, :, 0] * 96 * 112 / 64
    # At the far borders grad_cam sees zeros where evidence sees the mirrored image.
    near = (..., slice(96 - MARGIN), slice(112 - MARGIN))
    torch.testing.assert_close(above_bias.relu()[near], cam[near], atol=1e-4, rtol=1e-4)
    assert (cam[near] > 0).any() and (cam[near] == 0).any()


@every_pool
def test_logits_are_those_of_the_model_or_of_its_highest_position(pool: dict) -> None:
    """That is where the pools of logits end: a share of one position, or a high sharpness."""
    model, images = random_model(**pool), random_images(3, 1, 24, 32)
    scores, logits = recipes.by_evidence()(model, images, None)
    if pool["pool"] == "channel":
        torch.testing.assert_close(logits, model(images).detach())
    else:
        assert (logits > model(images)).all()
        model.share, model.sharpness = 0.01, 1e4
        torch.testing.assert_close(logits, model(images).detach(), atol=1e-2, rtol=1e-2)
    assert scores.shape == (3, 3, 24, 32) and scores.dtype == torch.float32
    assert not scores.requires_grad


@settings(max_examples=10)
@given(st.integers(44, 59), st.integers(44, 59), st.sampled_from([4, 8]))
def test_reach_of_the_network(row: int, column: int, step: int) -> None:
    """A position sees all within 30 px and nothing beyond 37 px, so MARGIN is enough."""
    images = torch.zeros(1, 1, 104, 104)
    images[0, 0, row, column] = 1.0
    scores = evidence(all_ears(), images, step=step)
    away = distance(104, row, column)
    assert (scores[0, 0, away <= 30] > 0).all()
    assert (scores[0, 0, away > 37] == 0).all()
    assert MARGIN >= 37


def test_steps_of_4_are_the_mean_over_shifted_images(model: MICRANet) -> None:
    images = random_images(1, 1, 88, 112)
    mirrored = F.pad(images, (48, 48, 48, 48), mode="reflect")
    expected = 0
    for down in (0, 4):
        for right in (0, 4):
            moved = evidence(model, mirrored[..., 8 - down : -down - 8, 8 - right : -right - 8],
                             step=8)  # fmt: skip
            expected += moved[..., 40 + down : 128 + down, 40 + right : 152 + right] / 4
    fine = evidence(model, images)
    torch.testing.assert_close(fine[INSIDE], expected[INSIDE], atol=1e-4, rtol=0)


def test_tiles_change_nothing(model: MICRANet) -> None:
    image = random_images(1, 1, 240, 240)
    whole = evidence(model, image)

    def difference(margin: int) -> Tensor:
        recipe = replace(recipes.EVIDENCE, margin=margin)
        tiled = segment(model, image, recipe, side=160, stride=80).scores
        return (ranged(tiled) - ranged(whole))[INSIDE].abs().max()

    assert difference(MARGIN) < 1e-3 < difference(0)


@pytest.mark.parametrize(
    ("images", "step", "message"),
    [(torch.full((1, 1, 32, 32), torch.nan), 4, "NaN"),
     (torch.ones(1, 1, 32, 8), 4, "at least 16 px, not 32×8"),
     (torch.ones(1, 1, 32, 32), 2, "4 or 8 px, not 2")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(model: MICRANet, images, step: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evidence(model, images, step)


def test_network_in_training_mode_is_refused_and_left_as_it_was() -> None:
    model = random_model().train()
    before = model.bnorm1a.running_mean.clone()
    with pytest.raises(ValueError, match=r"call model\.eval"):
        evidence(model, random_images(1, 1, 32, 32))
    assert torch.equal(model.bnorm1a.running_mean, before)


def test_half_precision_gives_float32_close_to_single(model: MICRANet) -> None:
    images = random_images(1, 1, 64, 64)
    exact, logits = recipes.by_evidence()(model, images, None)
    with torch.autocast("cpu", torch.bfloat16):
        rough = recipes.by_evidence()(model, images, None)
    assert {part.dtype for part in rough} == {torch.float32}
    torch.testing.assert_close(rough[0], exact, rtol=0, atol=0.1 * exact.std().item())
    torch.testing.assert_close(rough[1], logits, rtol=0.05, atol=0.05)
