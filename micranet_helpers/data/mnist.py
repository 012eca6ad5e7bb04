"""Canvases of handwritten digits as a dataset file, from MNIST or scikit-learn's bundled digits.

The canvases are those of :mod:`micranet_helpers.data.digits`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from micranet_helpers.data import digits, sources
from micranet_helpers.data.crops import Rule
from micranet_helpers.data.dataset import SPLITS, About, Sample
from micranet_helpers.data.digits import Digits
from micranet_helpers.data.fetch.download import fetch

CLASSES = tuple(map(str, range(digits.NUM_CLASSES)))
"""Planes of the label: the digits."""

RULE = Rule(CLASSES, visible_share=0.5)
"""A digit is present if at least half of its ink is in the crop."""

NUM_DIGITS = (4, 60)
"""Fewest and most digits on 256 × 256 px, as counted on samples of the MICRA-Net paper; on other
sizes as many for each pixel."""

BUNDLED = "Alpaydin & Kaynak 1998, doi 10.24432/C50P49, bundled with scikit-learn"
BATCH = 16  # canvases drawn at once


def simulate(n: int, size: int, seed: int = 0) -> list[Sample]:
    """Draw n canvases of scikit-learn's bundled digits, of a side that is a multiple of 8 px.

    Images are uint16 (1, size, size), shown to the network as 0 to 1; labels uint16 (10, size,
    size) with numbered digits.
    """
    return list(_canvases(digits.load(), n, size, seed, 0))


def build(
    path: str | Path, source: str = "simulated", *, subset: str | None = None,
    num_images: int = 1000, size: int = 256, seed: int = 0,
) -> Path:  # fmt: skip
    """Write a dataset of canvases, with the splits training, validation and testing.

    The digits are split 70, 15, 15 % before any canvas is drawn, so no digit is in two splits;
    the canvases are shared out likewise. MNIST's own split of the digits is not used, and the same
    writers are in all splits: the test says nothing of other hands.

    ``source`` is ``"simulated"``, scikit-learn's bundled 1,797 digits, or ``"open"``, MNIST; its
    subset ``"test"`` draws from the 10,000 test digits only. The rest, and the errors, are as for
    :func:`micranet_helpers.data.em.build`; canvases of MNIST's digits are drawn, too.
    """
    counts = sources.shares(num_images)

    def made(single: Digits, about: About) -> sources.Made:
        parts = zip(SPLITS, digits.split(single, seed), counts, strict=True)
        return {
            split: _canvases(part, count, size, seed, number)
            for number, (split, part, count) in enumerate(parts)
        }, about

    return sources.write(path, source, {
        "simulated": lambda: made(digits.load(), About(CLASSES, BUNDLED, "CC BY 4.0")),
        "open": lambda: made(_mnist(fetch("mnist", subset)), sources.cited(CLASSES, "mnist")),
    }, "; the canvases of the MICRA-Net paper were never published")  # fmt: skip


def _mnist(files: list[Path]) -> Digits:
    """Join the pairs of images and labels."""
    images, labels = ([path for path in sorted(files) if kind in path.name]
                      for kind in ("images", "labels"))  # fmt: skip
    pairs = map(digits.load, images, labels)
    return Digits(*map(np.concatenate, zip(*pairs, strict=True)))


def _canvases(
    single: Digits, count: int, size: int, seed: int, part: int
) -> Iterator[Sample]:
    # On few pixels the fewest may be none; a batch at a time bounds the memory.
    least, most = (round(number * (size / 256) ** 2) for number in NUM_DIGITS)
    for start in range(0, count, BATCH):
        own_seed = int(np.random.SeedSequence([seed, part, start]).generate_state(1)[0])
        drawn = digits.make_canvases(
            single, min(BATCH, count - start), size, (least, max(1, most)), seed=own_seed
        )
        masks = digits.class_masks(drawn.class_map).numpy()
        labels = masks * drawn.objects.numpy().astype(np.uint16)[:, None]
        for number, (image, label) in enumerate(zip(drawn.images.numpy(), labels, strict=True)):
            # 16 bits: 8 would be as coarse as the noise of a blurred canvas.
            image = np.rint(65535 * image).astype(np.uint16)
            yield Sample(f"canvas-{seed}-{part}-{start + number}", image, label, factor=1 / 65535)
