"""Frames of three cell lines, fluorescent or in phase contrast, drawn from random numbers.

- Fluo-N2DL-HeLa: bright and faint nuclei on a dark ground, some dividing; fragments and
  blurred nuclei out of focus are no cells.
- PhC-C2DL-PSC: bright spindles with a dark halo, in chains; specks are no cells.
- Usiigaci: spread cells, grey as the ground, seen by their rims, granules and nucleoli; some
  round up; debris and floating spots are no cells.

Lengths are in px of the real frames (PSC: those of 1024² px). Sizes, densities, greys and power
spectra were compared with real frames; no pixel of them is used.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, maximum_position, zoom
from skimage.measure import label as components
from skimage.segmentation import find_boundaries

SHAPES = {
    "Fluo-N2DL-HeLa": (310, (34, 75), (2, 2, 3), 0.05, 5.5, 9, 0.0),
    "PhC-C2DL-PSC": (290, (14, 45), (2, 2, 2, 2, 2, 2, 3), 0.12, 27, 6.8, 0.7),
    "Usiigaci": (230, (60, 120), (2, 3, 3, 4, 5), 0.05, 75, 22, 1.9),
}  # fmt: skip
"""Cells in 1024² px; distance at which cells of a group are put; numbers of arms of a cell; share
of cells that round up; median length of arms; radius of the body; how soon arms grow thin (0: not,
2: at once)."""

REACH = 100  # px drawn around the frame, for cells that its border cuts


def draw(
    rng: np.random.Generator, size: int, line: str
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Draw a frame of a line of :data:`SHAPES`: image and numbers of the cells, (size, size).

    Density, crowding, light and brightness differ from frame to frame.
    """
    paint = {"Fluo-N2DL-HeLa": _hela, "PhC-C2DL-PSC": _psc, "Usiigaci": _usiigaci}[line]
    cells = _scatter(rng, size + 2 * REACH, *SHAPES[line])
    inside = (slice(REACH, REACH + size),) * 2
    return np.rint(paint(rng, cells))[inside].astype(np.uint16), cells[inside]


def _noise(rng: np.random.Generator, size: int, scale: float) -> NDArray[np.float64]:
    """Draw a Gaussian field of unit variance, smooth over ``scale`` px."""
    coarse = max(1, int(scale / 4))
    field = gaussian_filter(rng.standard_normal((size // coarse + 2,) * 2), scale / coarse)
    # The filter leaves white noise a standard deviation of 1 / (2 √π scale).
    return 2 * np.sqrt(np.pi) * scale / coarse * zoom(field, coarse, order=1)[:size, :size]


def _scatter(
    rng: np.random.Generator, size: int, density: float, apart: tuple[int, int],
    arms: tuple[int, ...], round_share: float, length: float, radius: float, taper: float,
) -> NDArray[np.int64]:  # fmt: skip
    """Lay out numbered cells, some beside others and in their direction."""
    cells, laid = np.zeros((size, size), np.int64), []
    crowd = rng.uniform(0.4, 0.95)
    for number in range(rng.poisson(density * size**2 / 2**20 * rng.uniform(0.3, 1.3))):
        centre, turn = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi)
        if laid and rng.random() < crowd:
            centre, along = laid[rng.integers(len(laid))]
            centre = centre + rng.uniform(*apart) * np.array([np.sin(turn), np.cos(turn)])
            turn = along + rng.normal(0, 0.4)
        lengths = length * rng.lognormal(0, 0.35, rng.choice(arms))
        rounded = rng.random() < round_share
        body = radius * rng.lognormal(0, 0.12) * (0.75 if rounded else 1)
        lengths *= 0.15 if rounded else 1
        box, star = _star(rng, size, centre, turn, lengths, body, taper)
        mask = star & (cells[box] == 0)
        # A cell that would lie under others, or be cut by them, is left out.
        if mask.sum() > 0.93 * star.sum() > 0 and components(mask, connectivity=1).max() < 2:
            cells[box][mask] = number + 1
            laid.append((centre, turn))
    return cells


def _star(
    rng: np.random.Generator, size: int, centre: NDArray[np.float64], turn: float,
    lengths: NDArray[np.float64], radius: float, taper: float,
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:  # fmt: skip
    """Draw a body with arms, the first towards ``turn``: its box, and its mask there."""
    reach = int(lengths.max() + 2 * radius)
    box = tuple(slice(max(0, int(c) - reach), max(0, min(size, int(c) + reach))) for c in centre)
    y, x = (np.float32(side - c) for side, c in zip(np.ogrid[box], centre, strict=True))
    around, distance = np.arctan2(y, x), np.hypot(x, y)
    wave = sum(np.cos(k * around + rng.uniform(0, 6.3)) / k for k in (2, 3, 5, 8))
    # A sum of exponentials is a soft maximum: body and arms flow into each other.
    inner = np.exp(radius - distance + 0.15 * radius * wave)
    spread = 2 * np.pi / len(lengths)
    for i, length in enumerate(lengths.tolist()):
        angle = turn + np.pi + i * spread + rng.normal(0, 0.25)
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        along, across = x * cos + y * sin, y * cos - x * sin
        part = (along / length).clip(0, 1)
        across = across + rng.normal(0, 0.12) * length * part**2
        width = radius * (1 - part) ** taper + 1 + 0.1 * radius * wave
        inner += np.exp(width - np.hypot(across, along - part * length))
    return box, inner > 1


def _depth(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Measure the distance from the outline inside cells, 0 outside."""
    return distance_transform_edt((cells > 0) & ~find_boundaries(cells, mode="inner"))


def _spots(rng: np.random.Generator, chance: Any, size: int, radius: float) -> NDArray[np.float64]:
    """Scatter blurred spots of height about 1; ``chance`` is their number a pixel."""
    drawn = (rng.random((size, size)) < chance) * rng.uniform(0.3, 1.5, (size, size))
    return gaussian_filter(drawn, radius) * 2 * np.pi * radius**2


def _hela(rng: np.random.Generator, cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Paint fluorescent nuclei: counts of a camera of 12 bits with an offset of 32768."""
    size, count, depth = len(cells), cells.max() + 1, _depth(cells)
    bright = 650 * rng.lognormal(0, 0.4, count)
    bright[rng.random(count) < 0.15] *= rng.uniform(0.03, 0.3)  # faint, but in focus
    dividing = rng.random(count) < 0.06
    bright[dividing] *= rng.uniform(2, 4)
    chromatin = 1 + 0.11 * _noise(rng, size, 1.2) + 0.14 * _noise(rng, size, 4)
    nucleoli = _spots(rng, 0.0012 * (depth > 3), size, 1.5)
    nuclei = bright[cells] * chromatin * (1 - 0.35 * nucleoli).clip(0.3) * (cells > 0)
    nuclei *= np.where(dividing[cells], (depth / 5).clip(0, 1), 1)  # condensed in the middle
    image = gaussian_filter(nuclei, 1) + 0.03 * gaussian_filter(nuclei, 12)  # focus, stray light
    image += 25 * _spots(rng, 3e-5, size, 8) + 300 * _spots(rng, 2e-5, size, 1.8)  # no cells
    image += 33040 + 10 * _noise(rng, size, 200)
    grain = gaussian_filter(rng.standard_normal(cells.shape), (0.4, 0.8))
    image += grain / grain.std() * np.sqrt(75 + 0.8 * nuclei)
    return image.clip(32768, 36863)


def _psc(rng: np.random.Generator, cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Paint bright cells in phase contrast, enlarged: grey levels of 255."""
    size, count, depth = len(cells), cells.max() + 1, _depth(cells)
    bright = 180 * rng.uniform(0.2, 1.6, count)[cells] ** 2 * (1 + 0.3 * _noise(rng, size, 3))
    glow = (bright + 20) * (1 - np.exp(-(((depth + 0.5) / 5) ** 2))) + 10
    glow = gaussian_filter(glow * (cells > 0), 1.4) + 12 * gaussian_filter(1.0 * (cells > 0), 4)
    glow += 50 * _spots(rng, 7e-5, size, 1.4) + 160 * _spots(rng, 2e-5, size, 3)  # no cells
    halo = np.roll(gaussian_filter(glow, 8), rng.integers(-4, 5, 2), (0, 1))
    light, film = 138 + 11 * _noise(rng, size, 150), 0.8 * _noise(rng, size, 2.5)
    return (light + glow - 0.45 * halo + film).clip(0, 255)


def _usiigaci(rng: np.random.Generator, cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Paint flat cells in phase contrast, without its coarse structure: grey levels of 255."""
    size, depth, outside = len(cells), _depth(cells), distance_transform_edt(cells == 0)
    nuclei = np.ones(cells.shape, bool)
    for row, column in maximum_position(depth, cells, np.unique(cells)[1:]):
        nuclei[row, column] = False
    far = distance_transform_edt(nuclei) + 1.5 * _noise(rng, size, 8)  # from a nucleus
    strong = 1 + 1.5 * ((cells > 0) & (np.bincount(cells.ravel())[cells] < 2200))  # rounded cells
    rim = 90 * np.exp(0.6 * _noise(rng, size, 7)) * strong
    phase = rim * np.where(cells > 0, np.exp(-depth / 12) - np.exp(-depth / 2), 0)
    phase -= rim * (0.5 + 0.5 * _noise(rng, size, 20)).clip(0) * np.exp(-outside) * (cells == 0)
    phase += 14 * strong * _noise(rng, size, 1.1) * (depth / 12).clip(0, 1)
    phase += 18 * np.exp(-((far - 12) ** 2)) * (depth > 3)  # the nuclear membrane
    granules, nucleoli = 0.04 * (depth / 15).clip(0, 1) * (far > 12), 0.012 * (far < 9)
    phase += 60 * strong * _spots(rng, granules, size, 1.0)
    phase += 220 * _spots(rng, nucleoli * (depth > 6), size, 1.6)
    debris = (_noise(rng, size, 5) - 1.2).clip(0, 1) * (_noise(rng, size, 1) - 0.3).clip(0, 2)
    phase += 45 * debris * (cells == 0) + 120 * _spots(rng, 3e-5, size, rng.uniform(1.5, 3))
    phase += 4.5 * rng.standard_normal(cells.shape)
    fine = gaussian_filter(phase, 0.5) - gaussian_filter(phase, 1.7)
    return (rng.uniform(100, 140) - fine + gaussian_filter(fine, 5)).clip(0, 255)
