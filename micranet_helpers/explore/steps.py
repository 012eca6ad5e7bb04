"""Classify a crop and explain it by maps: the step of the explorer that nobody else needs."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from micranet_helpers.maps.cam import grad_cam
from micranet_helpers.maps.segmentation import predicted
from micranet_helpers.zoo.hdf5_zoo import ZooEntry

MOST_CLASSES, SIDE = 32, 512  # px; of a larger crop fewer: the maps take 256 MB


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
    crop = crop.to(entry.models[0].linear1.weight.device)  # where scores of an image have put it
    cams = [grad_cam(model, crop, decide) for model in entry.models]
    maps, logits = (torch.stack(folds).mean(0)[0] for folds in zip(*cams, strict=True))
    maps, logits = maps.cpu(), logits.cpu()
    return Prediction(maps, logits.sigmoid(), decide(logits))
