"""Sections of neuropil as an electron microscope shows them, drawn from random numbers.

Sizes, densities, greys and power spectrum were compared with sections of the *Drosophila* ventral
nerve cord; no pixel of them is used.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2
from scipy.ndimage import distance_transform_edt, fourier_gaussian, gaussian_filter
from scipy.spatial import cKDTree
from skimage.measure import label as components
from skimage.morphology import remove_small_objects

# Lengths in px of 4.6 nm, areas and densities in px², greys of 255

SMALLEST = 64  # side of the smallest section
EDGE = 60  # how far beyond the edges cells are laid out
CIRCLES, RADIUS, SPREAD = 700e-6, 17, 0.8  # tried, half find room; median radius, sd of its log
BENDS = ((50, 34), (16, 9), (6, 1.5))  # widths and depths of the windings of membranes
BRANCHES = 0.4  # share of the circles that are branches of a neighbour
MEMBRANE = 4  # distance from the middle of a membrane up to which it is labelled
SYNAPSES = 12e-6  # mean density
RINGS = ((2, 1.3, 80), (3.5, 1.4, 85), (0, 5, 130))
# radius, thickness and darkness of microtubules, of vesicles and of cored vesicles, which are full
BODIES = (("mitochondrion", 18e-6, 3600), ("vacuole", 5e-6, 700), ("dark body", 8e-6, 600))
# mean density and median area
GAP = 4  # least distance of a body from the middle of a membrane
COATS = ((1, -55), (4, 25), (7, -30))  # depths and contrasts of a mitochondrion's membranes
NOISE, BLUR = 32, 0.68  # sd of the shot noise, and of the blur after it

Plane = NDArray[Any]  # values of the pixels of a section, or of a part of it, (H, W)


def draw(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Draw a section: image (size, size) and label (3, size, size).

    Neurites of many sizes are packed, with glia between some of them. They hold filaments,
    microtubules, vesicles and reticulum, and some of them mitochondria: with two membranes and
    cristae, or cut at a slant and grey. Vacuoles, dark bodies, clusters of cored vesicles, glia
    and slanting membranes are as round or as dark as mitochondria.
    """
    if size < SMALLEST:
        raise ValueError(f"A section of {size} px has no room for cells: give {SMALLEST} or more.")
    cell, glia, depth = _neurites(rng, size)
    synapses, near = _synapses(rng, cell, depth)
    image = _cytoplasm(rng, cell, glia, depth, near)
    mitochondria = _bodies(rng, image, np.where(glia, 0, depth))
    # A membrane that is cut at a slant looks wide and pale.
    slant = np.exp(0.8 * _noise(rng, size, 25))
    dark = np.exp(-((depth / (2.6 + 0.9 * slant)) ** 2)) * (1.1 - 0.1 * slant).clip(0.4, 1)
    image += dark * (22 + 14 * _noise(rng, size, 2) - image)
    image += gaussian_filter(1.3 * (synapses > 0), 2.5).clip(0, 1) * (30 - image)
    image += 6 * _noise(rng, size, 90) + NOISE * rng.standard_normal(image.shape)  # uneven stain
    image = gaussian_filter(image, BLUR).clip(0, 255).round().astype(np.uint8)
    label = np.stack([mitochondria, glia | (depth < MEMBRANE), synapses]).astype(np.uint16)
    return image, label


def _noise(rng: np.random.Generator, size: int, scale: float) -> Plane:
    """Draw a random field of mean square 1, smooth over ``scale`` px."""
    white = rfft2(rng.standard_normal((size, size)))
    field = irfft2(fourier_gaussian(white, scale, n=size), (size, size))
    return field / np.sqrt(np.mean(field**2))


def _neurites(rng: np.random.Generator, size: int) -> tuple[Plane, Plane, Plane]:
    """Pack neurites: number of the cell, where glia is, distance from the nearest membrane."""
    y, x, radii = _circles(rng, size).T
    # The cell of a circle is where |p - c|² - r² is least: in 3-D, that of the nearest centre.
    search = cKDTree(np.c_[y, x, np.sqrt(radii.max() ** 2 - radii**2)])
    rows, columns = np.indices((size, size), float)
    for scale, bend in BENDS:
        rows += bend * _noise(rng, size, scale)
        columns += bend * _noise(rng, size, scale)
    circle = search.query(np.stack([rows, columns, np.zeros_like(rows)], -1))[1]
    neighbour = cKDTree(np.c_[y, x]).query(np.c_[y, x], 2)[1][:, 1]
    owner = np.where(rng.random(len(y)) < BRANCHES, neighbour, np.arange(len(y)))
    cell = owner[circle]
    # Glia fills, here and there, what no circle covers.
    outside = np.hypot(rows - y[circle], columns - x[circle]) - radii[circle]
    glia = (outside > 6) & (_noise(rng, size, 60) > 0)
    area = np.where(glia, -1, cell)
    edge = np.zeros((size, size), bool)
    edge[1:] |= area[1:] != area[:-1]
    edge[:, 1:] |= area[:, 1:] != area[:, :-1]
    depth = distance_transform_edt(~edge) if edge.any() else np.full(edge.shape, float(size))
    return cell, glia, depth


def _circles(rng: np.random.Generator, size: int) -> Plane:
    """Pack circles, the large ones first: centre (row, column) and radius, (N, 3)."""
    radii = rng.lognormal(np.log(RADIUS), SPREAD, int(CIRCLES * (size + 2 * EDGE) ** 2))
    circles = np.empty((0, 3))
    for radius in np.sort(radii.clip(8, 110))[::-1]:
        places = rng.uniform(-EDGE, size + EDGE, (40, 2))
        distances = np.linalg.norm(places[:, None] - circles[:, :2], axis=2)
        free = places[(distances > 0.9 * (radius + circles[:, 2])).all(1)][:1]
        circles = np.vstack([circles, np.insert(free, 2, radius, axis=1)])
    return circles


def _synapses(rng: np.random.Generator, cell: Plane, depth: Plane) -> tuple[Plane, Plane]:
    """Choose synapses at membranes: their numbers, and nearness to them in the presynaptic cell."""
    size = len(cell)
    mask, near = np.zeros(cell.shape, bool), np.zeros(cell.shape)
    edge = np.argwhere(depth == 0)
    for row, column in rng.permutation(edge)[: rng.poisson(SYNAPSES * size**2)]:
        r = np.hypot(*np.ogrid[-row : size - row, -column : size - column])
        reach = rng.uniform(10, 24)
        presynaptic = cell == cell[row, column]
        mask |= (r < reach) & (depth < np.where(presynaptic, 9, 4))
        near = np.maximum(near, presynaptic * np.exp(-((r / (3 * reach)) ** 2)))
    return components(remove_small_objects(mask, max_size=100)), near


def _cytoplasm(
    rng: np.random.Generator, cell: Plane, glia: Plane, depth: Plane, near: Plane
) -> Plane:
    """Draw what fills the cells and the glia; every cell has its own texture."""
    from scipy.signal import fftconvolve  # takes a second to load

    size, cells = len(cell), cell.max() + 1
    grain = 0.8 * _noise(rng, size, 0.9) + 0.8 * _noise(rng, size, 2) + 0.3 * _noise(rng, size, 5)
    grain += 1.2 * np.exp(-((_noise(rng, size, 2) / 0.3) ** 2)) - 0.4  # a web of filaments
    dense = np.exp(0.5 * _noise(rng, size, 14)) * rng.lognormal(-0.15, 0.25, cells)[cell]
    grey = rng.normal(210, 7, cells)[cell] - (40 * dense * np.exp(0.65 * grain)).clip(0, 120)
    # Beside a membrane that is cut at a slant lies a grey hem, on one side.
    hem = (rng.normal(0, 40, cells)[cell] * _noise(rng, size, 20)).clip(0)
    grey -= hem * np.exp(-depth / 12)
    densities = (
        rng.uniform(0, 0.006, cells)[cell],
        np.where(rng.random(cells) < 0.25, 0.004, 0.0003)[cell] + 0.007 * near,
        np.where(rng.random(cells) < 0.15, 0.0004, 0.00002)[cell],
    )
    for density, (radius, thickness, dark) in zip(densities, RINGS, strict=True):
        spots = rng.uniform(0.4, 1, cell.shape)
        spots *= rng.random(cell.shape) < density * (depth > radius + 5)
        ring = np.exp(-(((np.hypot(*np.ogrid[-12:13, -12:13]) - radius) / thickness) ** 2))
        grey -= dark * fftconvolve(spots, ring, "same").clip(0, 1)
    # The reticulum: thin level lines of a smooth field, in places.
    field = _noise(rng, size, 12)
    lines = np.exp(-((field / np.hypot(*np.gradient(field)) / 1.6) ** 2))
    grey -= 90 * lines * (2 * _noise(rng, size, 20) - 2).clip(0, 1) * (depth > 6)
    return np.where(glia, 86 - 15 * grain - 8 * _noise(rng, size, 8), grey.clip(40))


def _bodies(rng: np.random.Generator, image: Plane, room: Plane) -> Plane:
    """Draw mitochondria and what resembles them; returns the numbers of the mitochondria."""
    numbers = np.zeros(image.shape, int)
    for kind, density, area in BODIES:
        for _ in range(rng.poisson(density * image.size)):
            if place := _place(rng, room, area * rng.lognormal(0, 0.75)):
                box, inner, along, across = place
                if kind == "mitochondrion":
                    numbers[box][inner > 0] = numbers.max() + 1
                grey, sharpness = _inside(rng, kind, inner, along, across)
                image[box] += (grey - image[box]) / (1 + np.exp(-sharpness * inner))
    return numbers


def _place(
    rng: np.random.Generator, room: Plane, area: float
) -> tuple[tuple[slice, ...], Plane, Plane, Plane] | None:
    """Find room for a body: a box, and in it depth below its outline, place on its two axes, px."""
    stretch, angle, bend = rng.uniform(1, 1.7), rng.uniform(0, np.pi), rng.normal(0, 0.15)
    waves = [(k, rng.normal(0, 0.035), rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)]
    for shrink in 0.99 ** np.arange(100):  # a body that finds no room is made smaller
        length, breadth = shrink * np.sqrt(area / np.pi) * stretch ** np.array([1, -1])
        row, column = rng.integers(0, len(room), 2)
        if room[row, column] < 0.7 * breadth:
            continue
        reach = int(1.4 * length) + 3
        box = tuple(slice(max(0, c - reach), min(len(room), c + reach + 1)) for c in (row, column))
        y, x = np.ogrid[box]
        y, x = y - row, x - column
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle) + bend * along**2 / length
        turn = np.arctan2(across, along)
        wobble = sum(height * np.cos(k * turn + shift) for k, height, shift in waves)
        inner = (1 - np.hypot(along / length, across / breadth) - wobble) * breadth
        if room[box][inner > 0].min() > GAP:
            room[box][inner > -3] = 0  # no other body here
            return box, inner, along, across
    return None


def _inside(
    rng: np.random.Generator, kind: str, inner: Plane, along: Plane, across: Plane
) -> tuple[Plane, float]:
    """Draw the inside of a body, and how sharp its outline is, 1/px."""
    height, width = inner.shape
    fine, patches, warp = (
        _noise(rng, max(inner.shape), scale)[:height, :width] for scale in (1.3, 5, 9)
    )
    if kind == "vacuole":
        return rng.normal(185, 10) + 8 * fine - 120 * np.exp(-(((inner - 1) / 2) ** 2)), 2
    if kind == "dark body":
        return rng.normal(75, 15) + 22 * fine + 8 * patches, rng.uniform(0.25, 1)
    axis = (along, across, across, inner)[rng.integers(4)]  # cristae across, along or concentric
    cristae = np.cos(2 * np.pi * (axis + 5 * warp) / rng.uniform(8, 15)) * (inner > 6)
    clear = rng.uniform(0.3, 1)  # the less, the more slanting the cut
    grey = rng.normal(90, 12) + 18 * fine + 85 * clear * cristae * (patches + 1).clip(0, 1)
    for distance, contrast in COATS:
        grey += clear * contrast * np.exp(-(((inner - distance) / 1.5) ** 2))
    return grey, 0.5 + 2 * clear
