"""Define colours and look of all figures, the same in every chapter.

Colour-blind readers can tell the palette of Okabe & Ito apart; two of Tol's colours make it ten.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from matplotlib import rcParams

CLASS_COLOURS = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2",
    "#d55e00", "#cc79a7", "#999999", "#882255", "#44aa99",
)  # fmt: skip
"""Colours of classes by number, as of the digits: eight of Okabe & Ito, two of Tol."""

NAMED_COLOURS = {
    **dict.fromkeys(("mitochondria", "cell", "cells", "object", "rings", "infected"), "#e69f00"),
    **dict.fromkeys(("contact", "fibres", "uninfected"), "#56b4e9"), "difficult": "#999999",
}  # fmt: skip
"""Colours of classes by the last word of their names, the same in every chapter."""

METHOD_COLOURS = {
    "self-trained": "#882255", "U-Net": "#d55e00", "Mask R-CNN": "#cc79a7",
    "pixel classifier": "#009e73", "MICRA-Net": "#0072b2",
}  # fmt: skip
"""Colours of methods by how their names begin; what begins otherwise is MICRA-Net."""

LEARNS_FROM = {
    "yes or no": "self-trained", "scribbles": "pixel classifier", "boxes": "U-Net",
    "hasty outlines": "U-Net", "exact outlines": "U-Net",
}  # fmt: skip
"""Methods by the labels that they learn from, which have their colours."""

SCORES = "cividis"
"""Colour map of scores: dark blue is low, yellow is high."""

SIGNED = "PuOr_r"
"""Colour map of values of both signs: purple is below zero, white is zero, orange is above."""

WIDTH = 6.5
"""Width of a figure that fills the column of a page, inches; charts of one panel are narrower."""

LOOK = {
    "figure.constrained_layout.use": True, "figure.dpi": 110, "font.size": 9.5,
    "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "legend.fontsize": 9, "lines.markersize": 5, "image.cmap": SCORES,
}  # fmt: skip
"""matplotlib's settings in :func:`style`; letters can be read on a phone."""


@contextmanager
def style() -> Iterator[None]:
    """Draw in the book's look, in a ``with`` block or as a decorator; settings are restored."""
    # matplotlib's rc_context would also take back that notebooks show figures at the end of a
    # cell: the first figure switches that on.
    before = {name: rcParams[name] for name in LOOK}
    rcParams.update(LOOK)
    try:
        yield
    finally:
        rcParams.update(before)


def class_colours(classes: Sequence[str]) -> list[str]:
    """Choose the colours of classes: by name where it is known, else by number."""
    return [NAMED_COLOURS.get(name.rpartition(" ")[2], colour)
            for name, colour in zip(classes, CLASS_COLOURS, strict=False)]  # fmt: skip


def method_colour(name: str) -> str:
    """Choose the colour of a method, such as "U-Net ALT2", from :data:`METHOD_COLOURS`."""
    name = next((LEARNS_FROM[start] for start in LEARNS_FROM if name.startswith(start)), name)
    known = (colour for start, colour in METHOD_COLOURS.items() if name.startswith(start))
    return next(known, METHOD_COLOURS["MICRA-Net"])


def run_colours(names: Iterable[str]) -> dict[str, str]:
    """Choose a colour for each run: that of its method, or a spare one if that is taken."""
    spare = iter(colour for colour in CLASS_COLOURS if colour not in METHOD_COLOURS.values())
    chosen: dict[str, str] = {}
    for name in names:
        wanted = method_colour(name)
        chosen[name] = next(spare) if wanted in chosen.values() else wanted
    return chosen
