"""Compare masks pixel by pixel.

Masks may be torch tensors on any device or numpy arrays. An empty prediction of an empty truth is
right: nothing to find, nothing found, score 1. Only ``boundary_dice``, which judges outlines, has
none to judge then and gives NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import correlate1d
from torch import Tensor

Mask = Tensor | NDArray[np.bool_] | NDArray[np.integer]


def dice(pred: Mask, target: Mask, dim: int | tuple[int, ...] | None = None) -> float | Tensor:
    """Compute the Dice coefficient: twice the common area over the sum of both areas.

    It is the F1 score of the pixels.

    Parameters
    ----------
    pred, target : Tensor or ndarray, bool or integer, any equal shape
        Masks; every value other than 0 is foreground.
    dim : int or tuple of int, optional
        Axes to count over, e.g. ``(-2, -1)`` for one value per image. By default all pixels of
        all images are counted together.

    Returns
    -------
    float, or Tensor of float32 on the device of ``pred`` where ``dim`` is given
        In [0, 1]. Two empty masks give 1, one empty mask gives 0.

    Raises
    ------
    TypeError
        If a mask holds floating-point numbers.
    ValueError
        If the shapes differ.

    References
    ----------
    Dice 1945, Ecology 26, 297–302, doi 10.2307/1932409.
    """
    a, b = as_masks(pred, target)
    return _share(2 * (a & b).sum(dim), a.sum(dim) + b.sum(dim), dim)


def iou(pred: Mask, target: Mask, dim: int | tuple[int, ...] | None = None) -> float | Tensor:
    """Compute the intersection over union (Jaccard index), which equals Dice / (2 − Dice).

    Parameters
    ----------
    pred, target : Tensor or ndarray, bool or integer, any equal shape
        Masks; every value other than 0 is foreground.
    dim : int or tuple of int, optional
        Axes to count over, as in :func:`dice`.

    Returns
    -------
    float, or Tensor of float32 on the device of ``pred`` where ``dim`` is given
        In [0, 1]. Two empty masks give 1, one empty mask gives 0.

    Raises
    ------
    TypeError
        If a mask holds floating-point numbers.
    ValueError
        If the shapes differ.

    References
    ----------
    Jaccard 1912, New Phytologist 11, 37–50, doi 10.1111/j.1469-8137.1912.tb05611.x.
    """
    a, b = as_masks(pred, target)
    return _share((a & b).sum(dim), (a | b).sum(dim), dim)


def boundary_dice(pred: Mask, target: Mask, radius: int = 2) -> float:
    """Compute the symmetric boundary Dice: the Dice coefficient in small windows on the outlines.

    The window of a pixel holds the rows and columns from ``-radius`` to ``radius - 1`` around
    it. The outline of a mask is made of the pixels whose window is neither empty nor full;
    outside the image there is background. The local Dice coefficients are averaged over both
    outlines, so a pixel on both of them counts twice.

    Parameters
    ----------
    pred, target : Tensor or ndarray, bool or integer, (H, W)
        Masks; every value other than 0 is foreground.
    radius : int
        Half the side of the window, in pixels, at least 1.

    Returns
    -------
    float
        In [0, 1]; NaN where both masks are empty, as there is no outline to judge.

    Raises
    ------
    TypeError
        If a mask holds floating-point numbers.
    ValueError
        If the shapes differ or are not (H, W), or if ``radius`` is less than 1.

    References
    ----------
    Yeghiazaryan and Voiculescu 2018, J. Med. Imaging 5, 015006, doi 10.1117/1.JMI.5.1.015006.
    """
    masks = [mask.cpu().numpy() for mask in as_masks(pred, target)]
    if masks[0].ndim != 2:
        raise ValueError(f"Give one mask of shape (H, W) at a time, not {masks[0].shape}.")
    if radius < 1:
        raise ValueError(f"The radius must be at least 1 pixel, not {radius}.")
    p, t = (_window_sum(mask, radius) for mask in masks)
    both = _window_sum(masks[0] & masks[1], radius)
    local = 2 * both / np.maximum(p + t, 1)
    outlines = [local[(counts > 0) & (counts < (2 * radius) ** 2)] for counts in (t, p)]
    values = np.concatenate(outlines)
    return float(values.mean()) if values.size else float("nan")


def pooled_f1(
    pred: Sequence[Mask], true: Sequence[Mask], ignore: Sequence[Mask] | None = None
) -> float:
    """Compute the F1 score (Dice coefficient) of the pixels of all images together.

    Parameters
    ----------
    pred, true : sequence of Tensor or ndarray, bool or integer
        Masks, each two of one shape; every value other than 0 is foreground.
    ignore : sequence of Tensor or ndarray, bool or integer, optional
        Pixels that are not counted, for each image.

    Returns
    -------
    float
        In [0, 1]; 1 where there is nothing to find and nothing was found.

    Raises
    ------
    TypeError
        If a mask holds floating-point numbers.
    ValueError
        If there is no image, the lists differ in length or two masks in shape.
    """
    lengths = [len(masks) for masks in (pred, true, ignore) if masks is not None]
    if lengths[0] == 0 or len(set(lengths)) > 1:
        raise ValueError(f"Give as many masks each, at least one, not {lengths}.")
    common = total = 0
    for i, pair in enumerate(zip(pred, true, strict=True)):
        a, b = as_masks(*pair)
        if ignore is not None:
            hidden, _ = as_masks(ignore[i], a)
            a, b = (mask & ~hidden.to(mask.device) for mask in (a, b))
        common += int((a & b).sum())
        total += int(a.sum() + b.sum())
    return 2 * common / total if total else 1.0


def as_masks(pred: Mask, target: Mask) -> tuple[Tensor, Tensor]:
    """Check two masks of one shape and make them bool tensors on one device."""
    pred, target = _foreground(pred), _foreground(target)
    if pred.shape != target.shape:
        raise ValueError(
            f"Prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape: "
            "give two of one shape."
        )
    return pred, target.to(pred.device)


def _foreground(mask: Mask) -> Tensor:
    if isinstance(mask, Tensor):
        whole_numbers = not (mask.is_floating_point() or mask.is_complex())
    else:
        mask = np.asarray(mask)
        whole_numbers = mask.dtype.kind in "biu"
    if not whole_numbers:
        # A probability map taken for a mask would be foreground nearly everywhere.
        raise TypeError(f"Threshold the {mask.dtype} values first: masks must be bool or integer.")
    return mask.bool() if isinstance(mask, Tensor) else torch.as_tensor(mask != 0)


def _share(part: Tensor, whole: Tensor, dim: int | tuple[int, ...] | None) -> float | Tensor:
    if dim is not None:
        return torch.where(whole > 0, part / whole, 1.0)
    return int(part) / int(whole) if whole > 0 else 1.0


def _window_sum(mask: NDArray[np.bool_], radius: int) -> NDArray[np.int64]:
    # With an even number of weights SciPy centres the window just as the definition asks.
    ones = np.ones(2 * radius, np.int64)
    rows = correlate1d(mask.astype(np.int64), ones, axis=0, mode="constant")
    return correlate1d(rows, ones, axis=1, mode="constant")


def as_array(values: ArrayLike) -> NDArray[Any]:
    """Take an array, also from a tensor on any device."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
