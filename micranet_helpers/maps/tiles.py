"""Work on large images in overlapping tiles, blended without seams."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from micranet_helpers.data.crops import crop_grid

TILES_PER_BATCH = 16
PIXELS_PER_BATCH = 512 * 512
"""On a CPU: with larger buffers a U-Net takes twice as long (benchmarks/memory.py says why)."""
PATIENCE = 2
"""Seconds of work before a progress bar shows."""


def grid(shape: Sequence[int], side: int, stride: int) -> list[tuple[int, int]]:
    """List the top left corners of tiles that cover an image; the last ones may reach beyond it."""
    return list(product(*(crop_grid(length, side, stride).tolist() for length in shape)))


def padded(images: Tensor, multiple: int) -> Tensor:
    """Mirror images (B, C, H, W) at their far borders until sides are multiples of a number."""
    height, width = images.shape[2:]
    if min(height, width) <= multiple // 2:
        raise ValueError(
            f"Images of {height}×{width} px are too small: both sides must exceed "
            f"{multiple // 2} px."
        )
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom), mode="reflect") if bottom or right else images


def over_tiles(
    images: Tensor, function: Callable[[Tensor], tuple[Tensor, Tensor]], side: int, stride: int,
    margin: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Apply a function to overlapping tiles of images (B, C, H, W) and blend its results.

    The function turns tiles (N, C, side, side) into scores (N, K, side, side) and logits (N, K).
    Scores (B, K, H, W) are means over tiles, with weights that fall linearly from the centre of a
    tile, where objects are whole, to nearly 0 in its margin, whose scores depend on what lies
    outside. Logits (B, K) are the highest among the tiles of an image. Images are mirrored at the
    far border until the tiles fit, and cropped back. Memory holds one batch of tiles at a time.
    """
    height, width = images.shape[2:]
    if side <= 2 * margin:
        raise ValueError(
            f"Tiles of {side} px are too small: the side must exceed {2 * margin} px, both margins."
        )
    if not 0 < stride <= side - 2 * margin:
        raise ValueError(
            f"The stride must be from 1 to {side - 2 * margin} px, the tile's side less its "
            f"margins, not {stride}."
        )
    if min(height, width) <= side // 2:
        raise ValueError(f"Images of {height}×{width} px are too small for tiles of {side} px.")
    corners = grid((height, width), side, stride)
    far = (0, corners[-1][1] + side - width, 0, corners[-1][0] + side - height)
    with tqdm(total=len(images) * len(corners), unit="tile", leave=False, delay=PATIENCE) as bar:
        blended = [
            _blend(F.pad(image, far, mode="reflect"), corners, function, side, margin, bar)
            for image in images
        ]
    scores = torch.stack([score[:, :height, :width] for score, _ in blended])
    return scores, torch.stack([logits for _, logits in blended])


def _blend(image, corners, function, side, margin, bar) -> tuple[Tensor, Tensor]:
    """Average scores (K, H, W) with weights and take the highest logits (K,) of one image."""
    centre = (side - 1) / 2
    ramp = 1 - (torch.arange(side, device=image.device) - centre).abs() / (side / 2)
    # Not 0: at the border of the image the margin is all there is. So little that it counts for
    # nothing elsewhere: a part of an image has the scores of the whole.
    ramp = (ramp - 2 * margin / side).clamp(min=1e-15)
    window = ramp[:, None] * ramp
    weights = image.new_zeros(image.shape[1:])
    total, best = None, []
    number = TILES_PER_BATCH
    if image.device.type == "cpu":
        number = max(1, min(number, PIXELS_PER_BATCH // side**2))
    for start in range(0, len(corners), number):
        part = corners[start : start + number]
        tiles = torch.stack([image[:, y : y + side, x : x + side] for y, x in part])
        scores, logits = function(tiles)
        if total is None:
            total = scores.new_zeros((scores.shape[1], *image.shape[1:]))
        best.append(logits.amax(0))
        for (y, x), score in zip(part, scores, strict=True):
            total[:, y : y + side, x : x + side] += score * window
            weights[y : y + side, x : x + side] += window
        bar.update(len(part))
    return total / weights, torch.stack(best).amax(0)
