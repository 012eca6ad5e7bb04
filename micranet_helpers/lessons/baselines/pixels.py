"""Classify pixels by filters of several scales and a random forest, learnt from scribbles.

Ilastik's pixel classification works like this (Berg et al. 2019, doi 10.1038/s41592-019-0582-9): a
person draws a few strokes on background and objects, and a random forest learns from filters of
colour, edges and texture around them. A classifier takes seconds to fit and follows from images,
scribbles and seed, so there is no file format for it.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, maximum_filter, minimum_filter
from skimage.feature import hessian_matrix_eigvals, structure_tensor, structure_tensor_eigenvalues
from skimage.graph import MCP_Geometric
from skimage.measure import regionprops
from skimage.morphology import skeletonize
from sklearn.ensemble import RandomForestClassifier
from tqdm import tqdm

from micranet_helpers.maps.tiles import PATIENCE
from micranet_helpers.metrics.masks import as_labels

SIGMAS = (0.3, 0.7, 1.0, 1.6, 3.5, 5.0, 10.0)
"""Scales of the filters, px: our list, after that of Ilastik."""

REACH = int(4 * max(SIGMAS) + 0.5) + 1
"""Reach of the filters, px: SciPy cuts them at 4 σ, gradients see one pixel further."""

FINEST = 0.5
"""Scale below which an image is only smoothed, px: a derivative would fall between the pixels."""

TREES = 100
"""Trees of the forest, the default of scikit-learn and, to our knowledge, of Ilastik."""

TILE = 512
"""Side of the tiles in which images are filtered, px."""

LENGTH, MARGIN = 20, 2
"""Length of a stroke, and width of the border of an object that it leaves free, px."""

BOX = np.ones((3, 3), bool)
"""A pixel with its eight neighbours."""

_Slices = tuple[slice, slice]


def features(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Filter an image (C, H, W) at all scales: (43 C, H, W), by channel, then by scale.

    These are, at each scale: Gaussian smoothing; Laplacian of Gaussian; magnitude of the Gaussian
    gradient; eigenvalues of the structure tensor, larger first; eigenvalues of the Hessian of
    Gaussian, larger first. Scales below :data:`FINEST` have the first alone. Images are mirrored at
    their borders.

    Colour or intensity, edge and texture are Ilastik's three groups of features
    (https://www.ilastik.org/documentation/pixelclassification/pixelclassification.html); the list
    of filters is ours, after Ilastik's. Its difference of Gaussians is nearly the Laplacian times
    a number (github.com/ilastik/ilastik, issues 17 and 1948) and left out.
    ``skimage.feature.multiscale_basic_features`` lacks the structure tensor, takes no list of
    scales and measures differently at borders.
    """
    filtered = (_filters(channel, sigma) for channel in image for sigma in SIGMAS)
    return np.stack([plane for planes in filtered for plane in planes])


def _filters(channel: NDArray[np.float32], sigma: float) -> list[NDArray[np.float32]]:
    smoothed = gaussian_filter(channel, sigma)
    if sigma < FINEST:
        return [smoothed]
    down, right = (gaussian_filter(channel, sigma, order) for order in ((1, 0), (0, 1)))
    hessian = [gaussian_filter(channel, sigma, order) for order in ((2, 0), (1, 1), (0, 2))]
    tensor = structure_tensor(channel, sigma, mode="reflect", order="rc")
    return [
        smoothed,
        hessian[0] + hessian[2],
        np.hypot(down, right),
        *structure_tensor_eigenvalues(tensor),
        *hessian_matrix_eigvals(hessian),
    ]


def fit(
    images: Sequence[NDArray[np.float32]], scribbles: Sequence[NDArray[np.integer]], seed: int = 0
) -> RandomForestClassifier:
    """Train a random forest on the pixels that are drawn on.

    The forest has :data:`TREES` trees and the settings of scikit-learn (Breiman 2001, doi
    10.1023/A:1010933404324), but all classes weigh the same (our choice): the number of pixels
    drawn on does not show how frequent a class is.

    ``images`` are float32 (C, H, W), ``scribbles`` int (H, W): 0 where nothing is drawn, 1 on
    background, 2 on class 1, 3 on class 2 …, as of :func:`scribbles`. The forest classifies the
    features of a pixel. Raises ValueError if images and scribbles do not fit together, an image is
    not finite, or there is no scribble on the background or on a class.
    """
    images = [_image(image) for image in images]
    _check_scribbles(images, scribbles)
    found, values = [], []
    pairs = list(zip(images, scribbles, strict=True))
    for image, drawn in tqdm(pairs, "Features", unit="image", leave=False, delay=PATIENCE):
        for core, window, inside in _tiles(drawn.shape):
            if (known := drawn[core] > 0).any():
                found.append(features(image[:, *window])[:, *inside][:, known].T)
                values.append(drawn[core][known])
    forest = RandomForestClassifier(TREES, class_weight="balanced", random_state=seed, n_jobs=-1)
    return forest.fit(np.concatenate(found), np.concatenate(values))


def predict(forest: RandomForestClassifier, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the probability of each class for each pixel of an image, float32 (C, H, W).

    It is the share of the trees, float32 (K, H, W) in [0, 1], without the background, whose share
    is 1 less their sum. Tiles overlap by the reach of the filters, so the result is exactly that of
    the whole image. Raises ValueError if the image has another shape or other channels, or is not
    finite.
    """
    image = _image(image)
    num_classes = len(forest.classes_) - 1
    probabilities = np.empty((num_classes, *image.shape[1:]), np.float32)
    tiles = list(_tiles(image.shape[1:]))
    for core, window, inside in tqdm(tiles, unit="tile", leave=False, delay=PATIENCE):
        found = features(image[:, *window])[:, *inside]
        shares = forest.predict_proba(found.reshape(len(found), -1).T)
        probabilities[:, *core] = shares[:, 1:].T.reshape(num_classes, *found.shape[1:])
    return probabilities


def _tiles(shape: tuple[int, int]) -> Iterator[tuple[_Slices, _Slices, _Slices]]:
    """List tiles, each with the window that its filters see, and its place in that window."""
    for spans in product(*map(_spans, shape)):
        yield tuple(zip(*spans, strict=True))


def _spans(side: int) -> Iterator[tuple[slice, slice, slice]]:
    for start in range(0, side, TILE):
        stop, first = min(start + TILE, side), max(start - REACH, 0)
        yield slice(start, stop), slice(first, stop + REACH), slice(start - first, stop - first)


def scribbles(label: NDArray[np.integer], strokes: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw strokes on each class and on the background, as a person would (our simulation).

    A stroke begins at a random pixel of its class and is the shortest path within the object to
    another pixel :data:`LENGTH` px away, shorter where the object is. :data:`MARGIN` px at the
    border of an object, but not of the image, are left free, except for its skeleton, so that thin
    objects can be drawn on. Of ``strokes`` for each class and the background, which do not touch,
    there are fewer where there is no room.

    ``label``, int (K, H, W), holds for each class the objects, numbered from 1, or a mask of 0 and
    1; pixels of more than one class are left out. The result, uint8 (H, W), is 0 where nothing is
    drawn, 1 on background, 2 on class 1, 3 on class 2 … Raises ValueError if the label is no label
    image, or there is to be no stroke.
    """
    label = as_labels(label, 3)
    if strokes < 1:
        raise ValueError(f"Strokes must be 1 or more, not {strokes}.")
    rng = np.random.default_rng(seed)
    drawn = np.zeros(label.shape[1:], np.uint8)
    for value, area in enumerate(_areas(label), 1):
        free = _inside(area)
        for _ in range(strokes):
            if not free.any():
                break
            near, stroke = _stroke(area, free, rng)
            drawn[near][stroke] = value
            free[near] &= ~binary_dilation(stroke, BOX)
    return drawn


def _areas(label: NDArray[np.integer]) -> list[NDArray[np.integer]]:
    """List label images (H, W): the background as one object, then those of each class alone."""
    shown = np.count_nonzero(label, axis=0)
    return [(shown == 0).astype(int), *np.where(shown == 1, label, 0)]


def _inside(area: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mark pixels off the border of their object, and its skeleton, where it is too thin."""
    size = 2 * MARGIN + 1
    free = (area > 0) & (minimum_filter(area, size) == maximum_filter(area, size))
    for thing in regionprops(area):
        free[thing.slice] |= skeletonize(thing.image)
    return free


def _stroke(
    area: NDArray[np.integer], free: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[_Slices, NDArray[np.bool_]]:
    """Find a window, and the pixels to draw on in it."""
    start = np.unravel_index(rng.choice(np.flatnonzero(free)), free.shape)
    near = tuple(slice(max(at - LENGTH, 0), at + LENGTH + 1) for at in start)
    room = free[near] & (area[near] == area[start])
    ways = MCP_Geometric(np.where(room, 1.0, np.inf))
    origin = [at - part.start for at, part in zip(start, near, strict=True)]
    distances, _ = ways.find_costs([origin])
    distances[distances > LENGTH - 1] = -1  # a stroke of two pixels is one long
    end = rng.choice(np.argwhere(distances > distances.max() - 1))
    stroke = np.zeros(room.shape, bool)
    stroke[tuple(np.transpose(ways.traceback(end)))] = True
    return near, stroke


def _image(image: NDArray[np.float32]) -> NDArray[np.float32]:
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.size == 0:
        raise ValueError(
            f"An image must have the shape (channels, height, width), not {image.shape}."
        )
    if not np.isfinite(image).all():
        raise ValueError("The image holds NaN or infinite numbers: fill them before.")
    return image


def _check_scribbles(
    images: Sequence[NDArray[np.float32]], scribbles: Sequence[NDArray[np.integer]]
) -> None:
    if not images or len(images) != len(scribbles):
        raise ValueError(f"Give {len(images)} images, not {len(scribbles)}, their scribbles.")
    for image, drawn in zip(images, scribbles, strict=True):
        if as_labels(drawn).shape != image.shape[1:]:
            raise ValueError(
                f"Scribbles must have their image's size {image.shape[1:]}, not {drawn.shape}."
            )
    found = set(np.concatenate([np.unique(drawn) for drawn in scribbles]).tolist())
    if missing := set(range(1, max(*found, 2) + 1)) - found:
        raise ValueError(
            f"No pixel has the value {min(missing)}: draw on the background (1) and on each class "
            "(2, 3, …)."
        )
