"""The recipes on maps whose right answer can be written down."""

import torch

from micranet_helpers import recipes


def two_objects() -> tuple[torch.Tensor, torch.Tensor]:
    """A canvas (1, 1, 64, 64) with two bright squares, and map 4b of two classes, one for each."""
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    image = 0.05 * noise
    image[..., 10:22, 10:22] = image[..., 40:52, 40:52] = 1.0
    maps = torch.zeros(1, 2, 1, 64, 64)
    maps[0, 0, 0, 8:24, 8:24] = maps[0, 1, 0, 40:56, 40:56] = 1.0
    return image, maps


def test_digits_gives_each_bright_object_to_the_class_that_speaks_for_it() -> None:
    image, maps = two_objects()
    masks = recipes.DIGITS.mask(recipes.DIGITS.score(maps), image)
    assert torch.equal(masks[0, 0, :32], image[0, 0, :32] > 0.5)
    assert torch.equal(masks[0, 1, 32:], image[0, 0, 32:] > 0.5)
    assert not masks[0, 0, 32:].any() and not masks[0, 1, :32].any()


def test_digits_leaves_out_bright_objects_that_no_class_speaks_for() -> None:
    image, maps = two_objects()
    maps[0, 1] = 0
    masks = recipes.DIGITS.mask(recipes.DIGITS.score(maps), image)
    assert masks[0, 0, 10:22, 10:22].all()
    assert not masks[:, :, 40:52, 40:52].any()


def test_digits_never_gives_a_pixel_to_two_classes() -> None:
    image, _ = two_objects()
    scores = torch.rand(1, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    masks = recipes.DIGITS.mask(scores, image)
    assert masks.sum(1).max() == 1


def published_maps(peak: float) -> torch.Tensor:
    """Maps (1, 1, 8, 48, 48): a stroke in 1a … 4a, and 4b > 0 around it with the given peak."""
    maps = torch.zeros(1, 1, 8, 48, 48)
    maps[0, 0, :7, 14:34, 20:23] = 1.0
    maps[0, 0, 7, 8:40, 8:40] = 0.1
    maps[0, 0, 7, 20, 20] = peak
    return maps


def published_masks(maps: torch.Tensor) -> torch.Tensor:
    recipe = recipes.PUBLISHED_MNIST
    return recipe.mask(recipe.score(maps), torch.zeros(len(maps), 1, *maps.shape[-2:]))


def test_published_finds_the_stroke_inside_the_region() -> None:
    mask = published_masks(published_maps(peak=1.0))[0, 0]
    stroke = torch.zeros(48, 48, dtype=torch.bool)
    stroke[14:34, 20:23] = True
    assert torch.equal(mask, stroke)


def test_published_drops_regions_whose_4b_stays_below_three_tenths() -> None:
    assert published_masks(published_maps(peak=0.3)).any()
    assert not published_masks(published_maps(peak=0.29)).any()


def test_published_finds_nothing_in_a_region_of_one_tile() -> None:
    # Otsu of the single range is that range, and the published comparison is strict.
    maps = torch.zeros(1, 1, 8, 48, 48)
    maps[0, 0, :7, 10:14, 10:14] = 1.0
    maps[0, 0, 7, 8:16, 8:16] = 1.0
    assert not published_masks(maps).any()


def test_published_gives_contested_pixels_to_the_higher_class() -> None:
    one = published_maps(peak=1.0)
    masks = published_masks(torch.cat([one, one], dim=1))
    assert not masks[0, 0].any()
    assert torch.equal(masks[0, 1], published_masks(one)[0, 0])


def test_classes_without_maps_get_no_mask() -> None:
    assert not published_masks(torch.zeros(2, 3, 8, 32, 32)).any()
