"""Compute all that follows from what was chosen in the explorer.

Each step remembers its last result and the choices that it depends on. So a new threshold costs a
threshold, and only a new network, image or crop runs the network.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micranet_helpers import zoo
from micranet_helpers.explore import steps
from micranet_helpers.explore.steps import Prediction, numbered, predict, scaled
from micranet_helpers.files.images import read_image
from micranet_helpers.maps.cam import evidence
from micranet_helpers.maps.combination import combine, gaussian
from micranet_helpers.maps.thresholds import otsu, percentile, triangle
from micranet_helpers.networks.micranet import LAYERS, STRIDES, MICRANet

COMBINATIONS = ("pca", "mean", "sum", "prod", "evidence")
"""Ways to combine maps, as in :func:`~micranet_helpers.maps.combination.combine`; or, in their
place, :func:`~micranet_helpers.maps.cam.evidence`."""

THRESHOLDS = ("otsu", "triangle", "percentile", "stored", "none")
"""Ways to make a mask of the combined map; "stored" takes the zoo's level of evidence for the
class, or 0 if it has none; "none" marks nothing."""

SCALINGS = ("stored", *steps.SCALINGS)
"""How an image is scaled; "stored", the default, as the zoo says, or "fixed" if it does not."""

SIDE = 256  # of the crop, px, where the zoo does not give the network's own


@dataclass(frozen=True)
class Choice:
    """Hold what a user chose.

    Attributes
    ----------
    zoo, group : path, str
        A zoo file, and a group in it that holds a MICRA-Net.
    image, scaling : path, str
        An image, and one of :data:`SCALINGS`: how it is
        :func:`~micranet_helpers.explore.steps.scaled`.
    top, left : int
        Corner of the crop, px; it is kept inside the image.
    side : int, optional
        Side of the crop, px, a multiple of 8. By default that of the network.
    cls : int, optional
        The class. By default the most probable of those predicted.
    layers : tuple of str
        Layers whose maps are combined; kept in the order 1a … 4b.
    how : str
        One of :data:`COMBINATIONS`. "pca" takes its sign from map 4b, whether chosen or not.
    sigma : float
        Standard deviation of the Gaussian that smooths the combined map, px.
    threshold : str
        One of :data:`THRESHOLDS`. Pixels above it are marked.
    level : float
        The percentile, 0 to 100, for ``threshold="percentile"``.
    area : int
        Least number of pixels of an object.
    split : int
        As for :func:`~micranet_helpers.explore.steps.numbered`.
    pixel_size_um : float, optional
        Side of a pixel, µm.

    Raises
    ------
    ValueError
        If a choice does not exist or the pixel size makes no sense. What numbers the steps refuse,
        they say when they are computed.
    """

    zoo: str | Path
    group: str
    image: str | Path
    scaling: str = "stored"
    top: int = 0
    left: int = 0
    side: int | None = None
    cls: int | None = None
    layers: tuple[str, ...] = LAYERS[:7]
    how: str = "pca"
    sigma: float = 1.0
    threshold: str = "otsu"
    level: float = 80.0
    area: int = 1
    split: int = 0
    pixel_size_um: float | None = None

    def __post_init__(self) -> None:
        """Check each choice and bring it into its one form."""
        chosen = set(self.layers)
        if not chosen or not chosen <= set(LAYERS):
            raise ValueError(f"Choose at least one of the layers {', '.join(LAYERS)}.")
        object.__setattr__(self, "layers", tuple(each for each in LAYERS if each in chosen))
        for name in ("zoo", "image"):
            object.__setattr__(self, name, str(getattr(self, name)))
        for name, known in (("scaling", SCALINGS), ("how", COMBINATIONS),
                            ("threshold", THRESHOLDS)):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}."
                )
        if self.pixel_size_um is not None and not self.pixel_size_um > 0:
            raise ValueError(f"The pixel size must be above 0 µm, not {self.pixel_size_um}.")


_NETWORK = ("zoo", "group")
_IMAGE = ("image", "scaling")
_CROP = (*_NETWORK, *_IMAGE, "top", "left", "side")
_MAPS = (*_CROP, "cls")
_COMBINED = (*_MAPS, "layers", "how")
_SCORE = (*_COMBINED, "sigma")
_MARKED = (*_SCORE, "threshold", "level")
_LABELS = (*_MARKED, "area", "split")


def _step(*fields: str) -> Callable[[Callable], property]:
    """Make a property that is computed anew only if one of these choices has changed."""

    def decorate(compute: Callable) -> property:
        @wraps(compute)
        def get(session: "Session") -> Any:
            key = [session._key(field) for field in fields]
            old = session._results.get(compute)
            if old is None or old[0] != key:
                old = session._results[compute] = key, compute(session)
            return old[1]

        return property(get)

    return decorate


class Session:
    """Compute what follows from a network, an image and choices, when asked for.

    Files are read again when they have changed. All properties raise one clear sentence
    (FileNotFoundError, TypeError or ValueError) if a choice does not work; the session goes on
    with the next one.

    Parameters
    ----------
    zoo, group, image, **choices
        See :class:`Choice`.

    Raises
    ------
    ValueError
        If a choice does not exist. No file is read yet.

    Examples
    --------
    >>> session = Session("zoos/digits.hdf5", "MICRANet", "canvas.png")  # doctest: +SKIP
    >>> session.choose(threshold="percentile", level=90)  # doctest: +SKIP
    >>> session.count, session.area_px  # doctest: +SKIP
    (2, 391)
    """

    def __init__(self, zoo: str | Path, group: str, image: str | Path, **choices: Any) -> None:
        self.choice = Choice(zoo, group, image, **choices)
        self._results: dict[Any, tuple[list[Any], Any]] = {}

    def choose(self, **changes: Any) -> None:
        """Change some of the choices; after an error all are as before."""
        self.choice = replace(self.choice, **changes)

    def _key(self, field: str) -> Any:
        value = getattr(self.choice, field)
        if field in ("zoo", "image") and Path(value).is_file():
            state = Path(value).stat()
            return value, state.st_mtime_ns, state.st_size
        return value

    @_step(*_NETWORK)
    def entry(self) -> zoo.ZooEntry:
        """ZooEntry: the network, with its folds, settings and thresholds."""
        entry = zoo.load(self.choice.zoo, self.choice.group)
        if not all(isinstance(model, MICRANet) for model in entry.models):
            raise TypeError(
                f"The group {self.choice.group} holds a {type(entry.models[0]).__name__}, which "
                "has no maps: choose a group with a MICRANet."
            )
        return entry

    @_step("image")
    def raw(self) -> NDArray[Any]:
        """ndarray, (C, H, W): the whole image as its file stores it."""
        return read_image(self.choice.image)

    @property
    def scaling(self) -> str:
        """One of :data:`SCALINGS`: "stored" only if the zoo says how to scale an image."""
        unknown = self.choice.scaling == "stored" and self.entry.usage is None
        return "fixed" if unknown else self.choice.scaling

    @_step(*_NETWORK, *_IMAGE)
    def image(self) -> NDArray[np.float32]:
        """ndarray, float32, (C, H, W): the whole image as the network sees it."""
        if self.scaling == "stored":
            return self.entry.usage.scaled(self.raw)
        return scaled(self.raw, self.scaling)

    @property
    def place(self) -> tuple[int, int, int]:
        """Top, left and side of the crop, px, inside the image."""
        height, width = self.raw.shape[1:]
        side = self.choice.side or _size(self.entry, min(height, width))
        if side > min(height, width):
            raise ValueError(
                f"The image of {height} × {width} px is smaller than a crop of {side} px: choose "
                "a smaller side, a multiple of 8, or a larger image."
            )
        corner = np.clip((self.choice.top, self.choice.left), 0, (height - side, width - side))
        return *corner.tolist(), side

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the crop."""
        top, left, side = self.place
        return slice(top, top + side), slice(left, left + side)

    @property
    def crop(self) -> Tensor:
        """Tensor, float32, (1, C, S, S): what the network is shown."""
        channels, expected = len(self.raw), self.entry.models[0].in_channels
        if channels != expected:
            raise ValueError(
                f"The image has {channels} channels and the network takes {expected}: choose an "
                "image like those it was trained on, saved without transparency (alpha)."
            )
        return torch.from_numpy(self.image)[None, :, *self.window]

    @_step(*_CROP)
    def prediction(self) -> Prediction:
        """Prediction: probabilities, decisions and the maps of all predicted classes."""
        return predict(self.entry, self.crop)

    @property
    def predicted(self) -> dict[int, float]:
        """Probability of each predicted class by its number, the most probable first.

        Raises ValueError if there is none.
        """
        found = self.prediction
        shown = found.predicted.nonzero().flatten().tolist()
        if not shown:
            best = int(found.probabilities.argmax())
            raise ValueError(
                f"No class is predicted in this crop (the most probable, {best}, has "
                f"{found.probabilities[best]:.2f}): move the crop or choose another image."
            )
        chances = {cls: float(found.probabilities[cls]) for cls in shown}
        return dict(sorted(chances.items(), key=lambda pair: -pair[1]))

    @property
    def cls(self) -> int:
        """Number of the class that is looked at."""
        predicted, cls = self.predicted, self.choice.cls
        if cls is not None and cls not in predicted:
            raise ValueError(
                f"Class {cls} is not predicted in this crop: choose one of "
                f"{', '.join(map(str, predicted))}, or move the crop."
            )
        return next(iter(predicted)) if cls is None else cls

    @_step(*_MAPS)
    def maps(self) -> Tensor:
        """Tensor, float32, (8, S, S): the maps of the class, in [0, 1]."""
        return self.prediction.maps[self.cls]

    @_step(*_COMBINED)
    def combined(self) -> Tensor:
        """Tensor, float32, (S, S): the chosen maps, combined."""
        if self.choice.how == "evidence":
            each = [evidence(model, self.crop)[0][0, self.cls] for model in self.entry.models]
            return torch.stack(each).mean(0)
        layers = [LAYERS.index(layer) for layer in self.choice.layers]
        return combine(self.maps, self.choice.how, layers)

    @_step(*_SCORE)
    def score(self) -> Tensor:
        """Tensor, float32, (S, S): the combined map, smoothed."""
        return gaussian(self.combined, self.choice.sigma)

    @property
    def stored_level(self) -> float:
        """Level of evidence of the class, a logit, that the zoo holds; 0 without one."""
        usage = self.entry.usage
        return usage.levels[self.cls] if usage and usage.levels else 0.0

    @_step(*_MARKED)
    def marked(self) -> Tensor:
        """Tensor, bool, (S, S): pixels above the threshold; by one of the image's own, none if the
        map is constant."""
        if self.choice.threshold == "percentile":
            return percentile(self.score, self.choice.level)
        if self.choice.threshold == "stored":
            return self.score >= self.stored_level
        if self.choice.threshold == "none":
            return torch.zeros_like(self.score, dtype=torch.bool)
        return {"otsu": otsu, "triangle": triangle}[self.choice.threshold](self.score)

    @_step(*_LABELS)
    def labels(self) -> NDArray[np.int32]:
        """ndarray, int32, (S, S): the objects, numbered from 1; 0 is background."""
        return numbered(self.marked, self.choice.area, self.choice.split)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """ndarray, bool, (S, S): the pixels of all objects."""
        return self.labels > 0

    @property
    def count(self) -> int:
        """Number of objects."""
        return int(self.labels.max(initial=0))

    @property
    def area_px(self) -> int:
        """Number of pixels of all objects."""
        return int(self.mask.sum())

    @property
    def area_um2(self) -> float | None:
        """Area of all objects, µm²; None where the pixel size is not known."""
        size = self.choice.pixel_size_um
        return None if size is None else self.area_px * size**2


def _size(entry: zoo.ZooEntry, most: int) -> int:
    """Return the side of the network's own crops; where the zoo has none, what makes sense."""
    size, step = entry.params.get("size"), STRIDES[-1]
    if type(size) is int and size > 0 and size % step == 0:
        return size
    return max(min(SIDE, most) // step * step, step)
