"""The recipes on maps whose right answer can be written down."""

import pytest
import torch
from conftest import random_images, random_model
from torch import Tensor

from micranet_helpers.maps import recipes, segmentation
from micranet_helpers.maps.cam import Cams, grad_cam
from micranet_helpers.maps.combination import gaussian
from micranet_helpers.maps.segmentation import Recipe, segment
from micranet_helpers.networks.unet import UNet


def score_of(recipe: Recipe, maps: Tensor, images: Tensor) -> Tensor:
    """Scores of a recipe from these maps, in place of those of a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation, "grad_cam", lambda *_: Cams(maps, maps.new_zeros(0)))
        return recipe.score(None, images, None)[0]


# Ours for digits


def two_objects() -> tuple[Tensor, Tensor]:
    """A canvas (1, 1, 64, 64) with two bright squares, and map 4b of two classes, one for each."""
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    image = 0.05 * noise
    image[..., 10:22, 10:22] = image[..., 40:52, 40:52] = 1.0
    maps = torch.zeros(1, 2, 1, 64, 64)
    maps[0, 0, 0, 8:24, 8:24] = maps[0, 1, 0, 40:56, 40:56] = 1.0
    return image, maps


def test_digits_gives_each_bright_object_to_the_class_that_speaks_for_it_if_any() -> None:
    image, maps = two_objects()
    masks = recipes.DIGITS.mask(score_of(recipes.DIGITS, maps, image), image)
    assert torch.equal(masks[0, 0, :32], image[0, 0, :32] > 0.5)
    assert torch.equal(masks[0, 1, 32:], image[0, 0, 32:] > 0.5)
    assert not masks[0, 0, 32:].any() and not masks[0, 1, :32].any()
    maps[0, 1] = 0
    masks = recipes.DIGITS.mask(score_of(recipes.DIGITS, maps, image), image)
    assert masks[0, 0, 10:22, 10:22].all()
    assert not masks[:, :, 40:52, 40:52].any()


# Published, modified MNIST


def digit_maps(peak: float) -> Tensor:
    """Maps (1, 1, 8, 48, 48): a stroke in 1a … 4a, and 4b > 0 around it with the given peak."""
    maps = torch.zeros(1, 1, 8, 48, 48)
    maps[0, 0, :7, 14:34, 20:23] = 1.0
    maps[0, 0, 7, 8:40, 8:40] = 0.1
    maps[0, 0, 7, 20, 20] = peak
    return maps


def digit_masks(maps: Tensor) -> Tensor:
    recipe, images = recipes.PUBLISHED_MNIST, torch.zeros(len(maps), 1, *maps.shape[-2:])
    return recipe.mask(score_of(recipe, maps, images), images)


def test_mnist_finds_the_stroke_in_regions_whose_4b_reaches_three_tenths() -> None:
    for peak in (1.0, 0.3):
        maps = digit_maps(peak)
        assert torch.equal(digit_masks(maps)[0, 0], maps[0, 0, 0] > 0)
    assert not digit_masks(digit_maps(peak=0.29)).any()


def test_mnist_asks_for_three_tenths_in_the_box_of_a_region() -> None:
    maps = torch.zeros(1, 1, 8, 48, 48)
    maps[0, 0, 7, 8:40, 8:16] = maps[0, 0, 7, 32:40, 8:40] = 0.1  # an L
    maps[0, 0, :7, 34:37, 12:30] = 1.0
    assert not digit_masks(maps).any()
    maps[0, 0, 7, 8:16, 24:32] = 0.5  # in its box, not in itself
    assert torch.equal(digit_masks(maps)[0, 0], maps[0, 0, 0] > 0)


@pytest.mark.parametrize("tiles", [1, 2])
def test_mnist_finds_strokes_in_tiles_that_all_vary_alike(tiles: int) -> None:
    """Trap 9: Otsu of equal ranges is that range, so that none would be above it."""
    maps, stroke = torch.zeros(1, 1, 8, 48, 48), torch.zeros(48, 48, dtype=torch.bool)
    maps[0, 0, 7, 8:16, 8 : 8 + 8 * tiles] = 1.0
    for tile in range(tiles):
        stroke[10:14, 10 + 8 * tile : 14 + 8 * tile] = True
    maps[0, 0, :7, stroke] = 1.0
    assert torch.equal(digit_masks(maps)[0, 0], stroke)


def test_mnist_gives_contested_pixels_to_the_higher_class() -> None:
    one = digit_maps(peak=1.0)
    masks = digit_masks(torch.cat([one, one], dim=1))
    assert not masks[0, 0].any()
    assert torch.equal(masks[0, 1], digit_masks(one)[0, 0])


# Published, shared by several

SIDE = 96
DATASETS = ("mnist", "actin", "ctc", "em", "pvivax")
every_dataset = pytest.mark.parametrize("dataset", DATASETS)


def square(top: int, left: int, side: int = 16) -> Tensor:
    """A bright square in a dark image of 96 px, with edges as soft as those of maps."""
    image = torch.zeros(SIDE, SIDE)
    image[top : top + side, left : left + side] = 1.0
    return gaussian(image, 1.0)


def maps_of(*patterns: Tensor) -> Tensor:
    """Maps (1, K, 8, H, W): each class has its pattern in all layers, in blocks of 8 px in 4b."""
    maps = torch.stack([pattern.expand(8, -1, -1) for pattern in patterns])[None].clone()
    coarse = torch.nn.functional.max_pool2d(maps[:, :, -1], 8)
    maps[:, :, -1] = coarse.repeat_interleave(8, -2).repeat_interleave(8, -1)
    return maps


def masks_of(dataset: str, maps: Tensor, images: Tensor | None = None) -> Tensor:
    images = random_images(len(maps), 1, *maps.shape[-2:]) if images is None else images
    recipe = recipes.recipe(dataset, "published")
    return recipe.mask(score_of(recipe, maps, images), images)


@every_dataset
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_constant_maps_give_empty_masks(dataset: str, value: float) -> None:
    masks = masks_of(dataset, torch.full((2, 4, 8, 32, 40), value))
    assert masks.shape == (2, 4, 32, 40) and masks.dtype == torch.bool
    assert not masks.any()


@every_dataset
def test_a_map_without_positive_4b_stops_nothing(dataset: str) -> None:
    maps = maps_of(square(20, 40), torch.zeros(SIDE, SIDE))
    maps[:, :, -1] = 0
    assert dataset == "pvivax" or not masks_of(dataset, maps).any()
    assert masks_of(dataset, maps).shape == (1, 2, SIDE, SIDE)


@every_dataset
def test_one_object_of_the_only_predicted_class_is_found(dataset: str) -> None:
    maps = maps_of(square(24, 40), torch.zeros(SIDE, SIDE))
    masks = masks_of(dataset, maps, square(24, 40)[None, None] + 0.01 * random_images(1, 1, 96, 96))
    assert masks[0, 0, 28:36, 44:52].all()
    assert not masks[0, 0, :, :8].any() and not masks[0, 0, 72:].any()
    assert not masks[0, 1].any()


@every_dataset
def test_classes_that_are_not_predicted_have_scores_of_zero(dataset: str) -> None:
    score = recipes.recipe(dataset, "published").score
    first = torch.tensor([[True, False], [False, False]])
    scores, _ = score(random_model(num_classes=2), random_images(2, 1, 32, 32), lambda _: first)
    assert torch.equal(scores.any(-1).any(-1), first)


@every_dataset
def test_only_em_and_pvivax_take_maps_that_are_not_normalised(dataset: str) -> None:
    model, images = random_model(num_classes=2), random_images(1, 1, 48, 48)
    recipe = recipes.recipe(dataset, "published")
    scores, logits = recipe.score(model, images, lambda y: y < 99)
    cams = grad_cam(model, images, normalize=dataset not in ("em", "pvivax"))
    torch.testing.assert_close(scores, score_of(recipe, cams.maps, images))
    torch.testing.assert_close(logits, cams.logits)


@every_dataset
def test_folds_whose_maps_have_opposite_signs_do_not_cancel(dataset: str) -> None:
    """Trap 10: a principal component has no sign; 4b gives it one."""
    maps, images = maps_of(square(24, 40), square(50, 8)), random_images(1, 1, SIDE, SIDE)
    opposite = torch.cat([-maps[:, :, :7], maps[:, :, 7:]], 2)
    recipe = recipes.recipe(dataset, "published")
    scores = [score_of(recipe, each, images) for each in (maps, opposite)]
    torch.testing.assert_close(*scores)
    assert scores[0].any()


@every_dataset
def test_masks_have_the_size_of_images_of_any_size(dataset: str) -> None:
    """Trap 7, and sides that are no multiples of the 8 px of the bins of F-actin."""
    model, images = random_model(num_classes=2), random_images(2, 1, 61, 70)
    published = recipes.recipe(dataset, "published")
    segments = segment([model, random_model(num_classes=2, seed=1)], images, published)
    assert segments.masks.shape == segments.scores.shape == (2, 2, 61, 70)
    assert segments.scores.isfinite().all()


# The object at the peak (EM, P. vivax)


@pytest.mark.parametrize("near", [0, 1])
def test_the_object_nearest_to_the_maximum_is_kept(near: int) -> None:
    """A maximum of one pixel, which smoothing removes, beside one of two squares."""
    scores = torch.zeros(1, 1, 200, 200)
    scores[..., 20:65, 20:65] = scores[..., 120:165, 120:165] = 0.9
    row, column = [(40, 69), (140, 115)][near]
    scores[..., row, column] = 1.0
    mask = recipes.PUBLISHED_EM.mask(scores, scores)[0, 0]
    halves = mask[:100, :100], mask[100:, 100:]
    assert halves[near].sum() == mask.sum() > 1500


@pytest.mark.parametrize(("hole", "side", "filled"), [(30, 130, True), (90, 155, False)])
def test_small_holes_are_filled(hole: int, side: int, filled: bool) -> None:
    """Those below 2500 px; each ring is a tenth of the image."""
    scores = torch.zeros(1, 1, 400, 400)
    scores[..., 100 : 100 + side, 100 : 100 + side] = 1.0
    inner = 100 + (side - hole) // 2
    scores[..., inner : inner + hole, inner : inner + hole] = 0.0
    mask = recipes.PUBLISHED_EM.mask(scores, scores)[0, 0]
    assert mask[inner + hole // 2, inner + hole // 2] == filled
    assert mask[110, 110] and not mask[50, 50]


# F-actin


def test_actin_without_foreground_has_no_mask() -> None:
    assert not masks_of("actin", maps_of(square(20, 20)), torch.ones(1, 1, SIDE, SIDE)).any()


# Cell Tracking Challenge


def test_contact_parts_two_touching_cells() -> None:
    scores = torch.zeros(1, 2, 40, 60)
    scores[0, 0, 10:30, 10:50] = 1.0
    scores[0, 1, 10:30, 28:32] = 1.0
    masks = recipes.PUBLISHED_CTC.mask(scores, torch.zeros(1, 1, 40, 60))
    assert torch.equal(masks[0, 0], scores[0, 0] > scores[0, 1])
    assert not masks[0, 1].any()


def test_contact_without_cell_is_no_cell() -> None:
    """Trap 8: the original marks where contact is weak."""
    scores = torch.zeros(1, 4, 40, 60)
    scores[0, 1] = random_images(40, 60)
    scores[0, 2, 5:9, 5:9] = 1.0
    masks = recipes.PUBLISHED_CTC.mask(scores, torch.zeros(1, 1, 40, 60))
    assert torch.equal(masks[0], scores[0] * torch.tensor([0, 0, 1, 0])[:, None, None] > 0)


@pytest.mark.parametrize("classes", [1, 3, 11])
def test_classes_without_partner_are_refused(classes: int) -> None:
    with pytest.raises(ValueError, match=f"even number, not {classes}"):
        recipes.PUBLISHED_CTC.mask(torch.rand(1, classes, 16, 16), torch.rand(1, 1, 16, 16))


# Looking up


def test_names_in_the_table_are_those_of_the_recipes() -> None:
    assert set(recipes.RECIPES) == set(DATASETS)
    for named in recipes.RECIPES.values():
        assert {name: each.name for name, each in named.items()} == {name: name for name in named}
    assert recipes.recipe("mnist") is recipes.DIGITS
    for dataset in DATASETS:
        published = getattr(recipes, f"PUBLISHED_{dataset.upper()}")
        assert recipes.recipe(dataset, "published") is published


def test_unknown_dataset_or_recipe_is_refused() -> None:
    for unknown in (("cells",), ("mnist", "best")):
        with pytest.raises(ValueError, match=f'"{unknown[0]}": choose among mnist: default, publ'):
            recipes.recipe(*unknown)


# Ours, for a U-Net


def test_self_trained_marks_what_is_more_likely_than_not() -> None:
    unet = UNet(1, 2).eval()
    images = random_images(3, 1, 64, 72)
    with torch.no_grad():
        unet.lastConv.bias -= unet(images).flatten(2).median(2).values.mean(0)
        unet.lastConv.bias[1] -= 99  # never
        expected = unet(images) > 0
    found = segment(unet, images, recipes.SELF_TRAINED)
    assert torch.equal(found.masks, expected)
    assert found.masks[:, 0].any() and not found.masks[:, 0].all() and not found.masks[:, 1].any()


# Ours, for F-actin


def test_foreground_leaves_dendrites_and_drops_thin_axons() -> None:
    image = torch.zeros(1, 1, 128, 128)
    image[..., 20:70, :] = 1.0  # a dendrite
    image[..., 100:103, :] = 1.0  # an axon
    scores = torch.ones(1, 2, 128, 128)
    scores[:, 1] = -1
    masks = recipes.in_foreground(8).mask(scores, image)
    assert masks[0, 0, 24:66].all() and not masks[0, 0, 85:].any() and not masks[0, 1].any()
    assert not recipes.in_foreground(8, [1.1]).mask(scores, image).any()


def test_neighbours_in_the_foreground_agree_and_the_dark_has_no_vote() -> None:
    image, scores = torch.zeros(1, 1, 128, 128), torch.full((1, 1, 128, 128), -9.0)
    image[..., 30:90, :] = 1.0
    scores[..., 20:100, :] = 1.0  # the foreground, and what blurs into it
    scores[..., 60:64, 60:64] = -5.0  # one position that disagrees
    assert recipes.in_foreground(16).mask(scores, image)[..., 34:86, :].all()
    assert not recipes.in_foreground(0).mask(scores, image)[..., 60:64, 60:64].any()
