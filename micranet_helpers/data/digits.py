"""Canvases of handwritten digits: the modified MNIST of the MICRA-Net paper, made on the spot.

The digits come from scikit-learn (bundled, 1,797 digits) or from MNIST files. They are split
into training, validation and test *before* any canvas is made, so that no digit is shared.
"""

import gzip
import math
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, maximum_filter, zoom
from torch import Tensor
from torch.nn import functional as F

NUM_CLASSES = 10
FIELD = 28  # side of one digit's image, px; the digit itself is 20 px high, as in MNIST
PATCH = 32  # side of a digit after rotation and scaling, px
GLOW = 0.1  # ink that keeps other digits away
INK = 0.25  # a pixel belongs to a digit where it has at least a quarter of the full ink
BACKGROUND = 8.0  # mean of the Poisson background, in grey levels of 255
MAX_TRIES = 200  # random places tried for a digit before it is left out of a full canvas
MOST_BYTES = 2**28  # of an unpacked MNIST file; the largest has 47 MB
CHUNK = 256  # canvases made at once: bounds the memory of the digits' patches


class Digits(NamedTuple):
    """Hold digits: float32 (N, 28, 28) in [0, 1], and their classes, int64 (N,), 0 … 9."""

    images: np.ndarray
    classes: np.ndarray


class Canvases(NamedTuple):
    """Hold canvases, float32 (N, 1, S, S) in [0, 1], with their truth.

    ``labels``, float32 (N, 10), are 1 where a digit is present: all that MICRA-Net is shown. The
    rest is for evaluation only: ``class_map``, uint8 (N, S, S), is 0 in the background and c + 1 on
    digit c; ``counts``, int64 (N, 10), are the digits of each class; ``objects``, int16 (N, S, S),
    number the digits from 1 in each class.
    """

    images: Tensor
    labels: Tensor
    class_map: Tensor
    counts: Tensor
    objects: Tensor


def load(images: Path | str | None = None, labels: Path | str | None = None) -> Digits:
    """Load single digits: scikit-learn's bundled ones, or MNIST from its two files.

    ``images`` and ``labels`` are MNIST's idx files, e.g. ``t10k-images-idx3-ubyte.gz``, packed or
    not (LeCun et al. 1998, doi 10.1109/5.726791). Bundled digits (Alpaydin & Kaynak 1998, doi
    10.24432/C50P49) are enlarged from 8×8 px to MNIST's format, 20 px high in a field of 28. Raises
    ValueError if a file is no idx file, the two do not belong together, or only one is given.
    """
    if (images is None) != (labels is None):
        raise ValueError("Give both of MNIST's files, images and labels, or none.")
    if images is None:
        from sklearn.datasets import load_digits  # takes a second to load

        bundled = load_digits()
        large = zoom(bundled.images / 16, (1, 2.5, 2.5), grid_mode=True, mode="grid-constant")
        # Enlarging leaves edges 5 px wide; twice the contrast makes them those of MNIST.
        strokes = (2 * large - 0.3).clip(0, 1)
        fields = np.pad(strokes, ((0, 0), (4, 4), (4, 4)))
        return Digits(fields.astype(np.float32), bundled.target.astype(np.int64))
    pixels, classes = _read_idx(Path(images), 3), _read_idx(Path(labels), 1)
    if pixels.shape != (len(classes), FIELD, FIELD) or classes.max(initial=0) >= NUM_CLASSES:
        raise ValueError(f"{images} and {labels} do not belong together: they are no MNIST pair.")
    return Digits(pixels.astype(np.float32) / 255, classes.astype(np.int64))


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read bytes with their dimensions from an idx file, packed or not."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            data = file.read(MOST_BYTES)  # a small packed file may unpack to any size
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no complete gzip file: download it again.") from error
    head = 4 + 4 * ndim
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, head, 4))
    # The magic number says: unsigned bytes, ndim dimensions.
    if data[:4] != bytes([0, 0, 8, ndim]) or len(data) != head + math.prod(shape):
        raise ValueError(f"{path} is no idx file of {ndim} dimensions: download it again.")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def split(digits: Digits, seed: int = 0) -> tuple[Digits, Digits, Digits]:
    """Split digits, not canvases, into training, validation and test (70, 15, 15 %).

    No digit is in two of them; the share of each class is kept. ``seed`` says which split.
    """
    from sklearn.model_selection import train_test_split

    ids, classes = np.arange(len(digits.classes)), digits.classes
    train, rest = train_test_split(ids, test_size=0.3, stratify=classes, random_state=seed)
    validation, test = train_test_split(
        rest, test_size=0.5, stratify=classes[rest], random_state=seed
    )
    return tuple(Digits(digits.images[i], classes[i]) for i in (train, validation, test))


def make_canvases(
    digits: Digits, num_canvases: int, side: int = 64, num_digits: tuple[int, int] = (0, 3),
    margin: int = 0, seed: int = 0,
) -> Canvases:  # fmt: skip
    """Scatter digits, drawn with replacement, on N noisy, blurred canvases of S × S px.

    Digits are turned by up to 15°, 20 to 24 px high, and none touches another. Poisson noise (mean
    8 of 255) and a Gaussian blur of 0.8 to 2 px follow in random order. That recipe was read off
    five sample images of the paper's authors; it is not their statement. A slant of up to a quarter
    is our addition: it makes more handwriting of a thousand digits. A digit that finds no free
    place in 200 tries is left out; the truth holds what is really there.

    ``side`` S is a multiple of 8; ``num_digits`` are the fewest and most digits on a canvas,
    ``margin`` the pixels at its border that stay free of ink. Raises ValueError if the side is no
    multiple of 8, a digit has no room, or the numbers make no range.
    """
    if side % 8 or not 0 <= 2 * margin <= side - PATCH:
        raise ValueError(
            f"The canvas side must be a multiple of 8 with room for {PATCH} px and two margins of "
            f"0 px or more, not {side} px with margins of {margin} px."
        )
    if num_canvases < 1 or not 0 <= num_digits[0] <= num_digits[1]:
        raise ValueError(
            f"Ask for at least one canvas with 0 <= fewest <= most digits, "
            f"not {num_canvases} canvases with {num_digits}."
        )
    rng = np.random.default_rng(seed)
    chunks = [
        _make_chunk(digits, min(CHUNK, num_canvases - start), side, num_digits, margin, rng)
        for start in range(0, num_canvases, CHUNK)
    ]
    arrays = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    images, class_map, counts, objects = map(torch.from_numpy, arrays)
    return Canvases(images[:, None], (counts > 0).float(), class_map, counts, objects)


def class_masks(class_map: Tensor) -> Tensor:
    """Turn a class map (N, S, S) uint8 into one bool mask per class (N, 10, S, S)."""
    values = torch.arange(1, NUM_CLASSES + 1, dtype=torch.uint8, device=class_map.device)
    return class_map[:, None] == values[:, None, None]


def _make_chunk(digits, num_canvases, side, num_digits, margin, rng):
    """Make images, class maps, counts and objects of a few canvases, as arrays."""
    numbers = rng.integers(*num_digits, num_canvases, endpoint=True)
    drawn = rng.integers(len(digits.classes), size=numbers.sum())
    patches = _turn_and_scale(digits.images[drawn], rng)
    images = np.zeros((num_canvases, side, side), np.float32)
    class_map = np.zeros((num_canvases, side, side), np.uint8)
    objects = np.zeros((num_canvases, side, side), np.int16)
    counts = np.zeros((num_canvases, NUM_CLASSES), np.int64)
    canvas_of = np.repeat(np.arange(num_canvases), numbers)
    # Where a digit glows, and one pixel around, no other may: neighbours never touch.
    reaches = maximum_filter(patches, (1, 3, 3)) > GLOW
    for canvas, patch, reach, cls in zip(
        canvas_of, patches, reaches, digits.classes[drawn], strict=True
    ):
        if found := _place(images[canvas], patch, reach, margin, rng):
            place, ink = found
            counts[canvas, cls] += 1
            class_map[canvas][place][ink] = cls + 1
            objects[canvas][place][ink] = counts[canvas, cls]
    noise = _poisson_table()[rng.integers(0, 2**16, images.shape, dtype=np.uint16)]
    for i, sigma in enumerate(rng.uniform(0.8, 2, num_canvases)):
        blurred_noise = rng.random() < 0.5
        canvas = images[i] + noise[i] if blurred_noise else images[i]
        canvas = gaussian_filter(canvas, sigma, truncate=3)
        images[i] = canvas if blurred_noise else canvas + noise[i]
    return images.clip(0, 1, out=images), class_map, counts, objects


def _turn_and_scale(fields: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn, slant and enlarge digits (M, 28, 28) at random: (M, 32, 32) patches."""
    if len(fields) == 0:
        return np.zeros((0, PATCH, PATCH), np.float32)
    angle, slant = rng.uniform(-1, 1, (2, len(fields))) * [[np.radians(15)], [0.25]]
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(len(fields))
    theta = np.stack([cos, cos * slant - sin, zero, sin, sin * slant + cos, zero], 1)
    theta *= PATCH / FIELD / rng.uniform(1, 1.2, (len(fields), 1))
    theta = torch.from_numpy(theta.reshape(-1, 2, 3).astype(np.float32))
    grid = F.affine_grid(theta, (len(fields), 1, PATCH, PATCH), align_corners=False)
    return F.grid_sample(torch.from_numpy(fields)[:, None], grid, align_corners=False)[:, 0].numpy()


def _place(image, patch, reach, margin, rng):
    """Add a patch where it reaches no other digit; its place and ink, if there is one."""
    if not (patch >= INK).any():
        return None
    rows, columns = np.flatnonzero(reach.any(1)), np.flatnonzero(reach.any(0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    patch, reach = patch[box], reach[box]
    height, width = patch.shape
    room = len(image) - 2 * margin
    ys = rng.integers(margin, margin + room - height + 1, MAX_TRIES)
    xs = rng.integers(margin, margin + room - width + 1, MAX_TRIES)
    for y, x in zip(ys.tolist(), xs.tolist(), strict=True):
        place = (slice(y, y + height), slice(x, x + width))
        if not (image[place][reach] > GLOW).any():
            image[place] = np.maximum(image[place], patch)
            return place, patch >= INK
    return None


@cache
def _poisson_table() -> np.ndarray:
    """Tabulate quantiles of the background noise in [0, 1], to be looked up by 16 random bits."""
    from scipy.stats import poisson

    quantiles = (np.arange(2**16) + 0.5) / 2**16
    return (poisson.ppf(quantiles, BACKGROUND) / 255).astype(np.float32)
