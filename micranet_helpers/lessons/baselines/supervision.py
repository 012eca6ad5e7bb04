"""Degrade masks, to train baselines on outlines as coarse as those of a hurried annotator.

Exact outlines cost an annotator time. How coarse may masks be before a network trained on them
falls behind one trained on image-level labels?
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import find_objects
from skimage.segmentation import expand_labels

from micranet_helpers.metrics.masks import as_labels

LEVELS = ("FS", "ALT2", "ALT5", "ALT10", "BBOX")
"""Full supervision, outlines that are 2, 5 and 10 px off, and bounding boxes."""


def degrade(label: ArrayLike, level: str) -> NDArray[np.integer]:
    """Make the masks of objects coarser.

    The names of the levels are those of the published models. How those masks were made is not
    published; this is our reading.

    - "FS": unchanged.
    - "ALT2", "ALT5", "ALT10": each outline moves out by 2, 5 or 10 px (Euclidean distance): an
      object takes the background within that distance, unless another object is nearer. Quick
      outlines, like boxes, surround objects.
    - "BBOX": each object fills its bounding box. Where boxes overlap the smaller one is on top;
      ties go to the higher number.

    ``label``, int (H, W) or (K, H, W), holds the number of the object of each pixel, 0 for
    background, each of K planes on its own; all pixels of one number are one object, connected or
    not. The result is a new array of its shape and dtype. Raises ValueError if the level does not
    exist, or the label does not hold numbers of objects.
    """
    label = as_labels(label, 2, 3)
    if level not in LEVELS:
        raise ValueError(f"The level must be one of {', '.join(LEVELS)}, not {level!r}.")
    if level == "FS":
        return label.copy()
    planes = label.reshape(-1, *label.shape[-2:])
    if level == "BBOX":
        altered = [_boxed(plane) for plane in planes]
    else:
        altered = [expand_labels(plane, int(level.removeprefix("ALT"))) for plane in planes]
    return np.stack(altered, dtype=label.dtype).reshape(label.shape)


def _boxed(plane: NDArray[np.integer]) -> NDArray[np.integer]:
    """Fill the box of each object, larger ones first."""
    # find_objects makes room for every number up to the highest, which may be large.
    numbers, compact = np.unique(np.append(plane.dtype.type(0), plane), return_inverse=True)
    boxes = find_objects(compact[1:].reshape(plane.shape))
    areas = [np.prod([side.stop - side.start for side in box]) for box in boxes]
    boxed = np.zeros_like(plane)
    for place in np.argsort(-np.array(areas, int), kind="stable"):
        boxed[boxes[place]] = numbers[place + 1]
    return boxed
