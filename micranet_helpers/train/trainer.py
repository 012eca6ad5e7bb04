"""Train for some epochs: pytorch-lightning, checkpoints written whole or not at all, one at a time.

pytorch-lightning takes seconds to load: :func:`~micranet_helpers.train.run.fit` does it when it is
called, so that who only looks at what was learnt does not wait for it.
"""

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, Dataset

from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.files.lock import alone
from micranet_helpers.files.signals import stoppable
from micranet_helpers.networks.precision import choose_precision
from micranet_helpers.train.checkpoints import epochs_done
from micranet_helpers.train.learner import Repeatable, Shuffle


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
    **machines: Any,
) -> None:
    """Train for the epochs that the run in a folder lacks: what ``fit`` does, for any network.

    ``make`` makes the module with its first weights; its hyper-parameters are the ``settings``,
    which identify the run; ``settings["run"]`` holds ``seed`` and ``batch_size``. ``machines`` are
    further arguments of the Trainer.
    """
    folder, run = Path(folder).expanduser(), settings["run"]
    if epochs_done(folder, settings) >= epochs:
        return
    with isolate_rng(), _quiet():
        pl.seed_everything(run["seed"], verbose=False)
        learner = make()  # refuses what is wrong before there is a folder
        # Of the processes of a script that "ddp" starts several times, the first has the lock.
        with nullcontext() if rank_zero_only.rank else alone(folder), stoppable():
            done = epochs_done(folder, settings)
            order = Shuffle(train, run["seed"])
            # A resumed trainer starts the workers before it tells the epoch.
            order.set_epoch(done)
            batches = partial(
                DataLoader, batch_size=run["batch_size"], num_workers=num_workers,
                collate_fn=collate,
            )  # fmt: skip
            _trainer(folder, epochs, precision, learner.monitor, **machines).fit(
                learner,
                batches(train, sampler=order),
                batches(validation),
                ckpt_path=folder / "last.ckpt" if done else None,
                weights_only=True,
            )


def _trainer(
    folder: Path, epochs: int, precision: str, monitor: str, devices: int | str = 1,
    **machines: Any,
) -> pl.Trainer:  # fmt: skip
    mode = "max" if monitor == "val_score" else "min"
    keep = partial(
        EpochCheckpoint, folder, save_on_train_epoch_end=True, enable_version_counter=False
    )
    return pl.Trainer(
        accelerator="auto",
        devices=devices,
        sync_batchnorm=torch.cuda.is_available(),
        use_distributed_sampler=False,  # Shuffle deals the images out
        **machines,
        precision=choose_precision() if precision == "auto" else precision,
        max_epochs=epochs,
        logger=False,
        callbacks=[keep("best", monitor=monitor, mode=mode), keep("last")],
        plugins=[AtomicCheckpointIO()],
        # The runner of the book sets TQDM_DISABLE: a bar is of no use in a saved page.
        enable_progress_bar=not os.environ.get("TQDM_DISABLE"),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replace a checkpoint only when the new one is complete, on whatever disk it is.

    pytorch-lightning moves it there from the system's temporary folder, perhaps by a copy.
    """

    def save_checkpoint(self, checkpoint: dict, path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), buffer.getbuffer())


class EpochCheckpoint(ModelCheckpoint):
    """Remember the best score also where the folder was moved since the run began."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of an interrupted run, but not the place where it was."""
        super().load_state_dict(state | {"dirpath": self.dirpath})


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
