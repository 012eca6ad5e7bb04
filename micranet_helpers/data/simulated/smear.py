"""Fields of a Giemsa-stained thin blood smear with malaria parasites, drawn from random numbers.

Sizes, colours and power spectrum were compared with IML_Malaria; no pixel of it is used.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

INFECTED, UNINFECTED, DIFFICULT = range(3)  # planes of the label

STAINS = np.array(
    [[0.24, 0.34, 0.27], [0.05, 1.10, 0.22], [0.32, 1.20, 0.32], [0.30, 0.45, 0.60]]
)
"""Optical density (natural logarithm) in red, green, blue of haemoglobin, eosin, azure (parasites
and nuclei) and malaria pigment, each in the amount 1."""

RADIUS = 17.5  # of a red cell, px, as in IML_Malaria reduced by 2; its boxes leave some margin
PER_CELL = 2200  # px of a field for each red cell, where there is no gap
INFECTED_SHARE = 0.06  # of the cells, four times that of IML_Malaria: small sets need some
MARGIN = 64  # px drawn around the field, for cells that its border cuts
HALF = 34  # half side of the patch in which an object is drawn, px


class _Stage(NamedTuple):
    share: float  # of all infected cells
    growth: float  # of the cell
    reach: float  # of the parasite's plasma, in radii of the cell
    azure: float  # most azure in the plasma
    hollow: bool  # whether a vacuole makes the plasma a ring
    dots: tuple[int, int]  # fewest and most dots of chromatin
    sizes: tuple[float, float]  # their radii, px


STAGES = (
    _Stage(0.4, 1.03, 0.35, 0.5, True, (1, 2), (1.0, 2.0)),  # ring
    _Stage(0.2, 1.10, 0.55, 0.4, False, (1, 3), (1.3, 2.3)),  # trophozoite
    _Stage(0.1, 1.20, 0.75, 0.2, False, (8, 16), (1.3, 2.2)),  # schizont
    _Stage(0.3, 1.15, 0.85, 0.5, False, (1, 2), (2.5, 4.5)),  # gametocyte
)

Plane = NDArray[Any]  # values of the pixels of a field or a patch of it, (H, W), or of its layers


def draw(
    rng: np.random.Generator, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float64]]:
    """Draw a field: image (3, size, size), label of the same shape, boxes (M, 5), px.

    Red cells, with or without pallor, lie in loose or dense groups; few, or none, are infected:
    by thin rings with a dot of chromatin, amoeboid trophozoites, schizonts of many dots or
    gametocytes that fill the cell. Beyond the ring stage cells are larger and stippled
    (Schüffner's dots). Platelets, white cells, debris, specks on healthy cells and smudges are in
    no plane of the label. Tint, stain, crowding, focus and light change from image to image.
    """
    side = size + 2 * MARGIN
    layers = np.zeros((len(STAINS), side, side), np.float32)
    owner = np.zeros((side, side), np.int64)
    slide = rng.uniform(0.7, 1.4), np.exp(rng.uniform(-2.5, 0.4)), rng.beta(0.7, 0.8)
    infected = INFECTED_SHARE * (rng.random() < 0.8)
    kinds = [-1]
    for y, x in _places(rng, side):
        chosen = rng.choice(len(STAGES), p=[stage.share for stage in STAGES])
        stage = STAGES[chosen] if rng.random() < infected else None
        patch, inside, kind = _cell(rng, stage, *slide)
        owner[_paste(layers, patch, y, x)][inside] = len(kinds)
        kinds.append(kind)
    _clutter(rng, layers)
    cut = slice(MARGIN, MARGIN + size)
    label, boxes = label_seen(owner, kinds, cut)
    return _photograph(rng, layers)[:, cut, cut], label, boxes


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray[Any]:
    noise = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return noise / noise.std()


def _places(rng: np.random.Generator, side: int) -> NDArray[np.int64]:
    """Choose centres of cells: in groups with gaps between them, overlapping here and there."""
    gaps = _smooth(rng, (side, side), 40) < rng.normal(-1, 0.8)
    apart = 2 * RADIUS * rng.uniform(0.75, 1)
    places = np.empty((0, 2), int)
    for place in rng.integers(HALF, side - HALF, (round(4 * side**2 / PER_CELL), 2)):
        near = np.hypot(*(places - place).T) < apart * rng.uniform(0.8, 1.1)
        if not near.any() and not gaps[tuple(place)] and len(places) < side**2 / PER_CELL:
            places = np.vstack([places, place])
    return places


def _cell(
    rng: np.random.Generator, stage: _Stage | None, haemoglobin: float, eosin: float, pallor: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Draw a cell, healthy if there is no stage: layers (4, P, P), outline (P, P) and class."""
    radius = RADIUS * rng.lognormal(0, 0.07) * (stage.growth if stage else 1)
    y, x = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1] + rng.uniform(-0.5, 0.5, (2, 1, 1))
    turn = np.arctan2(y, x)
    waves = rng.normal(0, 0.05, 4) * rng.gamma(2, 0.5) / [1, 1.5, 3, 4]
    bend = 1 + sum(wave * np.cos(k * turn + rng.uniform(0, 7)) for k, wave in enumerate(waves, 2))
    if rng.random() < (0.25 if stage == STAGES[3] else 0.005):  # crenated, as by drying
        bend += 0.07 * np.cos(rng.integers(9, 14) * turn + 2 * np.cos(turn))
    depth = radius * bend.clip(0.7, 1.3) - np.hypot(y, x)  # px from the outline
    body, rim = _step(depth, 0.5), np.exp(-((depth / 5) ** 2))
    spot = _disc(y, x, *rng.normal(0, 2.5, 2), rng.uniform(2, 7), rng.uniform(0.6, 2))
    pallor *= 0 if stage else rng.uniform(0.2, 1)
    pale = rng.lognormal(0, 0.09) * (1 - pallor * spot) * body
    pale *= 1 + rng.normal(0, 0.1) * y / radius + rng.normal(0, 0.1) * x / radius
    halo = 0.08 * np.exp(-(((depth + 2) / 1.5) ** 2))  # light bent at the edge
    azure, pigment, kind = 0 * y, 0 * y, UNINFECTED
    if stage:
        pale *= 1 if stage.hollow else rng.uniform(0.65, 1)
        azure, pigment = _parasite(rng, stage, y, x, radius)
        kind = INFECTED
    elif rng.random() < 0.04:  # a speck; one in twenty might be a parasite
        y, x = y + rng.uniform(-8, 8), x + rng.uniform(-8, 8)
        azure = rng.uniform(0.3, 1.5) * _disc(y, x, 0, 0, rng.uniform(0.6, 1.6))
        if rng.random() < 0.05:
            azure, kind = azure + 0.2 * _disc(y, x, 0, 2, 5), DIFFICULT
    red = eosin * (1 + 0.7 * (rim - 0.4) / (1 + 4 * eosin**2)) * pale  # a strong stain hides rims
    grey = haemoglobin * (0.85 + 0.3 * rim) * pale - halo
    layers = np.stack([grey, red, azure * body, pigment * body])
    return layers.astype(np.float32), depth > 0, kind


def _step(depth: Plane, width: float) -> Plane:
    """Rise from 0 to 1 at the depth 0."""
    return 0.5 + 0.5 * np.tanh(depth / (2 * width))


def _disc(
    y: Plane, x: Plane, top: float, left: float, radius: float, width: float = 0.6
) -> Plane:
    return _step(radius - np.hypot(y - top, x - left), width)


def _dots(
    rng: np.random.Generator, y: Plane, x: Plane, count: int, reach: float,
    sizes: tuple[float, float],
) -> Plane:  # fmt: skip
    """Draw small discs at most ``reach`` px, and mostly more than half of it, from the centre."""
    away, turn = reach * np.sqrt(rng.uniform(0.2, 1, count)), rng.uniform(0, 2 * np.pi, count)
    discs = zip(away * np.sin(turn), away * np.cos(turn), rng.uniform(*sizes, count), strict=True)
    return np.max([_disc(y, x, *disc) for disc in discs], 0)


def _parasite(
    rng: np.random.Generator, stage: _Stage, y: Plane, x: Plane, radius: float
) -> tuple[Plane, Plane]:
    """Draw amounts of azure and of malaria pigment, each (P, P)."""
    top, left = rng.normal(0, 0.35 * (1 - stage.reach) * radius, 2)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.6, 1)
    along = (y - top) * np.sin(turn) + (x - left) * np.cos(turn)
    across = ((y - top) * np.cos(turn) - (x - left) * np.sin(turn)) / stretch
    blotch, grain = _smooth(rng, y.shape, 2.5), _smooth(rng, y.shape, 1.0)
    reach = stage.reach * radius
    dots = _dots(rng, along, across, rng.integers(*stage.dots, endpoint=True), reach, stage.sizes)
    dots *= rng.uniform(0.25, 1)
    depth = reach - np.hypot(along, across)
    if stage.hollow:  # a signet ring, open on one side
        band = np.exp(-(((depth + 0.5 * blotch) / 1.1) ** 2))
        fade = 0.6 + 0.4 * np.cos(np.arctan2(across, along) - rng.uniform(0, 7))
        return np.maximum(rng.uniform(0.4, 1) * stage.azure * band * fade, dots), 0 * y
    plasma = _step(depth + 2 * blotch, 1)
    stipples = 0.1 * (grain - 0.3).clip(0)  # Schüffner's dots
    azure = stage.azure * rng.uniform(0.5, 1) * plasma * (0.8 + 0.25 * blotch + 0.2 * grain).clip(0)
    return azure + stipples + dots, 0.4 * plasma * (grain + 0.5 * blotch - 1.3).clip(0, 1)


def _clutter(rng: np.random.Generator, layers: Plane) -> None:
    """Add what is no red cell: platelets, white cells, debris and smudges of the stain."""
    side = layers.shape[1]
    y, x = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1].astype(float)
    kinds = rng.choice(3, rng.poisson(12 * side**2 / (640 * 480)), p=[0.5, 0.04, 0.46])
    for kind in kinds:
        red = 0 * y
        if kind == 0:  # a platelet
            grain = _smooth(rng, y.shape, 1.2)
            body = _step(rng.uniform(2, 7) + grain - np.hypot(y, x * rng.uniform(0.6, 1)), 1)
            azure = rng.uniform(0.1, 1.2) * body * (1 + 0.4 * grain).clip(0)
        elif kind == 1:  # a white cell with a lobed nucleus
            azure = 2.5 * _dots(rng, y, x, rng.integers(2, 6), 13, (7, 11))
            red = 0.15 * _disc(y, x, 0, 0, rng.uniform(22, 29), 1.5)
        else:
            azure = rng.uniform(0.2, 4) * _dots(rng, y, x, rng.integers(1, 5), 8, (0.4, 1.8))
        patch = np.stack([0.3 * red, red, azure, 0 * y]).astype(np.float32)
        _paste(layers, patch, *rng.integers(HALF, side - HALF, 2))
    smudges = (_smooth(rng, (side, side), 12) - rng.uniform(0.5, 3)).clip(0)
    layers[:3] += rng.uniform(0, [[[0.5]], [[0.2]], [[0.05]]]) * smudges


def _paste(layers: Plane, patch: Plane, y: int, x: int) -> tuple[slice, slice]:
    """Lay a patch over the layers and return its place; cells that overlap flatten each other."""
    place = slice(y - HALF, y + HALF + 1), slice(x - HALF, x + HALF + 1)
    below = layers[:, *place]
    patch[:2] -= 0.95 * np.minimum(below[:2], patch[:2].clip(0))
    below += patch
    return place


def label_seen(
    owner: NDArray[np.int64], kinds: list[int], cut: slice
) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """Label the cells seen in the field that is cut out: (3, S, S) and boxes (M, 5).

    Infected cells of which less than half is seen are difficult.
    """
    field = owner[cut, cut]
    whole, seen = (np.bincount(plane.flat, minlength=len(kinds)) for plane in (owner, field))
    label = np.zeros((3, *field.shape), np.uint16)
    boxes = []
    for i in np.flatnonzero(seen[1:]) + 1:
        rows, columns = np.nonzero(field == i)
        kind = DIFFICULT if kinds[i] == INFECTED and 2 * seen[i] < whole[i] else kinds[i]
        label[kind, rows, columns] = label[kind].max() + 1
        boxes.append([kind, rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
    return label, np.array(boxes, float).reshape(-1, 5)


def _photograph(rng: np.random.Generator, layers: Plane) -> NDArray[np.uint8]:
    """Send light through stains, an uneven lamp, lens and camera: uint8 (3, S, S)."""
    lamp = np.array([190, 219, 193]) * rng.uniform(0.8, 1.12) * rng.normal(1, 0.01, 3)
    slope = np.linspace(-1, 1, layers.shape[1]) * rng.normal(0, 0.03, (2, 1))
    light = lamp[:, None, None] * (1 + slope[0][:, None] + slope[1])
    stains = STAINS * rng.lognormal(0, 0.06, STAINS.shape)
    seen = light * np.exp(-np.einsum("sc,syx->cyx", stains, layers))
    focus = rng.uniform(0.4, 0.8)  # px
    noise = gaussian_filter(rng.normal(0, 1.8, seen.shape), (0, 0.5, 0.5))
    return np.rint(gaussian_filter(seen, (0, focus, focus)) + noise).clip(0, 255).astype(np.uint8)
