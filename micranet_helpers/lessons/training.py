"""Train the networks of the chapters: once, in folders that all chapters name alike."""

import math
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch.utils.data import Dataset

from micranet_helpers import zoo
from micranet_helpers.data import actin, ctc, em, mnist, pvivax
from micranet_helpers.data.content import digest
from micranet_helpers.data.crops import CropDataset
from micranet_helpers.data.dataset import Sample
from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.maps.selftraining import fit_student, of_split
from micranet_helpers.networks import MICRANet, UNet
from micranet_helpers.networks.precision import best_device
from micranet_helpers.train import fit, history, load

STUDENT = "UNet-self"
"""Group of a zoo with the self-trained U-Net."""


def build_dataset(
    chapter: str, source: str, subset: str, num_images: int, size: int, **options: Any
) -> Path:
    """Build the dataset of a chapter, or find the file where another chapter has built it.

    ``chapter`` is "mnist", "ctc", "pvivax", "em" or "actin", ``subset`` a part of the download, or
    "" for all. The rest is as for the ``build`` of its module, such as
    :func:`micranet_helpers.data.ctc.build`; each combination is a file of its own under ``data/``.
    """
    parts = [f"{chapter}-{source}{subset}"]
    if source == "simulated" or chapter == "mnist":  # canvases are drawn from real digits
        parts += [num_images, size]
    parts += ["-".join(value) if isinstance(value, list) else value
              for value in options.values() if value is not None]  # fmt: skip
    file = Path("data", f"{'-'.join(map(str, parts))}.h5")
    if file.is_file():  # it gets its name when it is complete
        return file
    modules = {"mnist": mnist, "ctc": ctc, "pvivax": pvivax, "em": em, "actin": actin}
    return modules[chapter].build(
        file, source, subset=subset or None, num_images=num_images, size=size, **options
    )


def run_folder(dataset: str | Path, *settings: object) -> str:
    """Name the folder of a run after its dataset and settings, e.g. side, stride and seed.

    Chapters that name it alike share the network: what one has trained, another loads.
    """
    return "runs/" + "-".join([Path(dataset).stem, *map(str, settings)]).replace(":", "-")


def seconds(*folders: str | Path) -> float:
    """Sum the seconds of the epochs of runs; NaN where nothing was trained."""
    return sum(sum(history(folder)["seconds"]) for folder in folders) or math.nan


def fit_or_load(
    weights: str | Path, train: Dataset, validation: Dataset, folder: str | Path, epochs: int,
    **options: Any,
) -> MICRANet:  # fmt: skip
    """Train a classifier, or load it from a zoo.

    ``weights`` is "train", or a zoo with a group ``MICRANet``, whose first network is taken; see
    :func:`micranet_helpers.zoo.shelf.locate`. The rest is as for
    :func:`micranet_helpers.train.run.fit`. The network is in evaluation mode, on the GPU if there
    is one.
    """
    if weights == "train":
        model = fit(train, validation, folder, epochs, **options)
    else:
        model = zoo.load(weights, "MICRANet").models[0]
    return model.to(best_device())


def self_train(
    model: MICRANet, path: str | Path, train: CropDataset, validation: CropDataset,
    num_crops: int, folder: str | Path, epochs: int, seed: int = 0,
    guide: Callable[[Sample, NDArray], NDArray] | None = None, batch_size: int = 16,
    rings: Sequence[int] = (0,), weights: str | Path = "train",
) -> UNet:  # fmt: skip
    """Train a U-Net on what a classifier says, or load it if its run is complete.

    From ``weights``, a zoo as for :func:`fit_or_load`, it is loaded if there is a group
    ``UNet-self``. The crops are of the dataset at ``path``. ``guide`` is as for
    :func:`micranet_helpers.maps.selftraining.of_split`. There is a round for each ring of doubt
    along the outlines, px: the first learns from the classifier, each later one goes on from the
    U-Net before, and learns from its masks (:func:`rounds_of` names their folders). All else, and
    the network, is as for :func:`micranet_helpers.maps.selftraining.fit_student`.
    """
    if weights != "train" and STUDENT in {row["group"] for row in zoo.contents(weights)}:
        return zoo.load(weights, STUDENT).models[0].to(best_device())
    learnt = (value.cpu() for value in model.state_dict().values())
    named = getattr(guide, "__name__", None)
    settings = str((seed, batch_size, num_crops, epochs, [*rings], named))
    parts = chain(train.content(), validation.content(), learnt, [settings])
    painter, of_run = digest(parts).encode(), Path(folder, "painter")
    if of_run.is_file() and of_run.read_bytes() == painter:  # painting takes long
        return load(folder).to(best_device())
    unet, runs = None, rounds_of(folder, rings)
    for left, run, ring in zip(reversed(range(len(runs))), runs, rings, strict=True):
        painted = [of_split(unet or model, path, crops, None if unet else guide, ring)
                   for crops in (train, validation)]  # fmt: skip
        # The last round, which is the result, has the seed itself.
        unet = fit_student(*painted, train.side, num_crops, run, epochs, seed + left, batch_size,
                           start=unet)  # fmt: skip
    write_atomically(of_run, painter)
    return unet


def rounds_of(folder: str | Path, rings: Sequence[int]) -> list[str]:
    """Name the runs of the rounds of self-training; that of the last is the folder itself."""
    return [*(f"{folder}-{number}" for number in range(1, len(rings))), str(folder)]
