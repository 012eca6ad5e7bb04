"""Say how a network is to be used: what travels with its weights.

A network is of use only with the scale of its images, the size of its objects and the level of its
scores. They are JSON text beside the weights: in zoos, ONNX files and packages of bioimage.io.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micranet_helpers.data import dataset
from micranet_helpers.data.scaling import SCALINGS, Scale, normalize, scale_of
from micranet_helpers.files.hdf5 import member, reading


@dataclass(frozen=True)
class Usage:
    """Hold how a network is to be used.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes.
    scaling : str
        One of :data:`~micranet_helpers.data.scaling.SCALINGS`.
    offset, factor : tuple of float, (C,) or (1,)
        For "range": the network sees ``(image - offset) * factor``.
    dtype : str, optional
        Type of the numbers of the training images, e.g. ``"uint16"``.
    channels : tuple of str
        Names of the channels in their order; empty where they have none.
    pixel_size_um : float, optional
        Side of a pixel of the training images, µm, before they were magnified.
    object_px : float, optional
        Usual diameter of an object, px of the network.
    side : int, optional
        Side of the crops it learned from, px of the network.
    magnification : float
        Images are enlarged so much before the network sees them.
    recipe : str
        How its scores become masks: ``"evidence"``, or ``"self-trained"`` for the logits of a
        U-Net.
    levels : tuple of float, (K,), optional
        Least score, a logit, of the pixels of each class; 0 where there is none.
    objects : tuple of str
        Names of the classes that are objects to be found; empty where all are.

    Raises
    ------
    ValueError
        If a value makes no sense: one sentence.
    """

    classes: tuple[str, ...]
    scaling: str = "fixed"
    offset: tuple[float, ...] = ()
    factor: tuple[float, ...] = ()
    dtype: str | None = None
    channels: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    object_px: float | None = None
    side: int | None = None
    magnification: float = 1.0
    recipe: str = "evidence"
    levels: tuple[float, ...] | None = None
    objects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check each value and bring it into its one form."""
        kinds = {"classes": str, "channels": str, "offset": float, "factor": float,
                 "levels": float, "objects": str}  # fmt: skip
        for name, kind in kinds.items():
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(map(kind, values)))
        wrong = _wrong(self)
        if wrong:
            raise ValueError(f"How the network is to be used makes no sense: {wrong}.")

    @classmethod
    def of_dataset(cls, path: str | Path, **more: Any) -> "Usage":
        """Describe a network that learned from a dataset of ours, by what its file says.

        Parameters
        ----------
        path : path
            The dataset, as :func:`micranet_helpers.data.dataset.write` wrote it. Its first split
            counts.
        **more
            What it does not say, e.g. ``side`` and ``levels``, and what is to be otherwise.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such dataset, or it does not say how its images were scaled.
        """
        about, splits = dataset.describe(path)
        first = next(iter(splits))
        with reading(path, f"the split {first!r}") as file:
            images = dataset.Split(member(file, first))
            scale, dtype = images.scale, images.dtype
        known = {"classes": about.classes, "scaling": about.scaling, "dtype": str(dtype),
                 "pixel_size_um": about.pixel_size_um}  # fmt: skip
        if not about.scaling and (scale == scale[0]).all():
            fixed = scale_of(np.zeros((1, 1, 1), dtype), "fixed")
            if (scale == np.float32(fixed)).all():
                known["scaling"] = "fixed"
            else:
                offset, factor = scale[0].T.astype(float).tolist()
                known |= {"scaling": "range", "offset": offset, "factor": factor}
        known |= more
        if not known["scaling"]:
            raise ValueError(
                f"{path} does not say how its images were scaled: build it again, or give Usage "
                "the scaling."
            )
        return cls(**known)

    @classmethod
    def of_text(cls, text: str) -> "Usage":
        """Read what :attr:`text` wrote; fields of later versions are left out."""
        try:
            values = json.loads(text)
            return cls(**{item.name: values[item.name] for item in fields(cls)
                          if item.name in values})  # fmt: skip
        except (TypeError, ValueError, RecursionError, LookupError) as error:
            raise ValueError(f"its note on how it is to be used is damaged ({error}).") from None

    @property
    def text(self) -> str:
        """All of it as a JSON object."""
        return json.dumps(asdict(self))

    def scale(self, image: NDArray[Any]) -> Scale:
        """Compute the offset and factor of a whole image, (C, H, W)."""
        if self.scaling == "range":
            return np.asarray(self.offset), np.asarray(self.factor)
        return scale_of(image, self.scaling)

    def scaled(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Compute what the network sees of a whole image: float32, (C, H, W)."""
        return normalize(image, *self.scale(image))


def facts(usage: Usage) -> list[tuple[str, str]]:
    """List what is known, name and value as text, for a table."""
    rows = []
    for name, value in asdict(usage).items():
        if value not in (None, ()):
            values = value if isinstance(value, tuple) else (value,)
            texts = [f"{each:g}" if isinstance(each, float) else str(each) for each in values]
            rows.append((name.replace("_", " "), ", ".join(texts)))
    return rows


FITTING = 0.25, 0.5
"""Share of the side of a crop that an object should be wide: see ``benchmarks/fill.py``."""


def check(usage: Usage, image: NDArray[Any], channels: int) -> None:
    """Refuse an image, (C, H, W), that a network of so many channels cannot use, in one sentence.

    By the scaling "fixed", 16 bits say nothing unless the network learned from such.
    """
    if len(image) != channels:
        raise ValueError(
            f"The image has {len(image)} channels and the network takes {channels}: save those "
            "that it learned from, without transparency (alpha), e.g. in Fiji by Image > Color > "
            "Split Channels."
        )
    if usage.scaling == "fixed" and image.dtype == np.uint16 and usage.dtype != "uint16":
        raise ValueError(
            "The image has 16 bits, and the zoo does not say how such are scaled: give the scaling "
            "minmax or standard, whichever the network was trained with."
        )


def misfit(usage: Usage, image: NDArray[Any], pixel_size_um: float | None) -> str:
    """Say where an image, (C, H, W), differs from those of the training; "" if it does not."""
    learned, notes = usage.pixel_size_um, []
    if usage.scaling == "range" and usage.dtype not in (None, str(image.dtype)):
        notes.append(f"The image is {image.dtype}, those of the training were {usage.dtype}, and "
                     "the scale is theirs.")  # fmt: skip
    if learned and pixel_size_um and not 0.8 < pixel_size_um / learned < 1.25:
        times = usage.magnification * pixel_size_um / learned
        notes.append(f"Pixels are {pixel_size_um:g} µm wide, those of the training {learned:g} µm: "
                     f"try the magnification {times:.3g}.")  # fmt: skip
    return " ".join(notes)


def wrong_size(usage: Usage, width: float) -> str:
    """Advise where objects, of ``width`` px of the image, do not fit the crops; "" if they do."""
    if not width:
        return ("No object was found: look at an image in the explorer, or answer yes and no about "
                "some of these images.")  # fmt: skip
    known = (usage.object_px or math.inf) / usage.magnification
    if width > 1.4 * known:
        return (
            f"Objects are about {width:.0f} px wide, and {known:.0f} px in the training: several "
            "may touch and count as one, or these images are magnified more; then try the "
            f"magnification {usage.magnification * known / width:.2g}."
        )
    share = width * usage.magnification / usage.side if usage.side else FITTING[0]
    if FITTING[0] <= share <= FITTING[1]:
        return ""
    return (
        f"Objects are about {width:.0f} px wide, {share:.0%} of the side of the crops that the "
        "network learned from; a quarter to a half was best for simulated cells. Try the "
        f"magnification {usage.side / 3 / width:.2g}, or train on crops of {3 * width:.0f} px."
    )


def _wrong(usage: Usage) -> str:
    """Say what makes no sense; nothing if all is well."""
    numbers = [*usage.offset, *usage.factor, *(usage.levels or ())]
    sizes = {name: getattr(usage, name) for name in
             ("pixel_size_um", "object_px", "side", "magnification")}  # fmt: skip
    small = [name for name, size in sizes.items() if size is not None and not 0 < size < math.inf]
    if usage.scaling not in SCALINGS:
        return f"there is no scaling {usage.scaling!r}, only {', '.join(SCALINGS)}"
    if not usage.classes or len({*usage.classes}) < len(usage.classes):
        return f"the classes need different names, not {usage.classes}"
    if other := {*usage.objects} - {*usage.classes}:
        return f"there is no class {min(other)!r} to be found"
    if usage.levels is not None and len(usage.levels) != len(usage.classes):
        return f"{len(usage.classes)} classes need as many levels, not {usage.levels}"
    if len(usage.offset) != len(usage.factor) or (usage.scaling == "range" and not usage.offset):
        return "the scaling range needs an offset and a factor of each channel"
    if not all(map(math.isfinite, numbers)):
        return "a number is NaN or infinite"
    return f"{small[0]} must be above 0, not {sizes[small[0]]}" if small else ""
