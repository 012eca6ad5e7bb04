"""Check what a network is to learn from before it does, and give it a fingerprint."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

BATCH = 64


class Content(NamedTuple):
    """Hold what :func:`examine` finds."""

    digest: str  # the same for the same data
    image: Tensor  # the first one, (C, H, W)
    positive: Tensor  # bool (K,): whether some image shows the class
    negative: Tensor  # bool (K,): whether some image lacks it


def examine(data: Dataset, role: str, network: str = "MICRANet") -> Content:
    """Go through a dataset once: check every image and label, and compute its fingerprint.

    Items are those of :func:`micranet_helpers.train.run.fit`. A dataset with a method ``content``,
    which yields the arrays that define it, and ``labels`` (N, K), has checked its items itself.
    Where items are drawn anew each time, only the labels count for the fingerprint. ``role`` is
    "training" or "validation". Raises TypeError or ValueError if there is no item, or one is of
    another kind, not finite, or labelled otherwise; the message names it.
    """
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TypeError(f"The {role} set must be a Dataset of known length: not {type(data)}.")
    if len(data) == 0:
        raise ValueError(f"The {role} set is empty: give at least one image.")
    if hasattr(data, "content"):
        (image, labels), known = data[0], data.labels
        if isinstance(labels, Tensor):
            _check_shape(labels[None], network)
        return Content(digest(data.content()), image, (known == 1).any(0), (known == 0).any(0))
    if hasattr(data, "set_epoch"):
        data.set_epoch(0)
    from pytorch_lightning.utilities.seed import isolate_rng  # takes seconds to load

    with isolate_rng():
        return _examined(data, role, network)


def _examined(data: Dataset, role: str, network: str) -> Content:
    first, again = (next(_batches(data, role, 1)) for _ in range(2))
    _check_shape(first[1], network)
    same = torch.equal(first[0].nan_to_num(), again[0].nan_to_num())
    positive = negative = torch.zeros(first[1].shape[1], dtype=torch.bool)
    parts: list[str] = []
    batches = _batches(data, role, BATCH)
    for images, labels in tqdm(batches, f"Checking the {role} set", delay=3, leave=False):
        _check_items(images, labels, f"of the {role} set", BATCH * len(parts))
        planes = labels.movedim(1, 0).flatten(1)
        positive, negative = positive | (planes == 1).any(1), negative | (planes == 0).any(1)
        parts.append(digest([images, labels] if same else [labels]))
    return Content(digest(parts), first[0][0], positive, negative)


def _batches(data: Dataset, role: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    from pytorch_lightning import seed_everything

    seed_everything(0, verbose=False)  # what is drawn at random is the same each time
    return iter(DataLoader(data, size, collate_fn=partial(_collate, role)))


def _collate(role: str, items: list[Any]) -> tuple[Tensor, Tensor]:
    try:
        images, labels = default_collate(items)
        kind, labels = f"{images.dtype} {tuple(images.shape[1:])}", labels.float()
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"Items of the {role} set must be (image, labels), tensors alike in size and type: cut "
            f"the images to crops of one side, for instance ({error})."
        ) from error
    if images.dtype != torch.float32 or images.ndim != 4:
        raise TypeError(
            f"Images of the {role} set are {kind}: make them float32 (C, H, W), bytes by / 255."
        )
    return images, labels


def _check_shape(labels: Tensor, network: str) -> None:
    wanted = ["num_classes"] if network == "MICRANet" else ["num_classes", "H", "W"]
    if labels.ndim - 1 != len(wanted):
        raise ValueError(
            f"{network} needs labels of the shape ({', '.join(wanted)}), not "
            f"{tuple(labels.shape[1:])}: MICRANet learns from one label per image and class, "
            "U-Nets from one per pixel and class."
        )


def _check_items(images: Tensor, labels: Tensor, where: str, start: int) -> None:
    known = (labels == 0) | (labels == 1) | labels.isnan()
    for right, words in (
        (images.isfinite(), "holds NaN or infinite values: replace them or leave the image out"),
        (known, "has labels that are not 0, 1 or NaN (unknown): divide masks of 255 by 255, and "
                "turn numbers of classes into a 0 or 1 for each class"),
    ):  # fmt: skip
        for number in (~right).flatten(1).any(1).nonzero().flatten().tolist()[:1]:
            raise ValueError(f"Image {start + number} {where} {words}.")


def digest(parts: Iterable[Any]) -> str:
    """Compute the fingerprint of a series of arrays, tensors and texts."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        array = np.frombuffer(part.encode(), "u1") if isinstance(part, str) else np.asarray(part)
        total.update(f"{array.dtype} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).reshape(-1).view("u1"))
    return total.hexdigest()
