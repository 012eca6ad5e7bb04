"""A pixel classifier: filters of several scales and a random forest, learnt from scribbles.

This is what Ilastik's pixel classification does (Berg et al. 2019, doi 10.1038/s41592-019-0582-9):
a person draws a few strokes on background and objects, and a random forest learns from what
filters say of colour, edges and texture around the pixels drawn on. A classifier takes seconds to
fit and follows from images, scribbles and seed, so there is no file format for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

SIGMAS = (0.3, 0.7, 1.0, 1.6, 3.5, 5.0, 10.0)
"""Scales of the filters, px: our list, after that of Ilastik."""

FINEST = 0.5
"""Scale below which an image is smoothed only, px: a derivative would fall between the pixels."""

TREES = 100
"""Trees of the forest, the default of scikit-learn and, to our knowledge, of Ilastik."""

TILE = 512
"""Side of the tiles in which images are worked on, px."""

BOX = np.ones((3, 3), bool)
"""A pixel with its eight neighbours."""

_Slices = tuple[slice, slice]


def features(image: NDArray[np.float32], sigmas: Sequence[float] = SIGMAS) -> NDArray[np.float32]:
    """Filter an image at several scales.

    Parameters
    ----------
    image : ndarray, float32, (C, H, W)
        Finite values of any range.
    sigmas : sequence of float
        Scales: standard deviations of the Gaussian, px.

    Returns
    -------
    ndarray, float32, (F, H, W)
        By channel, then by scale, these seven: Gaussian smoothing; Laplacian of Gaussian;
        magnitude of the Gaussian gradient; eigenvalues of the structure tensor, larger first;
        eigenvalues of the Hessian of Gaussian, larger first. Scales below ``FINEST`` have the
        first alone. So F is 43 C for the usual scales.

    Raises
    ------
    ValueError
        If the image has another shape or is not finite, or a scale is not above 0.

    Notes
    -----
    Ilastik's documentation names three groups of features: colour or intensity, edge, texture
    (https://www.ilastik.org/documentation/pixelclassification/pixelclassification.html). The list
    of filters within them is ours, after Ilastik's. Its difference of Gaussians is left out: its
    own authors found it to be nearly the Laplacian times a number (github.com/ilastik/ilastik,
    issues 17 and 1948), which tells a tree nothing new. The structure tensor is that of
    scikit-image: gradients of neighbouring pixels, averaged by the Gaussian, so that it also says
    how strong fine texture is in a large neighbourhood.
    ``skimage.feature.multiscale_basic_features`` would be shorter, but lacks the structure tensor,
    takes no list of scales and measures differently at borders. Images are mirrored at their
    borders. The result takes F × H × W × 4 bytes, and as much again while it is put together;
    :func:`fit` and :func:`predict` hold one tile of it at a time.
    """
    image, sigmas = _image(image), _scales(sigmas)
    return np.stack([each for one in image for sigma in sigmas for each in _filters(one, sigma)])


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


def _reach(sigmas: Sequence[float]) -> int:
    """How far the filters see, px: scipy cuts them at 4 σ, gradients see one pixel further."""
    return int(4 * max(sigmas) + 0.5) + 1


@dataclass(frozen=True, eq=False)
class PixelClassifier:
    """What :func:`fit` returns.

    Attributes
    ----------
    forest : RandomForestClassifier
        Of scikit-learn; its ``classes_`` are 1 (background), 2 (class 1) … K + 1.
    sigmas : tuple of float
        Scales of its features, px.
    num_channels : int
        Channels of its images.
    """

    forest: RandomForestClassifier
    sigmas: tuple[float, ...]
    num_channels: int


def fit(
    images: Sequence[NDArray[np.float32]],
    scribbles: Sequence[NDArray[np.integer]],
    seed: int = 0,
    sigmas: Sequence[float] = SIGMAS,
) -> PixelClassifier:
    """Train a random forest on the pixels that are drawn on.

    The forest has ``TREES`` trees and the settings of scikit-learn (Breiman 2001, doi
    10.1023/A:1010933404324), but all classes weigh the same, however many pixels of each are
    drawn on: this says how long somebody drew, not how frequent a class is. The equal weights
    are our choice.

    Parameters
    ----------
    images : sequence of N ndarrays, float32, (C, H, W)
        All with the same C.
    scribbles : sequence of N ndarrays, int, (H, W)
        For each image: 0 where nothing is drawn, 1 on background, 2 on class 1, 3 on class 2 …
        :func:`scribbles` makes such; a mask plus 1 is one that is drawn on everywhere.
    seed : int
        Where the chance of the forest comes from.
    sigmas : sequence of float
        Scales of the :func:`features`, px.

    Returns
    -------
    PixelClassifier
        The classifier of K classes, where K + 1 is the highest number in the scribbles.

    Raises
    ------
    TypeError
        If scribbles are no integers.
    ValueError
        If images and scribbles do not fit together, an image is not finite, or there is no
        scribble on the background or on a class.
    """
    sigmas, images = _scales(sigmas), [_image(image) for image in images]
    _check_scribbles(images, scribbles)
    found, values = [], []
    pairs = list(zip(images, scribbles, strict=True))
    for image, drawn in tqdm(pairs, "Features", unit="image", leave=False, delay=PATIENCE):
        for core, window, inside in _tiles(drawn.shape, _reach(sigmas)):
            if (known := drawn[core] > 0).any():
                found.append(features(image[:, *window], sigmas)[:, *inside][:, known].T)
                values.append(drawn[core][known])
    forest = RandomForestClassifier(TREES, class_weight="balanced", random_state=seed, n_jobs=-1)
    forest.fit(np.concatenate(found), np.concatenate(values))
    return PixelClassifier(forest, sigmas, len(images[0]))


def predict(classifier: PixelClassifier, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the probability of each class for each pixel.

    Large images are worked on in tiles that overlap as far as the filters see, so that the
    result is that of the whole image. (:func:`~micranet_helpers.maps.tiles.over_tiles` blends
    tiles,
    for networks that judge a tile by its centre; here there is nothing to blend.)

    Parameters
    ----------
    classifier : PixelClassifier
        As :func:`fit` returns it.
    image : ndarray, float32, (C, H, W)
        Of any size, scaled as the images of the training.

    Returns
    -------
    ndarray, float32, (K, H, W)
        Shares of the trees in [0, 1], without the background, whose share is 1 less their sum.
        Above 0.5 a class is likelier than all others together. Where there are several classes,
        the likeliest is the largest of these and the background.

    Raises
    ------
    ValueError
        If the image has another shape or other channels, or is not finite.
    """
    image = _image(image)
    if len(image) != classifier.num_channels:
        raise ValueError(
            f"The image has {len(image)} channels, but the classifier was trained on images of "
            f"{classifier.num_channels}."
        )
    num_classes = len(classifier.forest.classes_) - 1
    probabilities = np.empty((num_classes, *image.shape[1:]), np.float32)
    tiles = list(_tiles(image.shape[1:], _reach(classifier.sigmas)))
    for core, window, inside in tqdm(tiles, unit="tile", leave=False, delay=PATIENCE):
        found = features(image[:, *window], classifier.sigmas)[:, *inside]
        shares = classifier.forest.predict_proba(found.reshape(len(found), -1).T)
        probabilities[:, *core] = shares[:, 1:].T.reshape(num_classes, *found.shape[1:])
    return probabilities


def _tiles(shape: tuple[int, int], reach: int) -> Iterator[tuple[_Slices, _Slices, _Slices]]:
    """Tile, the same with what filters see around it, and where the tile lies in that."""
    for spans in product(*(_spans(side, reach) for side in shape)):
        yield tuple(zip(*spans, strict=True))


def _spans(side: int, reach: int) -> Iterator[tuple[slice, slice, slice]]:
    for start in range(0, side, TILE):
        stop, first = min(start + TILE, side), max(start - reach, 0)
        yield slice(start, stop), slice(first, stop + reach), slice(start - first, stop - first)


def scribbles(
    label: NDArray[np.integer],
    strokes: int,
    length: int = 20,
    width: int = 1,
    margin: int = 2,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Draw strokes as a person would who sees the objects: on each class and on the background.

    This simulation is ours. A stroke begins at any pixel of its class, is the shortest way to
    another pixel ``length`` away, bends where the object does, and stays within it. Pixels of
    more than one class are left out.

    Parameters
    ----------
    label : ndarray, int, (K, H, W)
        For each class the objects, numbered from 1, or a mask of 0 and 1.
    strokes : int
        How many strokes each class and the background get, fewer where there is no more room:
        strokes of one class do not touch.
    length : int
        Length of a stroke from end to end, px; shorter where the object is.
    width : int
        Width of a stroke, px, odd; less where it would come too close to the border.
    margin : int
        Pixels left free at the border of an object, but for its middle line (skeleton), which
        can be drawn on however thin the object is. The border of the image counts for none.
    seed : int
        Where chance comes from.

    Returns
    -------
    ndarray, uint8, (H, W)
        0 where nothing is drawn, 1 on background, 2 on class 1, 3 on class 2 …
        The effort can be read off: ``np.count_nonzero(drawn)`` pixels, and, as strokes of one
        class do not touch, ``skimage.measure.label(drawn).max()`` strokes.

    Raises
    ------
    TypeError
        If the label holds no integers.
    ValueError
        If it has another shape, or a number is out of range.
    """
    _check_drawing(label, strokes, length, width, margin)
    rng = np.random.default_rng(seed)
    drawn = np.zeros(label.shape[1:], np.uint8)
    for value, area in enumerate(_areas(label), 1):
        free = _inside(area, margin)
        for _ in range(strokes):
            if not free.any():
                break
            near, stroke = _stroke(area, free, length, width, rng)
            drawn[near][stroke] = value
            free[near] &= ~binary_dilation(stroke, BOX)
    return drawn


def _areas(label: NDArray[np.integer]) -> list[NDArray[np.integer]]:
    """Numbered objects (H, W): the background is one, then those of each class alone."""
    shown = np.count_nonzero(label, axis=0)
    return [(shown == 0).astype(int), *np.where(shown == 1, label, 0)]


def _inside(area: NDArray[np.integer], margin: int) -> NDArray[np.bool_]:
    """Pixels off the border of their object, and its middle line, for where it is too thin."""
    size = 2 * margin + 1
    free = (area > 0) & (minimum_filter(area, size) == maximum_filter(area, size))
    for thing in regionprops(area):
        free[thing.slice] |= skeletonize(thing.image)
    return free


def _stroke(
    area: NDArray[np.integer],
    free: NDArray[np.bool_],
    length: int,
    width: int,
    rng: np.random.Generator,
) -> tuple[_Slices, NDArray[np.bool_]]:
    """Where to draw, and the pixels to draw on there."""
    start = np.unravel_index(rng.choice(np.flatnonzero(free)), free.shape)
    near = tuple(slice(max(at - length - width, 0), at + length + width) for at in start)
    room = free[near] & (area[near] == area[start])
    ways = MCP_Geometric(np.where(room, 1.0, np.inf))
    origin = [at - part.start for at, part in zip(start, near, strict=True)]
    distances, _ = ways.find_costs([origin])
    distances[distances > length - 1] = -1  # a stroke of two pixels is one long
    end = rng.choice(np.argwhere(distances > distances.max() - 1))
    stroke = np.zeros(room.shape, bool)
    stroke[tuple(np.transpose(ways.traceback(end)))] = True
    if width > 1:
        stroke = binary_dilation(stroke, BOX, width // 2, mask=room)
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


def _scales(sigmas: Sequence[float]) -> tuple[float, ...]:
    sigmas = tuple(sigmas)
    if not sigmas or not all(0 < sigma < np.inf for sigma in sigmas):
        raise ValueError(f"Give one or more sigmas above 0 px, not {sigmas}.")
    return sigmas


def _check_scribbles(
    images: Sequence[NDArray[np.float32]], scribbles: Sequence[NDArray[np.integer]]
) -> None:
    if len(images) != len(scribbles) or len({len(image) for image in images}) != 1:
        raise ValueError(
            f"Give each image (C, H, W) its scribbles (H, W), all of one number of channels, not "
            f"{len(images)} images of {sorted({len(image) for image in images})} channels and "
            f"{len(scribbles)} scribbles."
        )
    for image, drawn in zip(images, scribbles, strict=True):
        _check_integer(drawn, "Scribbles")
        if drawn.shape != image.shape[1:]:
            raise ValueError(
                f"Scribbles must have their image's size {image.shape[1:]}, not {drawn.shape}."
            )
        if drawn.min() < 0:
            raise ValueError("Scribbles must not be below 0, which says that nothing is drawn.")
    found = set(np.concatenate([np.unique(drawn) for drawn in scribbles]).tolist())
    if missing := set(range(1, max(*found, 2) + 1)) - found:
        raise ValueError(
            f"No pixel has the value {min(missing)}: draw on the background (1) and on each class "
            "(2, 3, …)."
        )


def _check_drawing(
    label: NDArray[np.integer], strokes: int, length: int, width: int, margin: int
) -> None:
    _check_integer(label, "A label")
    if label.ndim != 3 or label.size == 0:
        raise ValueError(
            f"A label must have the shape (classes, height, width), not {label.shape}: scribbles "
            "need masks, image-level labels are not enough."
        )
    if min(strokes, length, width) < 1 or width % 2 == 0 or margin < 0:
        raise ValueError(
            "Strokes, length and width must be 1 or more, the width odd, the margin 0 or more, "
            f"not {strokes}, {length}, {width} and {margin}."
        )


def _check_integer(array: NDArray[np.integer], what: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        raise TypeError(f"{what} must be an array of integers: give one with .astype(int).")
