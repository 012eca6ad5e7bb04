"""Compare masks pixel by pixel.

Masks may be torch tensors on any device or numpy arrays. An empty prediction of an empty truth is
right: nothing to find, nothing found, score 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Mask = Tensor | NDArray[np.bool_] | NDArray[np.integer]


def dice(pred: Mask, target: Mask, dim: int | tuple[int, ...] | None = None) -> float | Tensor:
    """Compute the Dice coefficient of two masks, which is the F1 score of the pixels.

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
    TypeError, ValueError
        If a mask holds floating-point numbers, or the shapes differ.

    References
    ----------
    Dice 1945, Ecology 26, 297–302, doi 10.2307/1932409.
    """
    a, b = as_masks(pred, target)
    part, whole = 2 * (a & b).sum(dim), a.sum(dim) + b.sum(dim)
    if dim is not None:
        return torch.where(whole > 0, part / whole, 1.0)
    return int(part) / int(whole) if whole > 0 else 1.0


def pooled_f1(
    pred: Sequence[Mask], true: Sequence[Mask], ignore: Sequence[Mask] | None = None
) -> float:
    """Compute the F1 score (Dice coefficient) of the pixels of all images together, in [0, 1].

    ``pred`` and ``true`` are the masks of each image, bool or integer, two of one shape; every
    value other than 0 is foreground. Pixels of ``ignore``, masks of the same shapes, are not
    counted. The score is 1 where there is nothing to find and nothing was found. Raises TypeError
    if a mask holds floating-point numbers, ValueError if there is no image, or lengths or shapes
    differ.
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


def as_array(values: ArrayLike) -> NDArray[Any]:
    """Take an array, also from a tensor on any device."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def as_labels(labels: ArrayLike, *ranks: int) -> NDArray[np.integer]:
    """Check a label image, (H, W) unless other numbers of axes are given, and take its array."""
    labels, ranks = as_array(labels), ranks or (2,)
    if labels.ndim not in ranks or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        shapes = " or ".join({2: "(H, W)", 3: "(K, H, W)"}[rank] for rank in ranks)
        raise ValueError(
            f"Label images must hold integers from 0 (background) of shape {shapes}, not "
            f"{labels.dtype} of shape {labels.shape} from {labels.min(initial=0)}: number the "
            "objects of a mask with skimage.measure.label."
        )
    return labels
