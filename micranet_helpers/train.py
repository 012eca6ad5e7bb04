"""Train a network on labels of images or pixels, with checkpoints that survive a kill."""

import csv
import errno
import hashlib
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from micranet_helpers.architectures import Network
from micranet_helpers.checkpoints import AtomicCheckpointIO, EpochCheckpoint, read_checkpoint
from micranet_helpers.metrics import exact_match, label_accuracy
from micranet_helpers.model import LAYERS, MICRANet
from micranet_helpers.unet import FalkUNet, UNet

NETWORKS = {"MICRANet": MICRANet, "UNet": UNet, "FalkUNet": FalkUNet}
WARM_UP = 0.1  # share of the steps over which the learning rate rises
# What the system says when a file cannot be written: no space, over quota, too large, read-only.
_NAMES = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS")  # not every system has each
WRITE_ERRORS = [getattr(errno, name) for name in _NAMES if hasattr(errno, name)]


class Repeatable(pl.LightningModule):
    """What every training does alike, so that a resumed run repeats it exactly."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draw dropout, and what else is random, from a seed of this step."""
        seed = (self.hparams.run or {}).get("seed", 0)
        torch.manual_seed(seed * 1_000_003 + self.global_step)

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """Log the learning rate, and how long the epoch took, validation included."""
        self.log("learning_rate", self.optimizers().param_groups[0]["lr"])
        self.log("seconds", time.perf_counter() - self._start)


class Learner(Repeatable):
    """A network with its loss, optimiser and schedule, for a pytorch-lightning trainer.

    The loss is the binary cross-entropy on logits, one yes or no per class, of each image
    (MICRA-Net) or each pixel (U-Nets). What is labelled NaN is unknown, and does not count.

    Parameters
    ----------
    in_channels, num_classes : int
        As for :class:`~micranet_helpers.model.MICRANet`.
    learning_rate : float
        Highest learning rate.
    schedule : {"cosine", "plateau"}
        "cosine": AdamW, the rate rises over the first tenth of the steps, then falls to 0 along
        a cosine. "plateau": what the paper's code does for F-actin; Adam, the rate is divided by
        10 after 10 epochs without a lower validation loss, down to 1e-5.
    pos_weight : sequence of float, optional
        Weight of each class's positives, e.g. negatives / positives where positives are rare.
    channels_last : bool
        Keep pixels of all channels together in memory: faster on CPUs and recent GPUs.
    run : dict, optional
        Facts that make a run what it is; stored in its checkpoints.
    network : {"MICRANet", "UNet", "FalkUNet"}
        What is trained.
    frozen : sequence of str
        Layers of MICRA-Net, e.g. "1a", whose weights and batch-norm statistics stay as they are.

    Raises
    ------
    ValueError
        If the schedule, the network or a layer does not exist, or ``pos_weight`` does not have one
        value per class.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        learning_rate: float = 1e-3,
        schedule: str = "cosine",
        pos_weight: Sequence[float] | None = None,
        channels_last: bool = True,
        run: dict | None = None,
        network: str = "MICRANet",
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if schedule not in ("cosine", "plateau"):
            raise ValueError(f'The schedule must be "cosine" or "plateau", not "{schedule}".')
        if pos_weight is not None and len(pos_weight) != num_classes:
            raise ValueError(f"pos_weight needs {num_classes} values, not {len(pos_weight)}.")
        if network not in NETWORKS:
            raise ValueError(f"The network must be one of {', '.join(NETWORKS)}, not {network!r}.")
        if frozen and not (network == "MICRANet" and {*frozen} <= {*LAYERS}):
            raise ValueError(f"Only layers of MICRANet, {', '.join(LAYERS)}, can be frozen.")
        self.save_hyperparameters()
        self.model = NETWORKS[network](in_channels, num_classes)
        for name in (step + layer for layer in frozen for step in ("conv", "bnorm")):
            # The trainer keeps this mode: the running statistics stay as they are.
            self.model.get_submodule(name).requires_grad_(False).eval()
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        weight = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float32)
        self.register_buffer("pos_weight", weight, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes), of a U-Net (B, num_classes, H, W), of images (B, C, H, W)."""
        if self.hparams.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Loss of a batch of images (B, C, H, W) and labels of 0, 1 and NaN, as the logits."""
        loss = self._loss(self(batch[0]), batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Log the validation loss, the share of right labels and of images all right.

        With labels of pixels, pixels count in place of images. Only what is labelled counts.
        """
        logits, labels = self(batch[0]).float(), batch[1]
        loss = self._loss(logits, labels)
        # One row for each image or pixel of which something is known.
        logits, labels = (x.movedim(1, -1).flatten(0, -2) for x in (logits, labels))
        rows = ~labels.isnan().all(1)
        if not rows.any():
            return
        predicted, present = logits[rows] > 0, labels[rows] > 0.5
        unknown = labels[rows].isnan()
        accuracy = label_accuracy(predicted[~unknown][:, None], present[~unknown][:, None])
        exact = exact_match(predicted | unknown, present | unknown)
        count = int((~unknown).sum())
        self.log_dict({"val_loss": loss, "val_accuracy": accuracy}, on_epoch=True, batch_size=count)
        self.log("val_exact", exact, on_epoch=True, batch_size=len(present))

    def configure_optimizers(self) -> dict:
        """AdamW with the cosine, Adam with the plateau."""
        rate = self.hparams.learning_rate
        if self.hparams.schedule == "plateau":
            optimizer = torch.optim.Adam(self.parameters(), rate)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=0.1, patience=10, threshold=0.01, min_lr=1e-5
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"},
            }
        optimizer = torch.optim.AdamW(self.parameters(), rate)
        # A function of the step alone: a run that is continued for more epochs just stretches it,
        # which torch's OneCycleLR refuses.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._cosine)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _cosine(self, step: int) -> float:
        progress = min(1, step / self.trainer.estimated_stepping_batches)
        if progress < WARM_UP:
            return max(progress / WARM_UP, 0.01)
        return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.shape != labels.shape:
            raise ValueError(
                f"{self.hparams.network} needs labels of the shape {tuple(logits.shape)}, not "
                f"{tuple(labels.shape)}: MICRANet learns from one label per image and class, "
                "U-Nets from one per pixel and class."
            )
        known, weight = ~labels.isnan(), self.pos_weight
        if weight is not None:
            weight = weight.reshape(-1, *[1] * (labels.ndim - 2))
        total = F.binary_cross_entropy_with_logits(
            # A sum over many pixels needs more digits than bfloat16 has.
            logits.float(), labels.nan_to_num(), known, reduction="sum", pos_weight=weight
        )  # fmt: skip
        return total / known.sum().clamp(min=1)


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
    channels_last: bool = True,
    seed: int = 0,
    num_workers: int = 0,
    network: str = "MICRANet",
    frozen: Sequence[str] = (),
    start: nn.Module | None = None,
) -> Network:
    """Train a network, or go on with the run that ``folder`` holds.

    After each epoch the folder gets ``last.ckpt``, ``best.ckpt`` (lowest validation loss) and a
    line in a CSV log (:func:`history`). A run that was killed goes on after its last whole epoch
    and ends with the same weights (on one CPU). A finished run is loaded, not repeated; asked for
    more epochs, it goes on.

    Parameters
    ----------
    train, validation : Dataset
        Items are (image (C, H, W) float32, labels float32 of 0, 1 and, where unknown, NaN):
        (num_classes,) for MICRA-Net, (num_classes, H, W) for a U-Net. All labels, or for pixels
        (N, num_classes) that tell which classes an image shows, must be at hand as
        ``dataset.labels`` or as the second tensor of a ``TensorDataset``.
    folder : path
        Where the run lives. One run a folder.
    epochs : int
        Epochs in all.
    batch_size : int
        Images per step.
    learning_rate, schedule, pos_weight, channels_last, network, frozen
        See :class:`Learner`.
    precision : str
        "auto", or any precision of pytorch-lightning, e.g. "32-true" or "bf16-mixed". "auto"
        takes half precision where the processor computes in it, else "32-true".
    seed : int
        Seed of the weights, of dropout and of the order of images.
    num_workers : int
        Processes that load images; 0 loads them in this one.
    start : nn.Module, optional
        Network of the same kind and size whose weights to begin with. By default random ones.

    Returns
    -------
    MICRANet, UNet or FalkUNet
        The network of the best epoch, in evaluation mode, on the CPU.

    Raises
    ------
    ValueError
        If there is no training image, none is positive for some class, all are positive for one
        that is labelled image by image, labels or ``start`` do not fit the network, or the folder
        holds another run.
    OSError
        If a checkpoint cannot be written; the earlier ones are intact.
    """
    check_labels(train)
    image, labels = train[0]
    if labels.ndim == 1:
        _check_negatives(train)
    settings = {
        "in_channels": len(image),
        "num_classes": len(labels),
        "learning_rate": learning_rate,
        "schedule": schedule,
        "pos_weight": None if pos_weight is None else [float(weight) for weight in pos_weight],
        "channels_last": channels_last,
        "run": {"seed": seed, "batch_size": batch_size, "images": len(train)},
        "network": network,
        "frozen": sorted(frozen),
    }
    if start is not None:
        settings["run"]["start"] = _digest(start)

    def make() -> Learner:
        learner = Learner(**settings)
        if start is not None:
            _take_weights(learner.model, start)
        return learner

    advance(make, settings, train, validation, folder, epochs, precision, num_workers)
    return load(folder)


def advance(
    make: Callable[[], Repeatable],
    settings: dict[str, Any],
    train: Dataset,
    validation: Dataset,
    folder: Path | str,
    epochs: int,
    precision: str = "auto",
    num_workers: int = 0,
    collate: Callable | None = None,
) -> None:
    """Train for the epochs that the run in a folder lacks: what :func:`fit` does, for any network.

    Parameters
    ----------
    make : function without arguments
        Makes the module with its first weights; its hyper-parameters are the settings.
    settings : dict
        What makes this run what it is. ``settings["run"]`` holds ``seed`` and ``batch_size``.
    train, validation, folder, epochs, precision, num_workers
        As for :func:`fit`.
    collate : function, optional
        Makes a batch of a list of items; by default torch's own.

    Raises
    ------
    ValueError
        If the folder holds another run.
    OSError
        If a checkpoint cannot be written; the earlier ones are intact.
    """
    folder, run = Path(folder), settings["run"]
    done = _epochs_done(folder, settings)
    if done >= epochs:
        return
    with isolate_rng(), _quiet(), _clear_write_errors(folder):
        pl.seed_everything(run["seed"], verbose=False)
        order = Shuffle(train, run["seed"])
        # A resumed trainer starts the workers before it tells the epoch.
        order.set_epoch(done)
        batches = partial(
            DataLoader, batch_size=run["batch_size"], num_workers=num_workers, collate_fn=collate
        )
        learner = make()
        _trainer(folder, epochs, precision).fit(
            learner,
            batches(train, sampler=order),
            batches(validation),
            ckpt_path=folder / "last.ckpt" if done else None,
            weights_only=True,
        )


def load(folder: Path | str, which: str = "best") -> Network:
    """Load the network of a run.

    Parameters
    ----------
    folder : path
        Folder of a run of :func:`fit`.
    which : {"best", "last"}
        The epoch of lowest validation loss, or the last one.

    Returns
    -------
    MICRANet, UNet or FalkUNet
        In evaluation mode, on the CPU.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such checkpoint, or it is damaged or of another network.
    """
    return restore(
        Path(folder) / f"{which}.ckpt",
        # Old runs do not name the network.
        lambda hyper: NETWORKS[hyper.get("network", "MICRANet")](
            hyper["in_channels"], hyper["num_classes"]
        ),
        "MICRA-Net or U-Net",
    )


def restore(path: Path, make: Callable[[dict[str, Any]], nn.Module], name: str) -> nn.Module:
    """Load the network of a checkpoint: what :func:`load` does, for any network.

    Parameters
    ----------
    path : Path
        A ``.ckpt`` file.
    make : function
        Makes the network, with any weights, of the hyper-parameters in the checkpoint.
    name : str
        What the network is called in the message if it does not fit.

    Returns
    -------
    nn.Module
        In evaluation mode, on the CPU.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such checkpoint, or it is damaged or of another network.
    """
    checkpoint = read_checkpoint(path)
    try:
        with isolate_rng():  # drawing the weights that are replaced at once
            model = make(checkpoint["hyper_parameters"])
        weights = checkpoint["state_dict"].items()
        model.load_state_dict({name.removeprefix("model."): value for name, value in weights})
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is no checkpoint of {name}: train again.") from error
    return model.eval()


def history(folder: Path | str) -> dict[str, list[float]]:
    """Read the log of a run, over all its interruptions.

    Parameters
    ----------
    folder : path
        Folder of a run of :func:`fit`.

    Returns
    -------
    dict of lists, one value an epoch
        ``epoch`` (from 1), ``loss``, ``val_loss``, ``val_accuracy`` (share of right labels),
        ``val_exact`` (share of images, or of pixels, with all labels right), ``learning_rate``
        and ``seconds`` (with validation); NaN for what the training does not log.
    """
    epochs: dict[int, dict[str, float]] = {}
    logs = (Path(folder) / "log").glob("version_*/metrics.csv")
    for log in sorted(logs, key=lambda path: int(path.parent.name.removeprefix("version_"))):
        with log.open(newline="") as lines:
            for row in csv.DictReader(lines):
                known = {name: float(value) for name, value in row.items() if value}
                epochs.setdefault(int(known["epoch"]), {}).update(known)
    names = ("loss", "val_loss", "val_accuracy", "val_exact", "learning_rate", "seconds")
    table = {name: [epochs[e].get(name, math.nan) for e in sorted(epochs)] for name in names}
    return {"epoch": [epoch + 1 for epoch in sorted(epochs)], **table}


class Shuffle(Sampler[int]):
    """A new random order each epoch, from seed and epoch alone: a resumed run sees the same."""

    def __init__(self, data: Dataset, seed: int) -> None:
        self.data, self.seed, self.epoch = data, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch; a dataset that augments is told, too."""
        self.epoch = epoch
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(len(self), generator=generator).tolist())


class EpochLines(pl.Callback):
    """Print one line an epoch: it stays readable in a log and in the book."""

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Print the validation scores of this epoch."""
        scores = trainer.callback_metrics
        right = scores.get("val_accuracy")
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: "
            f"validation loss {scores['val_loss']:.4f}, "
            f"{'' if right is None else f'labels right {right:.2%}, '}"
            f"{time.perf_counter() - self.start:.0f} s",
            flush=True,
        )


def choose_precision() -> str:
    """Choose the arithmetic in which this machine trains fastest.

    Returns
    -------
    str
        A precision of pytorch-lightning: half precision where the GPU or the CPU computes in it,
        else "32-true".
    """
    if torch.cuda.is_available():
        # Colab's T4 knows bfloat16 by emulation only, which is slower than either alternative.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    if torch.backends.mps.is_available():
        return "32-true"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16-mixed" if native else "32-true"


def _trainer(folder: Path, epochs: int, precision: str) -> pl.Trainer:
    best = EpochCheckpoint(folder, "best", monitor="val_loss")
    last = EpochCheckpoint(folder, "last")
    return pl.Trainer(
        accelerator="auto",
        devices=1,
        precision=choose_precision() if precision == "auto" else precision,
        max_epochs=epochs,
        logger=CSVLogger(folder, name="log"),
        callbacks=[best, last, EpochLines()],
        plugins=[AtomicCheckpointIO()],
        # The runner of the book sets TQDM_DISABLE: a bar is of no use in a saved page.
        enable_progress_bar=not os.environ.get("TQDM_DISABLE"),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )


def check_labels(train: Dataset) -> None:
    """Raise one clear sentence if a training set cannot teach some class.

    Parameters
    ----------
    train : Dataset
        As for :func:`fit`.

    Raises
    ------
    ValueError
        If it is empty, or no image is positive for some class.
    """
    if len(train) == 0:
        raise ValueError("The training set is empty: give at least one image.")
    shown = _shown(train).any(1)
    if not shown.all():
        raise ValueError(
            f"No training image is positive for class {_listed(~shown)}: "
            "add images that show it, or leave the class out."
        )


def _check_negatives(train: Dataset) -> None:
    """A classifier that never hears "no" says "yes" to everything, and its maps mean nothing."""
    everywhere = _shown(train).all(1)
    if everywhere.any():
        raise ValueError(
            f"All training images are positive for class {_listed(everywhere)}: "
            "add images that do not show it, or leave the class out."
        )


def _shown(train: Dataset) -> Tensor:
    """Whether each image (or pixel) is positive, bool (K, ...)."""
    labels = train.tensors[1] if hasattr(train, "tensors") else train.labels
    return (torch.as_tensor(labels) > 0.5).movedim(1, 0).flatten(1)


def _listed(classes: Tensor) -> str:
    return ", ".join(map(str, classes.nonzero().flatten().tolist()))


def _epochs_done(folder: Path, settings: dict) -> int:
    """Whole epochs in the folder's last checkpoint; an error if it is of another run."""
    path = folder / "last.ckpt"
    if not path.exists():
        return 0
    checkpoint = read_checkpoint(path)
    stored = {"network": "MICRANet", "frozen": []} | checkpoint["hyper_parameters"]
    differs = [name for name in settings if stored.get(name) != settings[name]]
    other = [f"{name} = {stored.get(name)}" for name in differs]
    if other:
        raise ValueError(
            f"{folder} holds another run ({'; '.join(other)}): choose another folder or delete it."
        )
    return checkpoint["epoch"] + 1


def _digest(model: nn.Module) -> str:
    """A fingerprint of the weights: another start is another run."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


def _take_weights(model: nn.Module, start: nn.Module) -> None:
    try:
        model.load_state_dict(start.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"The weights to start from do not fit a {type(model).__name__} with "
            f"{model.in_channels} channels and {model.num_classes} classes: give another start."
        ) from error


@contextmanager
def _clear_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        raise OSError(
            error.errno,
            f"Could not write to {folder} ({error.strerror}): free some space and run again; "
            "it goes on after the last whole epoch",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what pytorch-lightning says about its own workings."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
            warnings.filterwarnings("ignore", message="Checkpoint directory .* is not empty")
            warnings.filterwarnings("ignore", message="Found .* in eval mode")  # frozen layers
            yield
    finally:
        logger.setLevel(level)
