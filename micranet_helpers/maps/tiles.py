"""Large images by overlapping tiles, blended without seams."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

TILES_PER_BATCH = 16
PATIENCE = 2
"""Seconds of work before a progress bar shows."""


def padded(images: Tensor, multiple: int) -> Tensor:
    """Mirror images at their far borders until the sides are multiples of a number.

    Parameters
    ----------
    images : Tensor, float, (B, C, H, W)
        Both sides larger than ``multiple`` / 2.
    multiple : int
        E.g. 8 for the network, which halves an image three times.

    Returns
    -------
    Tensor, (B, C, H', W')
        The images themselves, if nothing is missing.

    Raises
    ------
    ValueError
        If the images have another rank or are too small to be mirrored.
    """
    if images.ndim != 4:
        raise ValueError(
            f"Images must have the shape (batch, channels, height, width), "
            f"not {tuple(images.shape)}."
        )
    height, width = images.shape[2:]
    if min(height, width) <= multiple // 2:
        raise ValueError(
            f"Images of {height}×{width} px are too small: both sides must exceed "
            f"{multiple // 2} px."
        )
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom), mode="reflect") if bottom or right else images


def over_tiles(
    images: Tensor,
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    side: int,
    stride: int,
    margin: int = 0,
) -> tuple[Tensor, Tensor]:
    """Apply a function to overlapping tiles and blend what it says.

    A tile knows most about its centre, where objects are whole, so a pixel's score is the mean
    over its tiles with weights that fall linearly towards the tile's border, down to nearly 0 in
    its margin. Images are mirrored at the far border until the tiles fit, and cropped back. One
    batch of tiles is in work at a time, whatever the size of the image.

    Parameters
    ----------
    images : Tensor, float, (B, C, H, W)
        Images of any size from half a tile upwards.
    function : function of tiles (N, C, side, side)
        Returns scores (N, K, side, side) and logits (N, K).
    side, stride : int
        Side of the tiles and the distance between them, px.
    margin : int
        Width of the border of a tile whose scores are wrong, as they depend on what lies outside;
        they count only at the border of the image, where there are no others.

    Returns
    -------
    scores : Tensor, (B, K, H, W)
        Blended scores.
    logits : Tensor, (B, K)
        The highest among the tiles of an image.

    Raises
    ------
    ValueError
        If there is no image, the tiles are no larger than their margins, the stride leaves gaps
        or an image is smaller than half a tile.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"Images must have the shape (batch, channels, height, width), at least one, "
            f"not {tuple(images.shape)}: the batch is empty or of another rank."
        )
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
    rows, columns = (range(0, max(n - side, 0) + stride, stride) for n in (height, width))
    far = (0, columns[-1] + side - width, 0, rows[-1] + side - height)
    corners = [(y, x) for y in rows for x in columns]
    with tqdm(total=len(images) * len(corners), unit="tile", leave=False, delay=PATIENCE) as bar:
        blended = [
            _blend(F.pad(image, far, mode="reflect"), corners, function, side, margin, bar)
            for image in images
        ]
    scores = torch.stack([score[:, :height, :width] for score, _ in blended])
    return scores, torch.stack([logits for _, logits in blended])


def _blend(image, corners, function, side, margin, bar) -> tuple[Tensor, Tensor]:
    """Weighted mean of scores (K, H, W) and highest logits (K,) of one image (C, H, W)."""
    centre = (side - 1) / 2
    ramp = 1 - (torch.arange(side, device=image.device) - centre).abs() / (side / 2)
    # Not 0: at the border of the image the margin is all there is.
    ramp = (ramp - 2 * margin / side).clamp(min=1e-9)
    window = ramp[:, None] * ramp
    weights = image.new_zeros(image.shape[1:])
    total, best = 0, 0
    for start in range(0, len(corners), TILES_PER_BATCH):
        part = corners[start : start + TILES_PER_BATCH]
        tiles = torch.stack([image[:, y : y + side, x : x + side] for y, x in part])
        scores, logits = function(tiles)
        if start == 0:
            total = scores.new_zeros((scores.shape[1], *image.shape[1:]))
            best = torch.full_like(logits[0], -torch.inf)
        best = torch.maximum(best, logits.amax(0))
        for (y, x), score in zip(part, scores, strict=True):
            total[:, y : y + side, x : x + side] += score * window
            weights[y : y + side, x : x + side] += window
        bar.update(len(part))
    return total / weights, best
