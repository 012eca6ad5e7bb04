"""Train the networks of the chapters: once, in folders that all chapters name alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from micranet_helpers import zoo
from micranet_helpers.maps.selftraining import PixelCrops
from micranet_helpers.networks import MICRANet, UNet
from micranet_helpers.train import fit

Painted = tuple[Sequence[NDArray], Sequence[NDArray]]
"""Images (C, H, W) and targets (K, H, W) of a split."""


def run_folder(dataset: str | Path, *settings: object) -> str:
    """Name the folder of a run after its dataset and settings, e.g. side, stride and seed.

    Chapters that name it alike share the network: what one has trained, another loads.
    """
    return "runs/" + "-".join([Path(dataset).stem, *map(str, settings)])


def fit_or_load(
    weights: str | Path,
    train: Dataset,
    validation: Dataset,
    folder: str | Path,
    epochs: int,
    **options: Any,
) -> MICRANet:
    """Train a classifier, or load it from a zoo.

    Parameters
    ----------
    weights : str or path
        "train", or a zoo file with a group ``MICRANet``, whose first network is taken.
    train, validation, folder, epochs, **options
        As for :func:`micranet_helpers.train.fit`; not used if weights are loaded.

    Returns
    -------
    MICRANet
        In evaluation mode, on the GPU if there is one.
    """
    if weights == "train":
        model = fit(train, validation, folder, epochs, **options)
    else:
        model = zoo.load(weights, "MICRANet").models[0]
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def fit_student(
    train: Painted,
    validation: Painted,
    side: int,
    num_crops: int,
    folder: str | Path,
    epochs: int,
    seed: int = 0,
) -> UNet:
    """Train a U-Net on painted images: pseudo-labels, or masks for a comparison.

    Parameters
    ----------
    train, validation : (images, targets)
        Lists of ndarrays float32, (C, H, W) and (K, H, W); see
        :func:`micranet_helpers.maps.selftraining.of_split`.
    side : int
        Side of a crop, px, a multiple of 16.
    num_crops : int
        Training crops an epoch; an eighth of it is validated on.
    folder, epochs, seed
        As for :func:`micranet_helpers.train.fit`.

    Returns
    -------
    UNet
        In evaluation mode, on the GPU if there is one.
    """
    paint = PixelCrops(*train, side, num_crops, seed)
    check = PixelCrops(*validation, side, max(num_crops // 8, 1), seed, augment=False)
    unet = fit(
        paint, check, folder, epochs, batch_size=16, learning_rate=3e-3, network="UNet", seed=seed
    )
    return unet.to("cuda" if torch.cuda.is_available() else "cpu")
