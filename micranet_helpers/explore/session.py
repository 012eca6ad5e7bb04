"""Compute all that follows from what was chosen in the explorer.

Each step remembers its last result and the choices that it depends on. So a new threshold costs a
threshold, and only a new network, image or crop runs the network.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micranet_helpers.files.series import file_of, read_plane
from micranet_helpers.maps import LAYERS, STRIDES
from micranet_helpers.maps.cam import grad_cam
from micranet_helpers.maps.combination import combine, gaussian
from micranet_helpers.maps.detect import pieces
from micranet_helpers.maps.segmentation import predicted
from micranet_helpers.maps.thresholds import otsu, percentile, triangle
from micranet_helpers.predict.ways import WAYS, Networks, masks_of, open_zoo, scores_of
from micranet_helpers.zoo import ZooEntry
from micranet_helpers.zoo.usage import check

MAPS = ("pca", "mean", "sum", "prod")
"""Ways to combine the maps of a crop, as in :func:`~micranet_helpers.maps.combination.combine`."""

COMBINATIONS = (*MAPS, *WAYS)
"""These, or in their place :data:`~micranet_helpers.predict.ways.WAYS` to mark a whole image."""

THRESHOLDS = ("otsu", "triangle", "percentile", "none")
"""Ways to make a mask of combined maps; "none" marks nothing."""

SCALINGS = ("stored", "fixed", "minmax", "standard")
"""How an image is scaled, see :data:`micranet_helpers.data.scaling.SCALINGS`; "stored", the
default, as the zoo says, or "fixed" if it does not."""

SIDE = 256  # of the crop, px, where the zoo does not give the network's own
MOST_CLASSES, MOST_SIDE = 32, 512  # px; of a larger crop fewer: the maps take 256 MB


@dataclass(frozen=True)
class Choice:
    """Hold what a user chose.

    Attributes
    ----------
    zoo, group : path, str
        A zoo file, and a group in it that holds a MICRA-Net or a U-Net.
    image, scaling : path, str
        An image, as for :func:`~micranet_helpers.files.series.read_plane`, and one of
        :data:`SCALINGS`.
    top, left : int
        Corner of the crop, px; it is kept inside the image.
    side : int, optional
        Side of the crop, px, a multiple of 8. By default that of the network.
    cls : int, optional
        The class. By default the first of :attr:`Session.classes`.
    layers : tuple of str
        Layers whose maps are combined; kept in the order 1a … 4b.
    how : str, optional
        One of :data:`COMBINATIONS`; by default the first that the network has. "pca" takes its sign
        from map 4b, whether chosen or not.
    above : float
        One of the :data:`~micranet_helpers.predict.ways.WAYS` marks pixels whose score is so much
        above its own level, which is the zoo's or Otsu's; in logits, or standard deviations.
    sigma : float
        Standard deviation of the Gaussian that smooths the combined maps, px.
    threshold : str
        One of :data:`THRESHOLDS`, for maps. Pixels above it are marked.
    level : float
        The percentile, 0 to 100, for ``threshold="percentile"``.
    area, split : int
        As for :func:`~micranet_helpers.maps.detect.pieces`.
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
    how: str | None = None
    above: float = 0.0
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
        for name, known in (("scaling", SCALINGS), ("how", (*COMBINATIONS, None)),
                            ("threshold", THRESHOLDS)):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(filter(None, known))}, not "
                    f"{getattr(self, name)!r}."
                )
        if self.pixel_size_um is not None and not self.pixel_size_um > 0:
            raise ValueError(f"The pixel size must be above 0 µm, not {self.pixel_size_um}.")


class Prediction(NamedTuple):
    """Hold what :func:`predict` returns."""

    maps: Tensor
    probabilities: Tensor
    predicted: Tensor


def predict(entry: ZooEntry, crop: Tensor) -> Prediction:
    """Classify a crop and explain each predicted class by its eight maps.

    A class is predicted where its probability reaches the threshold stored in the zoo, or is
    above 0.5 where there is none. Logits and maps of the folds of a model are averaged; a fold
    that does not predict a class adds 0, as in
    :func:`~micranet_helpers.maps.segmentation.segment`. (The original's application takes the
    first fold.)

    Parameters
    ----------
    entry : ZooEntry
        MICRA-Nets, as :func:`micranet_helpers.zoo.hdf5_zoo.load` returns them.
    crop : Tensor, float32, (1, C, S, S)
        Scaled; S a multiple of 8.

    Returns
    -------
    maps : Tensor, float32, (K, 8, S, S)
        Each class's maps, in [0, 1]; 0 for a class that is not predicted.
    probabilities : Tensor, float32, (K,)
        Probability that the crop shows each class.
    predicted : Tensor, bool, (K,)
        Which classes are predicted.

    Raises
    ------
    TypeError, ValueError
        If the crop does not fit the network, or its maps the memory.
    """
    if (count := entry.models[0].num_classes) * crop.numel() > MOST_CLASSES * MOST_SIDE**2:
        raise ValueError(f"The maps of {count} classes do not fit here: choose a smaller crop.")
    decide = partial(predicted, thresholds=entry.class_thresholds)
    crop = crop.to(entry.models[0].linear1.weight.device)  # where scores of an image have put it
    cams = [grad_cam(model, crop, decide) for model in entry.models]
    maps, logits = (torch.stack(folds).mean(0)[0] for folds in zip(*cams, strict=True))
    maps, logits = maps.cpu(), logits.cpu()
    return Prediction(maps, logits.sigmoid(), decide(logits))


_NETWORK = ("zoo", "group", "scaling")
_SCORES = (*_NETWORK, "image", "how")
_FOUND = (*_SCORES, "cls", "above")
_CROP = (*_NETWORK, "image", "top", "left", "side")
_MAPS = (*_CROP, "cls")
_COMBINED = (*_MAPS, "layers", "how")
_SCORE = (*_COMBINED, "sigma")
_MARKED = (*_SCORE, "threshold", "level", "above")
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
        if field in ("zoo", "image") and file_of(value).is_file():
            state = file_of(value).stat()
            return value, state.st_mtime_ns, state.st_size
        return value

    @_step(*_NETWORK)
    def networks(self) -> Networks:
        """Networks: that of the group, with its folds, and how it is used."""
        scaling = self.choice.scaling
        changes = {} if scaling == "stored" else {"scaling": scaling}
        return open_zoo(self.choice.zoo, self.choice.group, **changes)

    @property
    def hows(self) -> tuple[str, ...]:
        """Those of :data:`COMBINATIONS` that the network has."""
        return (*(MAPS if self.networks.entry else ()), *self.networks.ways)

    @property
    def how(self) -> str:
        """One of these."""
        how = self.choice.how or self.hows[0]
        if how not in self.hows:
            raise ValueError(f"The network of the group {self.choice.group} is without {how}: "
                             f"combine by one of {', '.join(self.hows)}.")  # fmt: skip
        return how

    @property
    def marks(self) -> bool:
        """Whether the whole image is marked by one of the ways, without maps and a threshold."""
        return self.how in WAYS

    @_step("image")
    def raw(self) -> NDArray[Any]:
        """ndarray, (C, H, W): the whole image as its file stores it."""
        return read_plane(self.choice.image).image

    @_step(*_NETWORK, "image")
    def image(self) -> NDArray[np.float32]:
        """ndarray, float32, (C, H, W): the whole image as the network sees it."""
        check(self.networks.usage, self.raw, self.networks.channels)
        return self.networks.usage.scaled(self.raw)

    @property
    def place(self) -> tuple[int, int, int]:
        """Top, left and side of the crop, px, inside the image."""
        height, width = self.raw.shape[1:]
        side = self.choice.side or _size(self.networks.main.params, min(height, width))
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
        return torch.from_numpy(self.image)[None, :, *self.window]

    @_step(*_CROP)
    def prediction(self) -> Prediction:
        """Prediction: probabilities, decisions and the maps of all predicted classes."""
        if self.networks.entry is None:
            raise ValueError(f"The group {self.choice.group} holds a U-Net, which has no maps: "
                             "choose a group with a MICRANet.")  # fmt: skip
        return predict(self.networks.entry, self.crop)

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
    def classes(self) -> dict[int, str]:
        """Names of the classes that can be looked at, by number: all that are marked, or those of
        :attr:`predicted` with their probability."""
        names = self.networks.usage.classes
        if self.marks:
            return dict(enumerate(names))
        return {k: f"{names[k]} (probability {p:.2f})" for k, p in self.predicted.items()}

    @property
    def cls(self) -> int:
        """Number of the class that is looked at."""
        classes, cls = self.classes, self.choice.cls
        if cls is not None and cls not in classes:
            raise ValueError(
                f"Class {cls} is not predicted in this crop: choose one of "
                f"{', '.join(map(str, classes))}, or move the crop."
            )
        return next(iter(classes)) if cls is None else cls

    @_step(*_MAPS)
    def maps(self) -> Tensor:
        """Tensor, float32, (8, S, S): the maps of the class, in [0, 1]."""
        return self.prediction.maps[self.cls]

    @_step(*_COMBINED)
    def combined(self) -> Tensor:
        """Tensor, float32, (S, S): the chosen maps, combined."""
        return combine(self.maps, self.how, [LAYERS.index(layer) for layer in self.choice.layers])

    @_step(*_SCORES)
    def scores(self) -> NDArray[np.float32]:
        """ndarray, float32, (K, H, W): scores of the whole image, 0 at the border of objects."""
        check(self.networks.usage, self.raw, self.networks.channels)
        return scores_of(self.networks, self.raw, self.how)

    @_step(*_FOUND)
    def found(self) -> NDArray[np.bool_]:
        """ndarray, bool, (H, W): pixels of the class in the whole image."""
        scores, above = self.scores[self.cls][None], self.choice.above
        return masks_of(self.networks, self.raw, self.how, scores, above)[0]

    @_step(*_SCORE)
    def score(self) -> Tensor:
        """Tensor, float32, (S, S): the combined maps, smoothed; or the scores in the crop."""
        if self.marks:
            return torch.from_numpy(self.scores[self.cls])[self.window]
        return gaussian(self.combined, self.choice.sigma)

    @_step(*_MARKED)
    def marked(self) -> Tensor:
        """Tensor, bool, (S, S): pixels above the threshold; by one of the image's own, none if the
        map is constant."""
        if self.marks:
            return torch.from_numpy(self.found[self.window])
        if self.choice.threshold == "percentile":
            return percentile(self.score, self.choice.level)
        if self.choice.threshold == "none":
            return torch.zeros_like(self.score, dtype=torch.bool)
        return {"otsu": otsu, "triangle": triangle}[self.choice.threshold](self.score)

    @property
    def masked(self) -> bool:
        """Whether there is a mask."""
        return self.marks or self.choice.threshold != "none"

    @_step(*_LABELS)
    def labels(self) -> NDArray[np.int32]:
        """ndarray, int32, (S, S): the objects, numbered from 1; 0 is background."""
        return pieces(self.marked, self.choice.area, self.choice.split)

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


def _size(params: dict[str, Any], most: int) -> int:
    """Return the side of the network's own crops; where the zoo has none, what makes sense."""
    size, step = params.get("size"), STRIDES[-1]
    if type(size) is int and size > 0 and size % step == 0:
        return size
    return max(min(SIDE, most) // step * step, step)
