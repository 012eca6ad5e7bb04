"""Choose the source of a dataset, share its images out to the splits, and describe it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

from micranet_helpers.data import dataset
from micranet_helpers.data.dataset import SPLITS, About, Sample
from micranet_helpers.data.fetch.registry import items

Made = tuple[Mapping[str, Iterable[Sample]], About]
"""The splits of a dataset, whose images are made when they are written, and its description."""


def write(
    path: str | Path, source: str, offered: Mapping[str, Callable[[], Made]], note: str = "",
    scaling: str | None = None,
) -> Path:  # fmt: skip
    """Write the dataset of one of the sources that are offered."""
    if source not in offered:
        *first, last = map(repr, offered)
        names = f"{', '.join(first)} or {last}"
        raise ValueError(f"There is no source {source!r}: take {names}{note}.")
    splits, about = offered[source]()
    return dataset.write(path, splits, replace(about, scaling=scaling))


def shares(num_images: int) -> tuple[int, int, int]:
    """Count the images of each split: 70, 15 and 15 %, at least one each."""
    if num_images < 3:
        raise ValueError(f"Three splits need at least 3 images, not {num_images}.")
    held = max(1, round(0.15 * num_images))
    return num_images - 2 * held, held, held


def simulated(
    num_images: int, draw: Callable[[int], Sample], classes: tuple[str, ...], module: str,
    pixel_size_um: float | None = None,
) -> Made:  # fmt: skip
    """Share out the images that a module draws, each from its number."""
    ends = pairwise(accumulate(shares(num_images), initial=0))
    splits = {split: map(draw, range(*end)) for split, end in zip(SPLITS, ends, strict=True)}
    return splits, About(classes, f"simulated by {module}", "MIT", pixel_size_um)


def cited(
    classes: tuple[str, ...], *names: str, pixel_size_um: float | None = None
) -> About:
    """Describe images that were downloaded, by their entries in the registry."""
    found = [items()[name] for name in names]
    owners: dict[str, list[str]] = {}
    for item in found:
        owners.setdefault(item.licence, []).append(item.name)
    licences = [f"{licence} ({', '.join(owned)})" for licence, owned in owners.items()]
    return About(
        classes, "; ".join(dict.fromkeys(item.citation for item in found)),
        "; ".join(licences if len(owners) > 1 else owners), pixel_size_um,
    )  # fmt: skip
