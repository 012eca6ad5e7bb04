"""Checkpoints of a run: written whole or not at all, read without running code."""

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from micranet_helpers.files.atomic import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replace a checkpoint only when the new one is complete.

    pytorch-lightning writes to the system's temporary folder and moves the file, which is a copy,
    and so not atomic, where that folder is on another disk.
    """

    def save_checkpoint(self, checkpoint: dict, path: Any, storage_options: Any = None) -> None:
        """Save ``checkpoint`` as ``path``."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), buffer.getbuffer())


class EpochCheckpoint(ModelCheckpoint):
    """Keep one checkpoint in a folder, up to date after each epoch.

    The folder may have been moved since the run began: the best score is remembered all the same.
    """

    def __init__(self, folder: Path, filename: str, monitor: str | None = None) -> None:
        super().__init__(
            folder,
            filename,
            monitor=monitor,
            mode="max" if monitor == "val_score" else "min",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of an interrupted run, but not the place where it was."""
        super().load_state_dict(state | {"dirpath": self.dirpath})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a ``.ckpt`` file onto the CPU, without running any code that it may hold.

    A FileNotFoundError or ValueError says if it is missing, damaged or something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}: train first.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        # What every checkpoint of this package has.
        return {**checkpoint, "hyper_parameters": dict(checkpoint["hyper_parameters"])}
    except Exception as error:  # torch raises many kinds for damaged files
        raise ValueError(
            f"{path} is damaged or no checkpoint of this package: delete it and train again."
        ) from error
