"""Canvases of handwritten digits as a dataset file, from MNIST or scikit-learn's bundled digits.

The canvases are those of :mod:`micranet_helpers.data.digits`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.measure import label as components
from skimage.segmentation import relabel_sequential

from micranet_helpers.data import dataset, digits
from micranet_helpers.data.crops import Rule
from micranet_helpers.data.dataset import SPLITS, About, Sample
from micranet_helpers.data.digits import Digits
from micranet_helpers.data.fetch.download import fetch
from micranet_helpers.data.fetch.registry import items
from micranet_helpers.data.simulated.splits import shares

CLASSES = tuple(map(str, range(digits.NUM_CLASSES)))
"""Planes of the label: the digits."""

RULE = Rule(CLASSES, visible_share=0.5)
"""A digit is present if at least half of its ink is in the crop."""

NUM_DIGITS = (4, 60)
"""Fewest and most digits on 256 × 256 px, as counted on samples of the MICRA-Net paper."""

BUNDLED = "Alpaydin & Kaynak 1998, doi 10.24432/C50P49, bundled with scikit-learn"

BATCH = 16
"""Canvases drawn at once."""


def simulate(
    n: int, size: int, seed: int = 0, num_digits: tuple[int, int] = NUM_DIGITS
) -> list[Sample]:
    """Draw canvases of scikit-learn's bundled digits.

    Parameters
    ----------
    n : int
        Number of canvases.
    size : int
        Side, px; a multiple of 8.
    seed : int
        The same seed and n give the same canvases.
    num_digits : (int, int)
        Fewest and most digits on 256 × 256 px; on other sizes as many for each pixel.

    Returns
    -------
    list of Sample
        Image uint16 (1, size, size), shown to the network as 0 to 1; label uint8 (10, size, size)
        with numbered digits.

    Raises
    ------
    ValueError
        If size or num_digits makes no canvas.
    """
    return list(_canvases(digits.load(), n, size, num_digits, seed, 0))


def read(images: str | Path, labels: str | Path) -> Iterator[Sample]:
    """Read single digits from a pair of MNIST's files.

    Parameters
    ----------
    images, labels : path
        The idx files, e.g. ``t10k-images-idx3-ubyte.gz``, packed or not.

    Yields
    ------
    Sample
        Image uint8 (1, 28, 28), shown to the network as 0 to 1; label uint8 (10,), 1 for its class.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged, or the two do not belong together.
    """
    single = digits.load(images, labels)
    for number, (ink, kind) in enumerate(zip(single.images, single.classes, strict=True)):
        image = np.rint(255 * ink[None]).astype(np.uint8)
        label = (np.arange(digits.NUM_CLASSES) == kind).astype(np.uint8)
        yield Sample(f"{Path(images).name}-{number}", image, label, factor=1 / 255)


def build(
    path: str | Path, source: str = "simulated", *, subset: str | None = None,
    num_images: int = 1000, size: int = 256, num_digits: tuple[int, int] = NUM_DIGITS,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Write a dataset of canvases with the splits training, validation and testing.

    The digits are split 70, 15, 15 % before any canvas is drawn, so no digit is in two splits;
    the canvases are shared out likewise. MNIST's own split of the digits is not used, and the same
    writers are in all splits: the test says nothing of other hands.

    Parameters
    ----------
    path : path
        The new file.
    source : str
        ``"simulated"``: scikit-learn's bundled 1,797 digits; ``"open"``: MNIST.
    subset : str, optional
        ``"test"`` draws from MNIST's 10,000 test digits only; by default all 70,000 are used.
    num_images : int
        Number of canvases, at least 3.
    size, num_digits, seed : int, (int, int), int
        See :func:`simulate`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If there is no such source or subset, or a file is damaged.
    OSError
        If the download fails or the disk is full.
    """
    counts = shares(num_images)
    if source == "simulated":
        single, text, licence = digits.load(), BUNDLED, "CC BY 4.0"
    elif source == "open":
        single = _mnist(fetch("mnist", subset))
        text, licence = items()["mnist"].citation, items()["mnist"].licence
    else:
        raise ValueError(
            f"There is no source {source!r}: take 'simulated' or 'open'. The canvases of the "
            "MICRA-Net paper ('original') were never published."
        )
    parts = [
        _canvases(part, count, size, num_digits, seed, number)
        for number, (part, count) in enumerate(zip(digits.split(single, seed), counts, strict=True))
    ]
    splits = dict(zip(SPLITS, parts, strict=True))
    return dataset.write(path, splits, About(CLASSES, text, licence))


def _mnist(files: list[Path]) -> Digits:
    """Join the pairs of images and labels."""
    images, labels = ([path for path in sorted(files) if kind in path.name]
                      for kind in ("images", "labels"))  # fmt: skip
    pairs = map(digits.load, images, labels)
    return Digits(*map(np.concatenate, zip(*pairs, strict=True)))


def _canvases(
    single: Digits, count: int, size: int, num_digits: tuple[int, int], seed: int, part: int
) -> Iterator[Sample]:
    # On few pixels the fewest may be none; a batch at a time bounds the memory.
    least, most = (round(number * (size / 256) ** 2) for number in num_digits)
    for start in range(0, count, BATCH):
        own_seed = int(np.random.SeedSequence([seed, part, start]).generate_state(1)[0])
        drawn = digits.make_canvases(
            single, min(BATCH, count - start), size, (least, max(1, most)), seed=own_seed
        )
        masks = digits.class_masks(drawn.class_map).numpy()
        for number, image in enumerate(drawn.images.numpy()):
            label = np.stack(list(map(_numbered, masks[number], drawn.counts[number].tolist())))
            # 16 bits: 8 would be as coarse as the noise of a blurred canvas.
            image = np.rint(65535 * image).astype(np.uint16)
            name = f"canvas-{seed}-{part}-{start + number}"
            yield Sample(name, image, label.astype(np.uint8), factor=1 / 65535)


def _numbered(mask: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Number the digits of a class: they never touch, but a stroke may be broken."""
    numbers = components(mask, connectivity=2)
    while numbers.max() > count:
        piece = numbers == np.bincount(numbers.ravel())[1:].argmin() + 1
        rest = np.where(piece, 0, numbers)
        distance, nearest = distance_transform_edt(rest == 0, return_indices=True)
        closest = np.where(piece, distance, np.inf).argmin()
        numbers[piece] = rest[tuple(nearest.reshape(2, -1)[:, closest])]
        numbers = relabel_sequential(numbers)[0]
    return numbers
