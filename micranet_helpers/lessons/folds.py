"""Fine-tune a classifier on a few images, in folds: no image is spared for validation alone."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from micranet_helpers.data import dataset
from micranet_helpers.data.crops import CropDataset
from micranet_helpers.data.dataset import About, Sample
from micranet_helpers.metrics import best_threshold
from micranet_helpers.networks import MICRANet
from micranet_helpers.train import fit

FOLDS = 3


class Fold(NamedTuple):
    """Hold one fold of :func:`fine_tune`: a network, and the images of the fold and their crops.

    The network has learnt from the other folds; its best epoch was chosen on this one.
    """

    network: MICRANet
    samples: list[Sample]
    crops: CropDataset


def fine_tune(
    start: MICRANet, samples: Sequence[Sample], about: About, run: str, epochs: int,
    crops: dict[str, Any], **options: Any,
) -> list[Fold]:  # fmt: skip
    """Fine-tune a classifier in folds, each a block of neighbouring images.

    It begins with the network ``start``. ``samples`` are labelled images, at least two a fold,
    ``about`` describes their dataset. ``run`` is the folder of the runs, without the number of the
    fold; the dataset lies beside them. ``crops`` are ``side``, ``stride`` and ``rule`` of
    :class:`~micranet_helpers.data.crops.CropDataset`: each epoch of a fold sees all positive crops
    and as many negative ones, augmented. ``options`` are those of
    :func:`micranet_helpers.train.run.fit`, e.g. ``frozen``, ``learning_rate`` and ``seed``. The
    networks are in evaluation mode, on the device of ``start``. Raises ValueError if a fold, or
    what is left without it, has no positive crop.
    """
    held = np.array_split(np.arange(len(samples)), FOLDS)
    splits = {}
    for k, block in enumerate(held):
        splits[f"held {k}"] = [samples[i] for i in block]
        splits[f"learn {k}"] = [sample for i, sample in enumerate(samples) if i not in block]
    cut = partial(CropDataset, dataset.write(Path(f"{run}.h5"), splits, about), **crops)
    learning = {"ratio": (1, 1), "redraw": True, "augment": True, "seed": options.get("seed", 0)}
    device, folds = next(start.parameters()).device, []
    for k in range(FOLDS):
        unseen = cut(f"held {k}")
        network = fit(cut(f"learn {k}", **learning), unseen, f"{run}-{k}", epochs,
                      start=start, **start.pooling, **options)  # fmt: skip
        folds.append(Fold(network.to(device), splits[f"held {k}"], unseen))
    return folds


def threshold_for(
    folds: Sequence[Fold], networks: Sequence[MICRANet],
    score: Callable[[MICRANet, Fold], ArrayLike],
) -> float:  # fmt: skip
    """Choose the threshold of highest F1 on the crops of all folds, each by its own network.

    ``score`` is a function of network and fold that gives the scores, (N,), of the fold's crops,
    all of one class. See :func:`micranet_helpers.metrics.labels.best_threshold`.
    """
    scores = [score(network, fold) for network, fold in zip(networks, folds, strict=True)]
    labels = np.concatenate([fold.crops.labels[:, 0] > 0 for fold in folds])
    return best_threshold(np.concatenate(scores), labels)
