"""What a classifier says of the crops of a dataset, and how well it tells them apart."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.classification import binary_auroc

from micranet_helpers.networks.micranet import check_evaluating

BATCH = 64


@torch.no_grad()
def logits_of(model: nn.Module, data: Dataset) -> Tensor:
    """Compute the logits of all crops of a dataset.

    Parameters
    ----------
    model : MICRANet
        In evaluation mode, on any device.
    data : Dataset of (image (C, H, W), labels (K,))
        E.g. a :class:`~micranet_helpers.data.crops.CropDataset`. One batch of crops is in memory
        at a time.

    Returns
    -------
    Tensor, float32, (N, K)
        On the CPU, in the order of the dataset; above 0 is a "yes".

    Raises
    ------
    ValueError
        If there is no crop, or the model is in training mode.
    """
    check_evaluating(model)
    device = next(model.parameters()).device
    batches = [model(images.to(device)).float().cpu() for images, _ in DataLoader(data, BATCH)]
    if not batches:
        raise ValueError("There is no crop to classify: lower the stride, or take another split.")
    return torch.cat(batches)


def roc_areas(scores: Tensor, labels: Tensor) -> list[float]:
    """Compute the area under the ROC curve of each class.

    It is the chance that of a crop with the class and one without, the first gets the higher
    score; 0.5 is guessing.

    Parameters
    ----------
    scores : Tensor, float, (N, K)
        Logits, or anything else that rises with them.
    labels : Tensor, (N, K)
        Positive where a crop shows the class.

    Returns
    -------
    list of K floats
        In [0, 1]; NaN for a class that all crops show, or none.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(
            f"Scores and labels must have one shape (crops, classes), not {tuple(scores.shape)} "
            f"and {tuple(labels.shape)}."
        )
    columns = zip(scores.T, labels.T > 0, strict=True)
    return [
        binary_auroc(score, shown.int()).item() if shown.any() and not shown.all() else torch.nan
        for score, shown in columns
    ]
