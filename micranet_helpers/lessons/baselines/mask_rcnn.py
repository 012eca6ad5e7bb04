"""Train Mask R-CNN on numbered objects, and find objects with it in images of any size.

It is a baseline of MICRA-Net for F-actin and cells (Bilodeau et al. 2022,
doi 10.1038/s42256-022-00472-w). The network is that of :mod:`micranet_helpers.networks.mask_rcnn`.
Boxes are left, top, right, bottom, bounded by the edges of pixels: 0, 0, 2, 2 holds the pixels 0
and 1 of both directions.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from skimage.measure import regionprops
from torch import Tensor, nn
from tqdm import tqdm

from micranet_helpers.maps.detect import drop_small
from micranet_helpers.maps.selftraining import PixelCrops
from micranet_helpers.maps.tiles import PATIENCE, grid
from micranet_helpers.metrics.masks import as_labels
from micranet_helpers.networks.mask_rcnn import build, torchvision
from micranet_helpers.networks.micranet import check_evaluating, check_finite, check_images
from micranet_helpers.train import check_data, check_numbers, restore
from micranet_helpers.train.learner import Repeatable
from micranet_helpers.train.trainer import advance

SMALLEST = 4
"""Least width and height of an object's box, px, as in the paper's code for F-actin."""

SCORE, MASK, OVERLAP = 0.5, 0.5, 0.7
"""Least score of an object, least probability of its pixels, and largest intersection over union
of two boxes (beyond it the lower score is left out): the paper's."""

TILES_PER_BATCH = 8


def targets(label: NDArray[np.integer]) -> dict[str, Tensor]:
    """Turn numbered objects (K, H, W), one plane a class, into targets of torchvision's Mask R-CNN.

    ``boxes``, float32 (M, 4): left, top, right, bottom, px; ``labels``, int64 (M,), from 1;
    ``masks``, uint8 (M, H, W): 0 and 1. M may be 0. Objects whose box is less than
    :data:`SMALLEST` px wide or high are left out.
    """
    objects = [
        (number, region.bbox, plane == region.label)
        for number, plane in enumerate(label, 1)
        for region in regionprops(plane)
        if min(region.image.shape) >= SMALLEST
    ]
    boxes = [(left, top, right, bottom) for _, (top, left, bottom, right), _ in objects]
    masks = np.array([mask for *_, mask in objects], np.uint8)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([number for number, *_ in objects], dtype=torch.int64),
        "masks": torch.from_numpy(masks.reshape(len(objects), *label.shape[1:])),
    }


class ObjectCrops(PixelCrops):
    """Draw random crops of images with the objects in them, for :func:`fit`.

    Crops are those of :class:`~micranet_helpers.maps.selftraining.PixelCrops`, so that all networks
    see the same; smaller images have zeros at their far borders. ``labels`` are N arrays, integer
    (K, H, W), one plane for each class: 0 is background, every value above, below 2^24, one object,
    whose parts need not touch. The attribute ``labels``, float32 (N, K), is 1 where an image has an
    object of the class. Raises ValueError if images and labels do not belong together, labels hold
    no object numbers, or the side or the number of crops is less than 1.
    """

    _most = 2**24  # highest number of an object

    def __init__(
        self, images: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.integer]],
        *crops: Any, **options: Any,
    ) -> None:  # fmt: skip
        numbers = [as_labels(label, 3).astype(np.float32) for label in labels]
        super().__init__(images, numbers, *crops, **options)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw a crop, float32 (C, side, side), and its :func:`targets`."""
        image, label = super().__getitem__(i)
        # Beyond the image nothing is known, but what is not labelled is learnt as background.
        image = image.masked_fill(label.isnan().any(0), 0)
        return image, targets(label.nan_to_num().int().numpy())


class _Learner(Repeatable):
    """Hold Mask R-CNN with its losses and optimiser, for a pytorch-lightning trainer."""

    def __init__(
        self, in_channels: int, num_classes: int, crop: int, learning_rate: float,
        run: dict[str, Any], network: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.save_hyperparameters()
        self.model = build(in_channels, num_classes, crop)

    def training_step(self, batch: tuple[list[Tensor], list[dict]], _: int) -> Tensor:
        loss = self._loss(batch)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: tuple[list[Tensor], list[dict]], number: int) -> None:
        self.model.train()  # torchvision computes losses in no other mode
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        torch.manual_seed(number)  # the draw of the boxes that count is the same in each epoch
        self.log("val_loss", self._loss(batch), on_epoch=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.hparams.learning_rate)

    def _loss(self, batch: tuple[list[Tensor], list[dict]]) -> Tensor:
        return sum(self.model(*batch).values())


def _collate(items: list[tuple[Tensor, dict]]) -> tuple[list[Tensor], list[dict]]:
    images, objects = zip(*items, strict=True)
    return list(images), list(objects)


def fit(
    train: ObjectCrops, validation: ObjectCrops, folder: Path | str, epochs: int, *,
    batch_size: int = 32, learning_rate: float = 1e-4, precision: str = "auto", seed: int = 0,
    num_workers: int = 0,
) -> nn.Module:  # fmt: skip
    """Train a Mask R-CNN, or continue the run that ``folder`` (1 GB) holds.

    The run is kept and continued as by :func:`micranet_helpers.train.run.fit`, as for which
    ``precision``, ``seed`` and ``num_workers`` are; :func:`micranet_helpers.train.run.history`
    reads its log. The loss is the sum of torchvision's five, the optimiser Adam with a constant
    rate. The validation loss is computed in training mode without gradients, as in the paper's
    code, but with the batch norm's learnt statistics, as in :func:`predict`. Crops of training and
    validation have one side; those for validation are best not augmented. ``epochs`` counts all;
    ``batch_size`` is by default the paper's for F-actin, much for a machine without a GPU.

    The network is that of the best epoch, in evaluation mode, on the CPU. Raises ImportError if
    torchvision, or its compiled part, is missing; ValueError if no training image has an object of
    some class, or the folder holds another run; OSError if a checkpoint cannot be written.
    """
    check_numbers(epochs, batch_size, learning_rate)
    image, data = check_data(train, validation, "MaskRCNN")
    settings = {
        "in_channels": len(image),
        "num_classes": train.labels.shape[1],
        "crop": image.shape[-1],
        "learning_rate": learning_rate,
        "run": {"seed": seed, "batch_size": batch_size, "images": len(train), **data},
        "network": "MaskRCNN",
    }
    make = partial(_Learner, **settings)
    advance(make, settings, train, validation, folder, epochs, precision, num_workers, _collate)
    return load(folder)


def load(folder: Path | str, which: str = "best") -> nn.Module:
    """Load the "best" or "last" network of a run of :func:`fit`, in evaluation mode, on the CPU."""
    return restore(
        Path(folder) / f"{which}.ckpt",
        lambda hyper: build(hyper["in_channels"], hyper["num_classes"], hyper["crop"]),
        "Mask R-CNN",
    )


class Instances(NamedTuple):
    """Hold the objects of an image that :func:`predict` finds.

    ``labels``, int32 (H, W), is 0 in the background and numbers objects from 1, the highest score
    first. Object i + 1 is of class ``classes[i]``, int64 (N,), from 0, and has the score
    ``scores[i]``, float32 (N,), from :data:`SCORE` to 1.
    """

    labels: NDArray[np.int32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]


def predict(model: nn.Module, image: NDArray[np.float32]) -> Instances:
    """Find the objects of an image of any size, float32 (C, H, W), normalised as in the training.

    The image is cut into tiles of the side of the crops, half a side apart, mirrored beyond the
    far borders. An object belongs to the tile in whose middle half, or at a border of the image
    whose outer part, the centre of its box lies; the middle halves overlap a little. So objects up
    to 7/16 of a tile are found whole, and larger ones may be found in parts. Of boxes of any class
    that overlap by more than :data:`OVERLAP`, the best is kept, and where two masks overlap, the
    higher score has the pixel. The rule for tiles is ours; score, mask and overlap are those of
    the paper's code. Objects of which no pixel is seen, or whose box inside the image is less than
    :data:`SMALLEST` px wide or high, are left out.

    The model is that of :func:`fit`, in evaluation mode, on any device. Raises TypeError or
    ValueError if it is in training mode, or the image is not of this type and shape or holds NaN.
    """
    check_evaluating(model)
    batch = torch.tensor(np.asarray(image))[None]
    check_images(batch, model, 1)
    check_finite(batch)
    side, size = model.transform.max_size, np.array(image.shape[1:])
    corners = grid(image.shape[1:], side, side // 2)
    far = [(0, last + side - length) for last, length in zip(corners[-1], size, strict=True)]
    padded = torch.from_numpy(np.pad(image, [(0, 0), *far], mode="reflect"))
    device = next(model.parameters()).device
    found: list[_Object] = []
    for first in tqdm(
        range(0, len(corners), TILES_PER_BATCH), unit="batch", leave=False, delay=PATIENCE
    ):
        part = corners[first : first + TILES_PER_BATCH]
        tiles = [padded[:, y : y + side, x : x + side].to(device) for y, x in part]
        with torch.inference_mode():
            outputs = model(tiles)
        for corner, output in zip(part, outputs, strict=True):
            found += _objects(output, np.array(corner), side, size)
    return _painted(found, size)


class _Object(NamedTuple):
    """Hold the box of an object and, in a window of the image, its pixels."""

    box: NDArray[np.float32]  # top, left, bottom, right
    score: float
    label: int
    window: tuple[slice, slice]
    mask: NDArray[np.bool_]


def _objects(
    output: dict[str, Tensor], corner: NDArray[np.int64], side: int, size: NDArray[np.int64]
) -> list[_Object]:
    """List the objects of a tile that belong to it."""
    visible = np.minimum(size - corner, side)
    boxes = output["boxes"].cpu().numpy()[:, [1, 0, 3, 2]].clip(0, np.tile(visible, 2))
    own = _belonging(boxes, corner, side, size) & (output["scores"].cpu().numpy() >= SCORE)
    masks = output["masks"][own.nonzero()[0], 0, : visible[0], : visible[1]] >= MASK
    scores, labels = (output[name].cpu().numpy()[own].tolist() for name in ("scores", "labels"))
    objects = []
    for *facts, mask in zip(
        boxes[own] + np.tile(corner, 2), scores, labels, masks.cpu().numpy(), strict=True
    ):
        for inner in find_objects(mask.astype(np.uint8)):  # none where the mask is empty
            window = tuple(
                slice(start + part.start, start + part.stop)
                for start, part in zip(corner, inner, strict=True)
            )
            # A view would keep the whole tile in memory.
            objects.append(_Object(*facts, window, mask[inner].copy()))
    return objects


def _belonging(
    boxes: NDArray[np.float32], corner: NDArray[np.int64], side: int, size: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Mark boxes that are wide enough and have their centre in the middle half of the tile."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    slack, stride = side // 32, side // 2
    low = np.where(corner > 0, (side - stride) / 2 - slack, 0)
    high = np.where(corner + side < size, (side + stride) / 2 + slack, side)
    wide = boxes[:, 2:] - boxes[:, :2] >= SMALLEST
    return (wide & (low <= middle) & (middle <= high)).all(1)


def _painted(found: list[_Object], size: NDArray[np.int64]) -> Instances:
    boxes = torch.tensor(np.array([each.box for each in found], np.float32).reshape(-1, 4))
    scores = torch.tensor([each.score for each in found], dtype=torch.float32)
    kept = torchvision().ops.nms(boxes, scores, OVERLAP).tolist()  # the highest score first
    painted = np.zeros(size, np.int32)
    for number, i in reversed([*enumerate(kept, 1)]):
        painted[found[i].window][found[i].mask] = number
    seen = [found[kept[number - 1]] for number in np.unique(painted[painted > 0])]
    return Instances(
        drop_small(painted, 1),
        np.array([each.label - 1 for each in seen], np.int64),
        np.array([each.score for each in seen], np.float32),
    )
