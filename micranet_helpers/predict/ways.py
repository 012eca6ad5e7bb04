"""The ways from a network and an image to masks, and the one that a user's own answers favour.

A way is judged by nothing but yes and no: whether whole images or boxes show a class.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from torch import nn

from micranet_helpers import metrics, zoo
from micranet_helpers.data.own.answers import Said
from micranet_helpers.maps.detect import refined
from micranet_helpers.maps.segmentation import pixel_scores
from micranet_helpers.maps.thresholds import RIM
from micranet_helpers.predict import objects

INSIDE = "Otsu inside evidence"
WAYS = ("evidence", INSIDE, "self-trained", "plain, bright", "plain, dark")
"""Evidence from its level on; Otsu's threshold of the image near that; the logits of a U-Net of
the same zoo; Otsu's threshold of the whole image without a network, above it or below."""


@dataclass(frozen=True, eq=False)
class Networks:
    """Hold a MICRANet and a U-Net of the same classes, of which one may be missing."""

    entry: zoo.ZooEntry | None
    student: zoo.ZooEntry | None
    usage: zoo.Usage
    shown: list[int] | EllipsisType = ...  # of the outputs, those that are classes of the usage

    @property
    def main(self) -> zoo.ZooEntry:
        """The MICRANet, or the U-Net where there is none."""
        return self.entry or self.student

    @property
    def channels(self) -> int:
        """How many the networks take."""
        return _size(self.main)[0]

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways that there are, that of the zoo first: it is taken without answers."""
        there = [way for way in WAYS if way.startswith("plain")
                 or (self.student if way == "self-trained" else self.entry)]  # fmt: skip
        return tuple(sorted(there, key=lambda way: way != self.usage.recipe))


def open_zoo(path: str | Path, group: str | None = None, **changes: Any) -> Networks:
    """Load the first MICRANet of a zoo, and the first U-Net of the same classes; or a ``group``.

    ``changes`` replace what the zoo says of their usage.
    """
    names = [row["group"] for row in zoo.contents(path) if row["folds"]]
    entry, students = None, []
    for name in dict.fromkeys(names) if group is None else (group,):
        found = zoo.load(path, name)
        if found.kind == "MICRANet":
            entry = entry or found
        elif found.kind != "MaskRCNN":
            students.append(found)
    if not (entry or students):
        raise ValueError(f"{path} holds no MICRANet and no U-Net: choose another zoo.")
    main = entry or students[0]
    student = next((each for each in students if _size(each) == _size(main)), None)
    classes = [f"class {number}" for number in range(_size(main)[1])]
    usage = main.usage or zoo.Usage(classes, dtype="uint8")
    if usage.pixel_size_um:  # of images that look as those of the training then
        times = changes.get("magnification", usage.magnification) / usage.magnification
        changes = {"pixel_size_um": usage.pixel_size_um * times, **changes}
    usage = replace(usage, **changes)
    if usage.recipe == "evidence" and entry is None:
        usage = replace(usage, recipe="self-trained")
    return Networks(entry, student, usage)


def objects_only(networks: Networks) -> Networks:
    """Leave out the classes that are no objects, where the zoo says which are."""
    usage = networks.usage
    if not usage.objects:
        return networks
    shown = [usage.classes.index(cls) for cls in usage.objects]
    classes, levels = (values and [values[k] for k in shown]
                       for values in (usage.classes, usage.levels))  # fmt: skip
    return replace(networks, shown=shown, usage=replace(usage, classes=classes, levels=levels))


def _size(entry: zoo.ZooEntry) -> tuple[int, int]:
    return entry.models[0].in_channels, entry.models[0].num_classes


class Found(NamedTuple):
    """Hold the masks of an image, and scores that are 0 at the border of an object: (K, H, W)."""

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]


def find(networks: Networks, image: NDArray[Any], ways: Sequence[str]) -> dict[str, Found]:
    """Find the pixels of each class in an image, (C, H, W) as its file stores it, in some ways.

    The levels alone decide: whether the network says that the whole image shows a class does not,
    as its pool has never seen an image so large.
    """
    found: dict[str, Found] = {}
    for way in ways:
        known = found.get("evidence") if way == INSIDE else None
        scores = known.scores if known else scores_of(networks, image, way)
        found[way] = Found(masks_of(networks, image, way, scores), scores)
    return found


def scores_of(networks: Networks, image: NDArray[Any], way: str) -> NDArray[np.float32]:
    """Compute the scores of a way, (K, H, W), for an image, (C, H, W), as its file stores it.

    They are 0 at the border of an object: logits less the level of their class; or grey values less
    Otsu's threshold, in standard deviations.
    """
    usage = networks.usage
    if way.startswith("plain"):
        values = grey(image, way)
        scores = (values - threshold_otsu(values)) / (values.std() or 1)
        return np.repeat(scores[None], len(usage.classes), 0)
    models, levels = models_of(networks, way)
    logits = pixel_scores(models, usage.scaled(image), usage.magnification)
    return logits[networks.shown] - levels


def models_of(networks: Networks, way: str) -> tuple[list[nn.Module], NDArray[np.float32]]:
    """Return the models of a way and the levels of their scores, (K, 1, 1)."""
    entry, levels = networks.entry, networks.usage.levels
    if way == "self-trained":
        if entry:  # the student has levels of its own, also for what is not shown
            usage = networks.student.usage
            levels = usage and usage.levels and np.array(usage.levels)[networks.shown].tolist()
        entry = networks.student
    return entry.models, np.float32(levels or [0] * len(networks.usage.classes))[:, None, None]


def grey(image: NDArray[Any], way: str) -> NDArray[np.float32]:
    """Average the channels of an image, (C, H, W); negative where objects are dark."""
    return image.mean(0, dtype=np.float32) * (-1 if way == "plain, dark" else 1)


def masks_of(
    networks: Networks, image: NDArray[Any], way: str, scores: NDArray[np.float32],
    above: float = 0,
) -> NDArray[np.bool_]:  # fmt: skip
    """Mark the pixels of each class, (K, H, W), by :func:`scores_of`, from ``above`` on."""
    if way == INSIDE:
        usage = networks.usage
        reach = (usage.object_px or 16) / usage.magnification / 2
        return np.stack([refined(mask, image.mean(0), reach) for mask in scores >= above])
    return scores >= above if way == "evidence" else scores > above


def with_levels(
    networks: Networks, images: Iterable[tuple[str, NDArray[Any]]], said: Said
) -> Networks:
    """Choose levels of evidence by the answers where the zoo has none: those of highest F1.

    ``images`` are keys of ``said`` and images. A class without both yes and no keeps 0.
    """
    classes = networks.usage.classes
    if networks.usage.levels or networks.entry is None:
        return networks
    reached: dict[str, list[tuple[float, bool]]] = {cls: [] for cls in classes}
    for name, image in images:
        scores = scores_of(networks, image, "evidence")
        for cls, box, yes in said[name]:
            off_rim = [slice(s.start + RIM, s.stop - RIM) if s.stop - s.start > 3 * RIM else s
                       for s in box or ()]  # fmt: skip
            inside = scores[(classes.index(cls), *off_rim)]
            reached[cls].append((float(inside.max(initial=-1e6)), yes))
    levels = [metrics.best_threshold(*map(np.array, zip(*pairs, strict=True)))
              if len({yes for _, yes in pairs}) == 2 else 0.0
              for pairs in reached.values()]  # fmt: skip
    return replace(networks, usage=replace(networks.usage, levels=tuple(levels)))


def judge(
    networks: Networks, images: Iterable[tuple[str, NDArray[Any]]], said: Said, area: int
) -> list[dict[str, Any]]:
    """Compare the ways by the answers: a box shows a class where ``area`` px of it are objects.

    Each row has way, answers, F1 and balanced accuracy, both means over the classes; the best by
    balanced accuracy, then by F1, then the way of the zoo, comes first.
    """
    votes: dict[str, dict[str, list[tuple[bool, bool]]]] = {}
    for name, image in images:
        for way, found in find(networks, image, networks.ways).items():
            kept = objects.numbered(found.masks, area, None) > 0  # as they are written
            for cls, box, yes in said[name]:
                mask = kept[(networks.usage.classes.index(cls), *(box or ()))]
                votes.setdefault(way, {}).setdefault(cls, []).append((mask.sum() >= area, yes))
    rows = []
    for way, each in votes.items():
        f1, balanced = np.mean([_measures(np.array(pairs)) for pairs in each.values()], 0).tolist()
        count = sum(map(len, each.values()))
        rows.append({"way": way, "answers": count, "F1": f1, "balanced accuracy": balanced})
    return sorted(rows, key=lambda row: (-row["balanced accuracy"], -row["F1"]))


def _measures(pairs: NDArray[np.bool_]) -> tuple[float, float]:
    said, yes = pairs.T
    shares = [(said == yes)[yes == each].mean() for each in np.unique(yes)]
    return metrics.dice(said, yes), float(np.mean(shares))
