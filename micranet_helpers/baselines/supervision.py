"""Degrade masks, to train baselines on outlines as coarse as those of a hurried annotator.

Exact outlines cost an annotator time. How coarse may masks be before a network trained on them
falls behind one trained on image-level labels?
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from skimage.segmentation import expand_labels

from micranet_helpers.metrics.masks import as_labels

LEVELS = ("FS", "ALT2", "ALT5", "ALT10", "BBOX")
"""Full supervision, outlines that are 2, 5 and 10 px off, and bounding boxes."""


def degrade(label: ArrayLike, level: str, direction: str = "grow") -> NDArray[np.integer]:
    """Make the masks of objects coarser.

    The names of the levels are those of the published models. How those masks were made is not
    published; this is our reading.

    - "FS": unchanged.
    - "ALT2", "ALT5", "ALT10": each outline moves by 2, 5 or 10 px (Euclidean distance). A growing
      object takes the background within that distance, unless another object is nearer. A
      shrinking object loses the pixels within that distance of background or another object;
      small objects are lost.
    - "BBOX": each object fills its bounding box. Where boxes overlap the smaller one is on top;
      ties go to the higher number.

    Beyond the image nothing is known: an object that the border cuts does not shrink there.

    Parameters
    ----------
    label : array-like of int, (H, W) or (K, H, W)
        Number of the object of each pixel, 0 for background; each of K planes on its own. All
        pixels of one number are one object, connected or not.
    level : {"FS", "ALT2", "ALT5", "ALT10", "BBOX"}
        See above.
    direction : {"grow", "shrink"}
        Direction in which ALT moves outlines. Quick outlines, like boxes, surround objects, and
        growing loses none, so that only outlines differ.

    Returns
    -------
    ndarray, of the shape and dtype of ``label``
        A new array; objects keep their numbers.

    Raises
    ------
    ValueError
        If the level or direction does not exist, or ``label`` does not hold numbers of objects.

    Examples
    --------
    >>> degrade([[0, 0, 0, 0], [0, 7, 0, 0], [0, 0, 7, 0]], "BBOX")
    array([[0, 0, 0, 0],
           [0, 7, 7, 0],
           [0, 7, 7, 0]])
    """
    label = as_labels(label, 2, 3)
    if level not in LEVELS:
        raise ValueError(f"The level must be one of {', '.join(LEVELS)}, not {level!r}.")
    if direction not in ("grow", "shrink"):
        raise ValueError(f'The direction must be "grow" or "shrink", not {direction!r}.')
    if level == "FS":
        return label.copy()
    planes = label.reshape(-1, *label.shape[-2:])
    if level == "BBOX":
        altered = [_boxed(plane) for plane in planes]
    else:
        alter = expand_labels if direction == "grow" else _shrunk
        altered = [alter(plane, int(level.removeprefix("ALT"))) for plane in planes]
    return np.stack(altered, dtype=label.dtype).reshape(label.shape)


def _shrunk(plane: NDArray[np.integer], distance: int) -> NDArray[np.integer]:
    shrunk = np.zeros_like(plane)
    numbers, compact, boxes = _objects(plane)
    for place, (number, box) in enumerate(zip(numbers, boxes, strict=True), start=1):
        # One pixel more on each side holds the nearest pixel that is not of the object.
        wider = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        mask = compact[wider] == place
        # Of an object that fills the image nothing is near anything else.
        kept = mask if mask.all() else distance_transform_edt(mask) > distance
        shrunk[wider][kept] = number
    return shrunk


def _boxed(plane: NDArray[np.integer]) -> NDArray[np.integer]:
    boxed = np.zeros_like(plane)
    numbers, _, boxes = _objects(plane)
    areas = [np.prod([side.stop - side.start for side in box]) for box in boxes]
    for place in np.argsort(-np.array(areas, int), kind="stable"):
        boxed[boxes[place]] = numbers[place]
    return boxed


def _objects(
    plane: NDArray[np.integer],
) -> tuple[NDArray[np.integer], NDArray[np.intp], list[tuple[slice, slice]]]:
    """List the objects' numbers, the plane with 1, 2, … in their place, and their boxes."""
    # find_objects makes room for every number up to the highest, which may be large.
    numbers, compact = np.unique(np.append(plane.dtype.type(0), plane), return_inverse=True)
    compact = compact[1:].reshape(plane.shape)
    return numbers[1:], compact, find_objects(compact)
