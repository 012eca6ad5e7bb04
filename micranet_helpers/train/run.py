"""Train a network on labels of images or pixels, with checkpoints that survive a kill."""

import hashlib
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from micranet_helpers.data.content import examine
from micranet_helpers.networks import NETWORKS, Network
from micranet_helpers.networks.micranet import check_evaluating
from micranet_helpers.networks.wrapped import unwrapped
from micranet_helpers.train.checkpoints import check_sibling, read_checkpoint


def fit(
    train: Dataset,
    validation: Dataset,
    folder: Path | str,
    epochs: int,
    *,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    schedule: str = "cosine",
    pos_weight: Sequence[float] | None = None,
    precision: str = "auto",
    seed: int = 0,
    num_workers: int = 0,
    network: str = "MICRANet",
    frozen: Sequence[str] = (),
    start: nn.Module | None = None,
    devices: int | str = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    **options: Any,
) -> Network:
    """Train a network, or go on with the run that ``folder`` holds.

    After each epoch the folder gets ``last.ckpt``, with the :func:`history`, and, if no epoch was
    better, ``best.ckpt``. The best epoch of MICRA-Net ranks validation images best (largest area
    under the ROC curve), which is less jumpy than the loss; that of a U-Net has the lowest loss. A
    run that was killed goes on after its last whole epoch and ends with the same weights (on one
    CPU). A finished run is loaded, not repeated; asked for more epochs, it goes on.

    Parameters
    ----------
    train, validation : Dataset
        Items are (image (C, H, W) float32, labels of 0, 1 and, where unknown, NaN, of any type):
        (num_classes,) for MICRA-Net, (num_classes, H, W) for a U-Net. Each is read once before
        the first epoch, to check it and to know the run by its data.
    folder : path
        Where the run lives. One run a folder; ``~`` is the home folder.
    epochs : int
        Epochs in all.
    batch_size : int
        Images per step, of each device.
    learning_rate : float
        Highest learning rate.
    schedule : {"cosine", "plateau"}
        "cosine": AdamW; the rate rises over the first tenth of the steps, then falls to 0 along
        a cosine. "plateau", as in the paper's code for F-actin: Adam; the rate is divided by 10
        after 10 epochs without a lower validation loss, down to 1e-5.
    pos_weight : sequence of float, optional
        Weight of each class's positives, e.g. negatives / positives where positives are rare.
    precision : str
        "auto", or any precision of pytorch-lightning, e.g. "32-true" or "bf16-mixed". "auto"
        takes half precision where the processor computes in it, else "32-true".
    seed : int
        Seed of the weights, of dropout and of the order of images.
    num_workers : int
        Processes that load images; 0 loads them in this one.
    network : {"MICRANet", "UNet", "FalkUNet"}
        What is trained.
    frozen : sequence of str
        Layers of MICRA-Net, e.g. "1a", whose weights and batch-norm statistics stay as they are.
    start : nn.Module, optional
        Network of the same kind and size whose weights to begin with. By default random ones.
    devices, num_nodes, strategy
        As pytorch-lightning's Trainer takes them: devices of a machine, machines, and how they
        work together, e.g. ``devices=2, strategy="ddp"``; in a notebook ``"ddp_notebook"``, in
        tests ``"ddp_spawn"``. Two devices learn as one with twice the batch, but for dropout, which
        is drawn anew, and batch norm on CPUs, where each has its own statistics.
    **options
        Further arguments of the network, e.g. ``pool="lse", sharpness=2``.

    Returns
    -------
    MICRANet, UNet or FalkUNet
        The network of the best epoch, in evaluation mode, on the CPU.

    Raises
    ------
    TypeError, ValueError
        If an image or label is not as above, none is positive for some class or, for MICRA-Net,
        all are; an option does not exist; the folder holds a run of other settings or data, or
        one at which another process is working; or the loss is no longer finite.
    RuntimeError
        If ``start`` has other channels or classes.
    OSError
        If a checkpoint cannot be written; the earlier ones are intact.
    """
    if network not in NETWORKS:
        raise ValueError(f"The network must be one of {', '.join(NETWORKS)}, not {network!r}.")
    start = None if start is None else unwrapped(start)
    if start is not None and type(start).__name__ != network:
        raise ValueError(f"The start is a {type(start).__name__}: give a {network}.")
    check_numbers(epochs, batch_size, learning_rate, pos_weight)
    image, data = check_data(train, validation, network)
    settings = {
        "in_channels": len(image),
        "num_classes": len(train[0][1]),
        "learning_rate": learning_rate,
        "schedule": schedule,
        "pos_weight": None if pos_weight is None else np.ravel(pos_weight).tolist(),
        "run": {"seed": seed, "batch_size": batch_size, "images": len(train), **data},
        "network": network,
        "frozen": sorted(frozen),
        "options": options or None,
    }
    if start is not None:
        settings["run"]["start"] = _digest(start)

    from micranet_helpers.train.learner import Learner  # loads pytorch-lightning
    from micranet_helpers.train.trainer import advance

    def make() -> Learner:
        learner = Learner(**settings)
        if start is not None:
            learner.model.load_state_dict(start.state_dict())
        return learner

    advance(make, settings, train, validation, folder, epochs, precision, num_workers,
            devices=devices, num_nodes=num_nodes, strategy=strategy)  # fmt: skip
    return load(folder)


def load(folder: Path | str, which: str = "best") -> Network:
    """Load the network of a run of :func:`fit`, in evaluation mode, on the CPU.

    ``which`` is "best", the best epoch as :func:`fit` defines it, or "last". Raises
    FileNotFoundError or ValueError if there is no such checkpoint, or it is damaged or of another
    network.
    """
    return restore(
        Path(folder).expanduser() / f"{which}.ckpt",
        lambda hyper: NETWORKS[hyper["network"]](
            hyper["in_channels"], hyper["num_classes"], **(hyper.get("options") or {})
        ),
        "MICRA-Net or U-Net",
    )


def restore(path: Path, make: Callable[[dict[str, Any]], nn.Module], name: str) -> nn.Module:
    """Load the network of a checkpoint: what :func:`load` does, for any network.

    ``make`` makes it, with any weights, of the hyper-parameters; ``name`` is for the message.
    """
    checkpoint = read_checkpoint(path)
    try:
        with torch.device("meta"):  # without numbers: a file may declare any size
            model = make(checkpoint["hyper_parameters"])
        weights = checkpoint["state_dict"].items()
        model.load_state_dict(
            {name.removeprefix("model."): value for name, value in weights}, assign=True
        )
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is no checkpoint of {name}: train again.") from error
    check_sibling(path, checkpoint)
    return model.float().to(memory_format=torch.contiguous_format).eval()


def history(folder: Path | str) -> dict[str, list[float]]:
    """Read what a run of :func:`fit` noted, over all its interruptions: lists, one value an epoch.

    They are ``epoch`` (from 1), ``loss``, ``val_loss``, ``val_accuracy`` (share of right labels),
    ``val_exact`` (share of images, or of pixels, with all labels right), ``val_score`` (of
    MICRA-Net: mean area under the ROC curve, less a thousandth of the loss), ``learning_rate`` and
    ``seconds`` (of the epoch when it was trained, with validation); NaN for what the training does
    not log.
    """
    path = Path(folder).expanduser() / "last.ckpt"
    found = read_checkpoint(path, peek=True) if path.is_file() else {}
    epochs = found.get("history", {})
    names = (
        "loss", "val_loss", "val_accuracy", "val_exact", "val_score", "learning_rate", "seconds",
    )  # fmt: skip
    table = {name: [epochs[e].get(name, math.nan) for e in sorted(epochs)] for name in names}
    return {"epoch": [epoch + 1 for epoch in sorted(epochs)], **table}


def check_numbers(
    epochs: int, batch_size: int, learning_rate: float, pos_weight: Sequence[float] | None = None
) -> None:
    """Refuse numbers with which nothing can be trained."""
    if not all(isinstance(n, Integral) and n >= 1 for n in (epochs, batch_size)):
        raise ValueError(
            f"Epochs and batch_size are whole numbers from 1 on, not {epochs} and {batch_size}."
        )
    rates = [learning_rate, *(() if pos_weight is None else np.ravel(pos_weight))]
    if not all(isinstance(rate, Real) and 0 < rate < math.inf for rate in rates):
        raise ValueError(
            f"The learning rate and pos_weight are above 0 and finite, not {rates}: leave out a "
            "class that no image shows."
        )


def check_data(train: Dataset, validation: Dataset, network: str) -> tuple[Tensor, dict[str, str]]:
    """Check the data of a training: return the first image and the fingerprints of both sets.

    Every class must be positive somewhere and, for a classifier, negative: it would say "yes" to
    everything.
    """
    learn, check = examine(train, "training", network), examine(validation, "validation", network)
    for found, words in ((learn.positive, "No training image is positive for"),
                         (learn.negative, "All training images are positive for")):  # fmt: skip
        if not found.all() and (network == "MICRANet" or found is learn.positive):
            classes = ", ".join(map(str, (~found).nonzero().flatten().tolist()))
            raise ValueError(
                f"{words} class {classes}: add the other kind of image, or leave the class out."
            )
    sizes = [(len(each.image), len(each.positive)) for each in (learn, check)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "Training and validation images differ in channels or classes: "
            f"{sizes[0]} and {sizes[1]}."
        )
    if not (check.positive | check.negative).any():
        raise ValueError("All validation labels are unknown: give some that are 0 or 1.")
    return learn.image, {"training": learn.digest, "validation": check.digest}


def _digest(model: nn.Module) -> str:
    """Compute a fingerprint of the weights: another start is another run."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


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
    batches = [model(images.to(device)).float().cpu() for images, _ in DataLoader(data, 64)]
    if not batches:
        raise ValueError("There is no crop to classify: lower the stride, or take another split.")
    return torch.cat(batches)
