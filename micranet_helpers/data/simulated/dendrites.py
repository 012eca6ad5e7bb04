"""F-actin of dendrites among axons as a STED microscope shows it, drawn from random numbers.

Widths, brightness, noise and power spectrum were compared with open images of STEDActinFCN and
TA-GAN; no pixel of them is used. Neurites are drawn straight, as textures (along, across), and
then bent along their paths.
"""

from math import tau
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates, zoom
from scipy.spatial import cKDTree
from skimage.measure import label as components
from skimage.morphology import remove_small_objects

# Lengths in px of 20 nm

SMALLEST = 64  # side of the smallest image
BRIGHT = 12, 0.45  # median photons a pixel of a dendrite, and sd of their log
DENSEST = 10  # most light of a place, in units of a dendrite's
HALF = 18, 50  # half the width of a dendrite: 0.7 to 2 µm across
AXON = 2.5, 9  # half the width of an axon: 0.1 to 0.36 µm across
PERIOD = 9.5  # of the rings: 190 nm
PRESENCE = -0.8, 1.3  # mean and sd of how common rings, and fibres, are in an image: 0 is half
PSF = 0.9, 1.2  # sd of the middle of the blur, which is 45 to 60 nm wide at half height
LEAST = 300  # pieces up to this area, px² (0.12 µm²), are too small to be told, and not labelled
EDGE = 60  # how far beyond the edges dendrites are drawn

Plane = NDArray[Any]  # values of the pixels of an image, or of a straight neurite (along, across)


def draw(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Draw an image: counts of photons (size, size) and label (3, size, size).

    Dendrites have a cortex, spines and filopodia. Some stretches hold rings, broken and fading in
    patches, or a mesh of longitudinal fibres, or both; others a grainy or faintly ringed texture
    that is neither. Axons may have rings too, which are not labelled: here, only those of
    dendrites count.
    """
    if size < SMALLEST:
        raise ValueError(f"An image of {size} px shows no dendrite: give {SMALLEST} px or more.")
    scene, marks = np.zeros((size, size)), np.zeros((3, size, size), bool)
    bright = rng.lognormal(np.log(BRIGHT[0]), BRIGHT[1])
    levels = rng.normal(*PRESENCE, 2)  # the dendrites of an image resemble each other
    for _ in range(rng.poisson(2 + size / 150)):
        _axon(rng, scene, bright)
    for _ in range(1 + rng.poisson(size / 700)):
        trunk = _path(rng, rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0, tau), 3 * size, 150)
        half = rng.uniform(*HALF)
        _dendrite(rng, scene, marks, trunk, half, bright, levels)
        if rng.random() < 0.5:
            fork = len(trunk) // 2
            heading = np.arctan2(*(trunk[fork + 1] - trunk[fork]))
            heading += rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
            branch = _path(rng, trunk[fork], heading, 4 * size, 100)[2 * size :]
            _dendrite(rng, scene, marks, branch, 0.5 * half, bright, levels)
    seen = [components(remove_small_objects(mark, max_size=LEAST)) for mark in marks]
    counts = _expose(rng, scene.clip(max=DENSEST * bright))
    return counts, np.stack(seen).astype(np.uint16)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], scale: Any) -> Plane:
    """Draw a random field of mean 0 and mean square about 1, smooth over ``scale`` px."""
    scale = np.broadcast_to(scale, np.shape(shape)).astype(float)
    step = np.maximum(scale // 3, 1).astype(int)  # a smooth field needs few points
    scale = scale / step
    edge = np.ceil(3 * scale).astype(int)  # or it would be rougher at the borders
    count = -(-np.array(shape) // step) + 1
    field = gaussian_filter(rng.standard_normal(count + 2 * edge), scale, truncate=3)
    field = zoom(field[tuple(map(slice, edge, edge + count))], step, order=1)
    return field[tuple(map(slice, shape))] * np.sqrt(np.prod(3.54 * scale[scale > 0]))


def _path(
    rng: np.random.Generator, middle: Plane, heading: float, length: int, scale: float,
    bend: float = 0.35,
) -> Plane:  # fmt: skip
    """Draw a winding line: points (row, column) 1 px apart, (length, 2)."""
    angle = heading + bend * _noise(rng, (length,), scale)
    steps = np.cumsum(np.stack([np.sin(angle), np.cos(angle)], 1), 0)
    return middle + steps - steps[length // 2]


def _depth(half: Plane, reach: int) -> Plane:
    """Compute the depth in a straight neurite of half-widths (L,): 1 on the axis, 0 at the rim."""
    return (1 - (np.arange(-reach, reach + 1) / half[:, None]) ** 2).clip(-9)


def _around(path: Plane, reach: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Find the pixels of an image within ``reach`` of a path, and few others, (N, 2)."""
    edge = reach + 1
    lower = np.maximum(np.floor(path.min(0)).astype(int) - edge, -edge)
    upper = np.maximum(np.minimum(np.ceil(path.max(0)).astype(int), shape) + edge, lower + 1)
    drawn = np.rint(path).astype(int)
    drawn = drawn[((drawn >= lower) & (drawn < upper)).all(1)] - lower
    free = np.ones(upper - lower, bool)
    free[tuple(drawn.T)] = False
    pixels = np.argwhere(distance_transform_edt(free) <= edge) + lower
    return pixels[((pixels >= 0) & (pixels < shape)).all(1)]


def _paint(scene: Plane, path: Plane, texture: Plane) -> tuple[Any, NDArray[np.int64], Plane]:
    """Bend a straight texture along a path and add it; where, and what is along and across."""
    reach = texture.shape[1] // 2
    pixels = _around(path, reach, scene.shape)
    _, along = cKDTree(path).query(pixels, distance_upper_bound=reach)
    pixels, along = pixels[along < len(path)], along[along < len(path)]
    tangent, offset = np.gradient(path, axis=0)[along], pixels - path[along]
    beside = np.abs((tangent * offset).sum(1)) <= 1  # not beyond the ends
    across = (tangent[:, 0] * offset[:, 1] - tangent[:, 1] * offset[:, 0])[beside]
    where, along = tuple(pixels[beside].T), along[beside]
    scene[where] += map_coordinates(texture, [along, across + reach], order=1)
    return where, along, across


def _rings(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Draw stripes across, broken to dots, that fade in patches; mean 1."""
    along = np.arange(shape[0])[:, None] + 1.9 * _noise(rng, shape, (14, 9))
    along += 3 * _noise(rng, (shape[0], 1), (60, 0))
    stripes = (0.5 + 0.5 * np.cos(2 * np.pi * along / PERIOD)) ** 1.5
    dots = np.exp(0.75 * _noise(rng, shape, (1.2, 1.8)))
    patches = 1 / (1 + np.exp(-3 * (_noise(rng, shape, 8) + 0.3)))
    pattern = (patches * stripes + 0.18) * dots
    return pattern / pattern.mean()


def _fibres(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Draw long thin filaments that cross at small angles, in bundles; mean 1."""
    along, across = np.indices(shape, float)
    layers = []
    for _ in range(3):
        sway = 9 * _noise(rng, shape, (35, 12)) + 1.2 * _noise(rng, shape, (7, 5))
        streaks = _noise(rng, shape, (22, 0.9))
        streaks = map_coordinates(streaks, [along, across + sway], order=1, mode="grid-wrap")
        layers.append(np.exp(0.95 * streaks + 0.5 * _noise(rng, shape, (30, 4))))
    pattern = np.max(layers, 0) * np.exp(0.3 * _noise(rng, shape, 1.5)) + 0.1
    return pattern / pattern.mean()


def _lattice(
    rng: np.random.Generator, shape: tuple[int, int], levels: Plane
) -> tuple[Plane, list[Plane]]:
    """Draw the inside of a straight dendrite, mean about 1; where rings and fibres are, (L, 1)."""
    def stretches(level: float) -> Plane:
        return 1 / (1 + np.exp(-12 * (_noise(rng, (shape[0], 1), (70, 0)) + level)))

    ringed, fibrous = map(stretches, levels)
    faint = 0.25 * stretches(-0.6)  # traces of rings that nobody would mark
    rings = np.maximum((rng.uniform(0.6, 0.95) - 0.3 * fibrous) * ringed, faint)
    fibres = 1.4 * np.maximum(fibrous, 0.15)
    grain = np.exp(0.65 * _noise(rng, shape, 1.3) + 0.4 * _noise(rng, shape, 4))
    pattern = (1 - rings) * (1.4 - fibres).clip(0.1) * grain / grain.mean()
    pattern += rings * _rings(rng, shape) + fibres * _fibres(rng, shape)
    return pattern, [ringed, fibrous]


def _dendrite(
    rng: np.random.Generator, scene: Plane, marks: Plane, path: Plane, half: float,
    bright: float, levels: Plane,
) -> None:  # fmt: skip
    middle = len(scene) / 2
    near = np.flatnonzero((np.abs(path - middle) < middle + EDGE).all(1))
    if len(near) < 20:
        return
    path = path[near[0] : near[-1] + 1]
    shape = len(path), 2 * int(1.6 * half) + 1
    width = half * np.exp(0.15 * _noise(rng, shape[:1], 60)).clip(0.75, 1.4)
    depth = _depth(width, shape[1] // 2)
    depth += 0.1 * _noise(rng, shape, 5) + 0.1 * _noise(rng, shape, (25, 12))
    texture, present = _lattice(rng, shape, levels)
    cortex = np.exp(0.4 * _noise(rng, shape, (8, 4)) - ((depth - 0.12) / 0.15) ** 2)
    texture *= 1 + rng.uniform(0.3, 1.5) * cortex
    texture += rng.uniform(0, 3.5) * (_noise(rng, shape, 4) - 2.2).clip(0)  # spines from above
    texture *= bright * np.exp(0.25 * _noise(rng, shape, 25)) / (1 + np.exp(-depth / 0.06))
    rise = np.arange(len(path)) / half  # a branch comes out of its trunk
    where, along, across = _paint(scene, path, texture * rise.clip(0, 1)[:, None] ** 2)
    inside = (np.abs(across) < width[along]) & (rise[along] > 0.7)
    for mark, there in zip(marks, (*present, np.ones((len(path), 1))), strict=True):
        mark[where] |= inside & (there[along, 0] > 0.5)
    for at in rng.integers(1, len(path) - 1, rng.poisson(len(path) * rng.uniform(0.003, 0.02))):
        _spine(rng, scene, path[at - 1 : at + 2], width[at], bright)


def _spine(
    rng: np.random.Generator, scene: Plane, base: Plane, half: float, bright: float
) -> None:
    """Add a protrusion: a neck with a head, or, without one, a filopodium."""
    forward, side = (base[2] - base[0]) / 2, rng.choice([-1, 1])
    heading = np.arctan2(*forward) + side * rng.normal(np.pi / 2, 0.4)
    headed = rng.random() < 0.65
    length, head = (rng.integers(16, 55), rng.uniform(5, 14)) if headed else (
        rng.integers(50, 200), 0.1)  # fmt: skip
    line = _path(rng, np.zeros(2), heading, length, 20, 0.4)
    line += base[1] + 0.85 * half * side * forward[::-1] * [1, -1] - line[0]
    ball = (head**2 - (np.arange(length) - length + head) ** 2).clip(0)
    neck = rng.uniform(2, 4) * np.exp(0.3 * _noise(rng, (length,), 8))
    width = np.maximum(neck, np.sqrt(ball))
    depth = _depth(width, int(width.max()) + 4)
    depth += 0.45 * _noise(rng, depth.shape, 5)
    texture = np.exp(0.5 * _noise(rng, depth.shape, 2)) / (1 + np.exp(-depth / 0.08))
    texture *= 0.8 + 0.6 * np.exp(-(((depth - 0.3) / 0.3) ** 2))
    _paint(scene, line, bright * rng.lognormal(0.1, 0.4) * texture)


def _axon(rng: np.random.Generator, scene: Plane, bright: float) -> None:
    """Add a thin axon, with boutons; some have rings, which are not labelled."""
    size = len(scene)
    path = _path(rng, rng.uniform(0, size, 2), rng.uniform(0, tau), 3 * size, 60, 0.5)
    half = rng.uniform(*AXON) * np.exp(0.25 * _noise(rng, (len(path),), 30))
    depth = _depth(half, int(half.max()) + 1).clip(0)
    ringed = rng.random() < 0.4
    texture = _rings(rng, depth.shape) if ringed else np.exp(0.9 * _noise(rng, depth.shape, (3, 2)))
    level = rng.uniform(0.15, 0.9) * np.exp(0.5 * _noise(rng, (len(path), 1), (40, 0)))
    _paint(scene, path, bright * level * texture * np.sqrt(depth))


def _expose(rng: np.random.Generator, scene: Plane) -> NDArray[np.uint16]:
    """Blur and count photons."""
    width = rng.uniform(*PSF)
    # A STED spot is more pointed than a Gaussian; a tenth of the light is what depletion left.
    parts = ((0.6, width), (0.25, 2 * width), (0.1, 8))
    seen = sum(share * gaussian_filter(scene, scale) for share, scale in parts)
    far = rng.uniform(0.1, 1) * np.exp(0.4 * _noise(rng, scene.shape, 60))
    return rng.poisson(seen + far).astype(np.uint16)
