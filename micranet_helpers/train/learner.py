"""Define what training does: loss, optimiser, schedule, order of images, one line an epoch."""

import math
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from micranet_helpers.metrics.labels import exact_match, label_accuracy, roc_areas
from micranet_helpers.networks import LAYERS, NETWORKS

WARM_UP = 0.1  # share of the steps over which the learning rate rises
TIE = 1e-3  # area under the ROC curve that a unit of loss is worth


class Repeatable(pl.LightningModule):
    """Do what every training does alike, so that a resumed run repeats it exactly."""

    monitor = "val_loss"  # the best epoch has the least of it, or the most "val_score"

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[int, dict[str, float]] = {}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draw dropout, and what else is random, from a seed of this step."""
        seed = (self.hparams.run or {}).get("seed", 0)
        torch.manual_seed(seed * 1_000_003 + self.global_step + (self.global_rank << 32))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the score of the epoch, by which the best one is known, and those before it.

        In the checkpoint they cannot disagree with the weights, whenever the program is killed.
        Raises ValueError if the training has diverged.
        """
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        numbers = checkpoint["state_dict"].values()
        if not (math.isfinite(metrics["val_loss"]) and all(x.isfinite().all() for x in numbers)):
            raise ValueError(
                f"The network is no longer finite in epoch {self.current_epoch + 1}: lower the "
                "learning rate, and scale the images to numbers near 0 and 1."
            )
        self.history |= {self.current_epoch: metrics}
        checkpoint |= {"score": metrics[self.monitor], "history": self.history}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the notes; older runs have none."""
        self.history = checkpoint.get("history", {})

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_validation_end(self) -> None:
        """Print one line an epoch: it stays readable in a log and in the book."""
        if not self.trainer.is_global_zero:
            return
        scores, took = self.trainer.callback_metrics, time.perf_counter() - self._start
        right = f"labels right {scores['val_accuracy']:.2%}, " if "val_accuracy" in scores else ""
        print(f"epoch {self.current_epoch + 1}/{self.trainer.max_epochs}: validation loss "
              f"{scores['val_loss']:.4f}, {right}{took:.0f} s", flush=True)  # fmt: skip

    def on_train_epoch_end(self) -> None:
        """Log the learning rate, and how long the epoch took, validation included."""
        self.log("learning_rate", self.optimizers().param_groups[0]["lr"])
        self.log("seconds", time.perf_counter() - self._start)


class Learner(Repeatable):
    """Combine a network with its loss, optimiser and schedule, for a pytorch-lightning trainer.

    The loss is the binary cross-entropy on logits, one yes or no per class, of each image
    (MICRA-Net) or each pixel (U-Nets). Labels of NaN are unknown, and do not count. The options
    are those of :func:`micranet_helpers.train.run.fit`; ``run`` holds what else identifies a run,
    ``options`` further arguments of the network.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        learning_rate: float = 1e-3,
        schedule: str = "cosine",
        pos_weight: Sequence[float] | None = None,
        run: dict | None = None,
        network: str = "MICRANet",
        frozen: Sequence[str] = (),
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if schedule not in ("cosine", "plateau"):
            raise ValueError(f'The schedule must be "cosine" or "plateau", not "{schedule}".')
        if pos_weight is not None and len(pos_weight) != num_classes:
            raise ValueError(f"pos_weight needs {num_classes} values, not {len(pos_weight)}.")
        if frozen and not (network == "MICRANet" and {*frozen} <= {*LAYERS}):
            raise ValueError(f"Only layers of MICRANet, {', '.join(LAYERS)}, can be frozen.")
        self.save_hyperparameters()
        model = NETWORKS[network](in_channels, num_classes, **(options or {}))
        self.model = model.to(memory_format=torch.channels_last)  # faster on CPUs and recent GPUs
        if network == "MICRANet":
            self.monitor = "val_score"
        self._answers: list[tuple[Tensor, Tensor]] = []
        for name in (step + layer for layer in frozen for step in ("conv", "bnorm")):
            # The trainer keeps this mode: the running statistics stay as they are.
            self.model.get_submodule(name).requires_grad_(False).eval()
        weight = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float32)
        self.register_buffer("pos_weight", weight, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes), of a U-Net (B, num_classes, H, W), of images (B, C, H, W)."""
        return self.model(images.contiguous(memory_format=torch.channels_last))

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Loss of a batch of images (B, C, H, W) and labels of 0, 1 and NaN, as the logits."""
        loss = self._loss(self(batch[0]), batch[1].float())
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]),
                 sync_dist=True)  # fmt: skip
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Log the validation loss, the share of right labels and of images all right.

        With labels of pixels, pixels count in place of images. Only what is labelled counts.
        """
        logits, labels = self(batch[0]).float(), batch[1].float()
        if labels.ndim == 2:
            self._answers.append((logits, labels))
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
        # Each device sees all validation images: they differ by the statistics of batch norm.
        both = {"val_loss": loss, "val_accuracy": accuracy}
        self.log_dict(both, on_epoch=True, batch_size=count, sync_dist=True)
        self.log("val_exact", exact, on_epoch=True, batch_size=len(present), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log how well images with a class are ranked above those without it.

        The score is the area under the ROC curve, averaged over classes; between equal areas, such
        as 1 of an easy class, or none of a label that never differs, the loss decides.
        """
        if self._answers:
            logits, labels = (torch.cat(parts) for parts in zip(*self._answers, strict=True))
            self._answers.clear()
            area = torch.tensor(roc_areas(logits, labels)).nanmean().nan_to_num()
            score = area - TIE * self._loss(logits, labels).cpu()
            self.log("val_score", score.to(self.device), sync_dist=True)

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
        known, weight = ~labels.isnan(), self.pos_weight
        if weight is not None:
            weight = weight.reshape(-1, *[1] * (labels.ndim - 2))
        total = F.binary_cross_entropy_with_logits(
            # A sum over many pixels needs more digits than bfloat16 has.
            logits.float(), labels.nan_to_num(), known, reduction="sum", pos_weight=weight
        )  # fmt: skip
        return total / known.sum().clamp(min=1)


class Shuffle(Sampler[int]):
    """A new random order each epoch, from seed and epoch alone: a resumed run sees the same.

    Several devices get every n-th image each, as many as the others.
    """

    def __init__(self, data: Dataset, seed: int) -> None:
        self.data, self.seed, self.epoch = data, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch; a dataset that augments is told, too."""
        self.epoch = epoch
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.data) // self._place()[1])

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.data), generator=generator).tolist()
        rank, devices = self._place()
        return islice(cycle(order), rank, len(self) * devices, devices)

    @staticmethod
    def _place() -> tuple[int, int]:
        """Tell which device this is, and of how many."""
        several = distributed.is_available() and distributed.is_initialized()
        return (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
