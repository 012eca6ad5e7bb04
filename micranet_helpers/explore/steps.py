"""Do the steps of the explorer that the rest of the package does not have.

Between them come :func:`~micranet_helpers.maps.combination.combine`,
:func:`~micranet_helpers.maps.combination.gaussian` and the thresholds.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor

from micranet_helpers.data.scaling import normalize, scale_of
from micranet_helpers.maps.cam import grad_cam
from micranet_helpers.maps.detect import drop_small, instances, pieces
from micranet_helpers.maps.segmentation import predicted
from micranet_helpers.zoo.hdf5_zoo import ZooEntry

SCALINGS = ("fixed", "minmax", "standard")
"""How :func:`scaled` can scale the numbers of a file for the network."""


MOST_CLASSES, SIDE = 32, 512  # px; of a larger crop fewer: the maps take 256 MB


def scaled(image: NDArray[Any], how: str = "fixed") -> NDArray[np.float32]:
    """Scale an image as the network's training images were scaled.

    Parameters
    ----------
    image : ndarray, uint8, uint16 or float, (C, H, W)
        As :func:`~micranet_helpers.files.images.read_image` gives it.
    how : {"fixed", "minmax", "standard"}
        "fixed" divides 8-bit numbers by 255 and takes floats as they are, as the original's
        application does. "minmax" scales each channel from 0 to 1, as for the cells of the Cell
        Tracking Challenge; "standard" to mean 0 and standard deviation 1, as for P. vivax.

    Returns
    -------
    ndarray, float32, (C, H, W)
        What the network sees. A constant channel becomes 0 unless "fixed".

    Raises
    ------
    ValueError
        If there is no such scaling, or 16-bit numbers have no fixed scale.
    """
    if how not in SCALINGS:
        raise ValueError(f"Scale images by one of {', '.join(SCALINGS)}, not {how!r}.")
    if how == "fixed" and image.dtype.kind == "u" and image.dtype != np.uint8:
        raise ValueError(
            "The image has 16 bits, whose full range says nothing: choose the scaling minmax "
            "or standard, whichever the network was trained with."
        )
    return normalize(image, *scale_of(image, how))


class Prediction(NamedTuple):
    """Hold what :func:`predict` returns."""

    maps: Tensor
    probabilities: Tensor
    predicted: Tensor


def predict(entry: ZooEntry, crop: Tensor) -> Prediction:
    """Classify a crop and explain each predicted class by its eight maps.

    A class is predicted where its probability reaches the threshold stored in the zoo, or is
    above 0.5 where there is none. Logits and maps of the folds of a model are averaged; a fold
    that does not predict a class adds 0, as in
    :func:`~micranet_helpers.maps.segmentation.segment`. (The original's application takes the
    first fold.)

    Parameters
    ----------
    entry : ZooEntry
        MICRA-Nets, as :func:`micranet_helpers.zoo.hdf5_zoo.load` returns them.
    crop : Tensor, float32, (1, C, S, S)
        Scaled; S a multiple of 8.

    Returns
    -------
    maps : Tensor, float32, (K, 8, S, S)
        Each class's maps, in [0, 1]; 0 for a class that is not predicted.
    probabilities : Tensor, float32, (K,)
        Probability that the crop shows each class.
    predicted : Tensor, bool, (K,)
        Which classes are predicted.

    Raises
    ------
    TypeError, ValueError
        If the crop does not fit the network, or its maps the memory.
    """
    if (count := entry.models[0].num_classes) * crop.numel() > MOST_CLASSES * SIDE**2:
        raise ValueError(f"The maps of {count} classes do not fit here: choose a smaller crop.")
    decide = partial(predicted, thresholds=entry.class_thresholds)
    cams = [grad_cam(model, crop, decide) for model in entry.models]
    maps, logits = (torch.stack(folds).mean(0)[0] for folds in zip(*cams, strict=True))
    return Prediction(maps, logits.sigmoid(), decide(logits))


def numbered(mask: ArrayLike, area: float = 1, split: int = 0) -> NDArray[np.int32]:
    """Number the objects of a mask.

    Parameters
    ----------
    mask : array-like, bool, (H, W)
        Pixels of all objects.
    area : float
        Objects of fewer pixels are left out.
    split : int
        0: parts that do not touch (4 neighbours) are the objects. Above 0, parts with several
        bulges are split between them (watershed of the distance from the background); bulges
        nearer than this to each other, px, are one.

    Returns
    -------
    ndarray, int32, (H, W)
        0 is background; objects are numbered from 1.

    Raises
    ------
    ValueError
        If this is no mask.
    """
    mask = np.asarray(mask)
    if not split:
        return pieces(mask, area)
    return drop_small(instances(mask, ndimage.distance_transform_edt(mask), split), area)
