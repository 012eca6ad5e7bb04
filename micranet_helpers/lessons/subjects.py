"""Train and measure on the data of other chapters as they do: settings, and what follows from them.

The sizes are those of the chapters at the profile `quick`, so that what was trained there is only
loaded; :func:`dataclasses.replace` changes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micranet_helpers.data import ctc, em, mnist
from micranet_helpers.data.crops import CropDataset, Rule
from micranet_helpers.data.dataset import Sample
from micranet_helpers.lessons import training
from micranet_helpers.maps import recipes, selftraining
from micranet_helpers.maps.segmentation import Recipe, crop_by_crop, segment
from micranet_helpers.networks import MICRANet, Network, UNet


@dataclass(frozen=True)
class Subject:
    """Hold the settings of a dataset; sides and steps are in px."""

    name: str  # mnist, em or ctc
    rule: Rule = field(repr=False)  # labels of crops
    questions: int  # yes-or-no questions that a crop is asked
    ours: str  # recipe of the masks without further training
    num_images: int  # simulated
    size: int  # side of a simulated image
    side: int  # of a crop
    stride: int  # between training crops
    test_stride: int  # between other crops
    epochs: int  # of the classifier
    pixel_crops: int  # of each U-Net
    pixel_epochs: int  # 0: no U-Net is trained
    smallest: int  # pieces of fewer pixels are no objects
    near: int  # side of what figures show of an image
    tile: int | None = None  # side of the tiles in which large images are predicted
    pixel_batch: int = 16
    rings: Sequence[int] = (0,)  # rounds of self-training, as `training.self_train` takes them
    shrink: int | None = None  # px of the open sections of em that become one, each way
    crops_as: dict[str, Any] = field(default_factory=dict, repr=False)  # other settings of crops
    fit_as: dict[str, Any] = field(default_factory=dict, repr=False)  # and of the classifier's fit

    def build(self, source: str, subset: str, seed: int) -> Path:
        """Build the dataset, or find the file of its chapter."""
        more = {"mnist": {"seed": seed}, "em": {"shrink": self.shrink}}.get(self.name, {})
        return training.build_dataset(
            self.name, source, subset, self.num_images, self.size, **more
        )

    def crops(self, path: Path, split: str, seed: int = 0) -> CropDataset:
        """Cut a split into crops with labels, for training augmented."""
        if split == "training":
            return CropDataset(
                path, split, self.side, self.stride, self.rule, seed=seed, **self.crops_as
            )
        return CropDataset(path, split, self.side, self.test_stride, self.rule)

    def folder(self, path: Path, seed: int) -> str:
        """Name the run of the classifier as its chapter does."""
        return training.run_folder(path, self.side, self.stride, self.epochs, seed, "train")

    def classifier(self, path: Path, seed: int) -> MICRANet:
        """Train the classifier on image-level labels, or load it."""
        crops = self.crops(path, "training", seed), self.crops(path, "validation")
        return training.fit_or_load(
            "train", *crops, self.folder(path, seed), self.epochs, seed=seed, **self.fit_as
        )

    def student(self, model: MICRANet, path: Path, seed: int) -> UNet:
        """Train a U-Net on what the classifier says, or load it; its run ends in "-unet"."""
        crops = self.crops(path, "training", seed), self.crops(path, "validation")
        guide = selftraining.guided if self.name == "ctc" else None
        return training.self_train(
            model, path, *crops, self.pixel_crops, f"{self.folder(path, seed)}-unet",
            self.pixel_epochs, seed, guide, self.pixel_batch, self.rings,
        )  # fmt: skip

    def objects(self, sample: Sample) -> NDArray[np.int64]:
        """Number the objects of each kind, (K, H, W); contacts between cells are none."""
        label = sample.label.astype(np.int64)
        return {"mnist": label, "em": label[:1], "ctc": label[::2]}[self.name]

    def judged(self, sample: Sample, stack: NDArray) -> NDArray:
        """Keep of a stack (K, H, W) the cells of the line that a frame shows; all of others."""
        if self.name != "ctc":
            return stack
        planes = 2 if len(stack) == len(sample.label) else 1  # of a line: with contacts, or without
        return stack[[ctc.line_of(sample) * planes]]

    def masks(self, network: Network, recipe: Recipe, pixels: NDArray[np.float32]) -> NDArray:
        """Mark the classes of an image (C, H, W) by a recipe: bool (K, H, W)."""
        image = torch.from_numpy(pixels).to(next(network.parameters()).device)
        digits = self.name == "mnist" and recipe is not recipes.SELF_TRAINED
        if recipe.name == "published" and not digits:
            return crop_by_crop(network, image, recipe, self.side).cpu().numpy()
        tile, step = (self.side, self.side // 2) if digits else (self.tile, None)
        return segment(network, image[None], recipe, tile, step).masks[0].cpu().numpy()


SUBJECTS = {
    each.name: each
    for each in (
        Subject(
            "mnist", mnist.RULE, questions=10, ours="default", num_images=100, size=256, side=32,
            stride=32, test_stride=32, epochs=10, pixel_crops=12000, pixel_epochs=0, smallest=10,
            near=64, fit_as={"batch_size": 16, "learning_rate": 2e-3},
            crops_as={"ratio": (3, 1), "redraw": True},
        ),
        Subject(
            "em", em.RULE, questions=1, ours="evidence", num_images=16, size=384, side=64,
            stride=32, test_stride=64, epochs=12, pixel_crops=1500, pixel_epochs=2, rings=[4, 2],
            shrink=1, smallest=300, near=192, tile=512,
            fit_as={"batch_size": 32, "pool": "lse", "sharpness": 4.0},
            crops_as={"augment": True, "ratio": (1, 1), "redraw": True},
        ),
        Subject(
            "ctc", ctc.RULE, questions=2, ours="evidence", num_images=20, size=320, side=64,
            stride=32, test_stride=32, epochs=9, pixel_crops=1600, pixel_epochs=4, smallest=49,
            near=96, pixel_batch=8, crops_as={"augment": True},
            fit_as={"batch_size": 16, "pool": "lse", "sharpness": 4.0},
        ),
    )
}  # fmt: skip
"""The datasets that baselines are compared on."""
