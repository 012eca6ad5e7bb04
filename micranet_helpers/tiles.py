"""Large images by overlapping tiles, blended without seams."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

TILES_PER_BATCH = 16


def over_tiles(
    images: Tensor,
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    side: int,
    stride: int,
) -> tuple[Tensor, Tensor]:
    """Apply a function to overlapping tiles and blend what it says.

    A tile knows most about its centre, where objects are whole, so a pixel's score is the mean
    over its tiles with weights that fall linearly towards the tile's border. Images are mirrored
    at the far border until the tiles fit, and cropped back.

    Parameters
    ----------
    images : Tensor, float, (B, C, H, W)
        Images of any size from half a tile upwards.
    function : function of tiles (N, C, side, side)
        Returns scores (N, K, side, side) and probabilities (N, K).
    side, stride : int
        Side of the tiles and the distance between them, px.

    Returns
    -------
    scores : Tensor, (B, K, H, W)
        Blended scores.
    probabilities : Tensor, (B, K)
        The highest probability among the tiles of an image.

    Raises
    ------
    ValueError
        If there is no image, the stride leaves gaps or an image is smaller than half a tile.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"Images must have the shape (batch, channels, height, width), at least one, "
            f"not {tuple(images.shape)}: the batch is empty or of another rank."
        )
    height, width = images.shape[2:]
    if not 0 < stride <= side:
        raise ValueError(f"The stride must be from 1 to the tile's side of {side}, not {stride}.")
    if min(height, width) <= side // 2:
        raise ValueError(f"Images of {height}×{width} px are too small for tiles of {side} px.")
    rows, columns = (range(0, max(n - side, 0) + stride, stride) for n in (height, width))
    far = (columns[-1] + side - width, rows[-1] + side - height)
    padded = F.pad(images, (0, far[0], 0, far[1]), mode="reflect")
    corners = [(y, x) for y in rows for x in columns]
    blended = [_blend(image, corners, function, side) for image in padded]
    scores = torch.stack([score[:, :height, :width] for score, _ in blended])
    return scores, torch.stack([probability for _, probability in blended])


def _blend(image, corners, function, side) -> tuple[Tensor, Tensor]:
    """Weighted mean of scores (K, H, W) and highest probabilities (K,) of one image (C, H, W)."""
    ramp = 1 - (torch.arange(side, device=image.device) - (side - 1) / 2).abs() / (side / 2)
    window = ramp[:, None] * ramp
    weights = image.new_zeros(image.shape[1:])
    total, best = 0, 0
    for start in range(0, len(corners), TILES_PER_BATCH):
        part = corners[start : start + TILES_PER_BATCH]
        tiles = torch.stack([image[:, y : y + side, x : x + side] for y, x in part])
        scores, probabilities = function(tiles)
        if start == 0:
            total = scores.new_zeros((scores.shape[1], *image.shape[1:]))
            best = torch.zeros_like(probabilities[0])
        best = torch.maximum(best, probabilities.amax(0))
        for (y, x), score in zip(part, scores, strict=True):
            total[:, y : y + side, x : x + side] += score * window
            weights[y : y + side, x : x + side] += window
    return total / weights, best
