"""Self-training: make masks to learn from of image-level labels and the classifier's own scores.

No label of a pixel is used. In a crop labelled "absent" no pixel shows the class; elsewhere, a
pixel of high score is taken to show it. Between, the target is unknown, and nothing is learnt.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes, gaussian_filter
from skimage.filters import threshold_li
from skimage.morphology import disk
from torch import Tensor
from torch.utils.data import Dataset

from micranet_helpers.data import ctc, dataset
from micranet_helpers.data.crops import CropDataset, toned, turned
from micranet_helpers.data.dataset import Sample
from micranet_helpers.maps.segmentation import pixel_scores
from micranet_helpers.networks import MICRANet, UNet
from micranet_helpers.networks.precision import autocast, best_device
from micranet_helpers.train import fit

HIGHEST = 0.01
"""Share of the pixels not known to lack a class that :func:`level` falls back on."""


def of_split(
    model: MICRANet | UNet, path: str | Path, crops: CropDataset,
    guide: Callable[[dataset.Sample, NDArray], NDArray] | None = None, ring: int = 0,
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:  # fmt: skip
    """Make the images and targets of self-training for a whole split of a dataset, in memory.

    Pixels with :func:`~micranet_helpers.maps.cam.evidence` below 0, where the classifier itself
    says no, are background; the class begins at :func:`level`. The scores of a U-Net that learnt
    this way can be the evidence of the next round.

    The network was trained on crops of the dataset at ``path``; ``crops`` are of one of its
    splits, with their labels: the closer they lie, the more is known. A ``guide``, e.g.
    :func:`guided`, is a function of a Sample and its scores (K, H, W) that improves these by the
    content of the image; ``ring`` is that of :func:`targets`, or 0 if it would leave no object of a
    class. Images and targets are lists of float32 (C, H, W) and (K, H, W). Raises FileNotFoundError
    or ValueError if the file is missing or damaged, a class is absent from no crop, or an image is
    smaller than half a tile.
    """
    samples = list(dataset.read(path, crops.split))
    images = [sample.pixels for sample in samples]
    with autocast():
        scores = [pixel_scores([model], image) for image in images]
    if guide is not None:
        scores = [guide(*pair) for pair in zip(samples, scores, strict=True)]
    without = absent(crops, [image.shape[1:] for image in images])
    high = level(scores, without)
    for width in dict.fromkeys((ring, 0)):
        made = [targets(*pair, np.minimum(high, 0), high, ring=width)
                for pair in zip(scores, without, strict=True)]  # fmt: skip
        if np.any([(each == 1).any((1, 2)) for each in made], 0).all():
            break  # else all objects of a class lie within their rings
    return images, made


def absent(crops: CropDataset, shapes: ArrayLike) -> list[NDArray[np.bool_]]:
    """Find the pixels that lie in a crop whose label says that a class is absent.

    ``shapes``, (N, 2), are height and width of each image of the split, px. The N results, bool
    (K, H, W), are True where the class is known to be absent. All crops count, also those that the
    dataset's ``ratio`` leaves out; crops that its rule drops have no label. Where the rule has a
    ``positive_share`` above 0, "absent" allows for a little of the class, here too.
    """
    positions, labels = crops.every
    without = labels.numpy() == 0
    known = [np.zeros((without.shape[1], *shape), bool) for shape in np.asarray(shapes).tolist()]
    for (image, top, left), none in zip(positions.tolist(), without, strict=True):
        known[image][none, top : top + crops.side, left : left + crops.side] = True
    return known


def level(
    scores: Sequence[NDArray[np.floating]], absent: Sequence[NDArray[np.bool_]],
    error: float = 0.05,
) -> NDArray[np.float64]:  # fmt: skip
    """Find the lowest score above which few pixels are expected to lack the class: float64 (K,).

    No mask is needed: if one in a thousand pixels known to lack the class is above a threshold, so
    is about one in a thousand of the other pixels that lack it. These are at most all other pixels;
    their share among the other pixels above the threshold is the *error*, a false discovery rate
    (Storey 2002, doi 10.1111/1467-9868.00346). If the classifier has learnt so little that no
    threshold keeps to the error, one in a hundred of the other pixels is above.

    ``scores``, N arrays (K, H, W), are logits, ``absent`` is that of :func:`absent`; ``error`` is
    the largest share of mistakes. Raises ValueError if it is not above 0 and at most 1, or a class
    is absent nowhere.
    """
    if not 0 < error <= 1:
        raise ValueError(f"The error must be above 0 and at most 1 (5 % is 0.05), not {error}.")
    return np.array([_level_of_class(k, scores, absent, error) for k in range(len(scores[0]))])


def _level_of_class(k: int, scores: Sequence, absent: Sequence, error: float) -> float:
    pairs = [(score[k], none[k]) for score, none in zip(scores, absent, strict=True)]
    without = np.sort(np.concatenate([score[none] for score, none in pairs]))
    others = np.sort(np.concatenate([score[~none] for score, none in pairs]))
    if without.size == 0:
        raise ValueError(
            f"Class {k} is absent from no crop: add images that do not show it, or set a threshold "
            "by hand."
        )
    if others.size == 0:
        return 0.0
    possible = np.unique(np.append(without[without > 0], 0))  # between these the error only grows
    above = others.size - np.searchsorted(others, possible, "right")
    mistakes = 1 - np.searchsorted(without, possible, "right") / without.size
    kept = possible[(above > 0) & (mistakes * others.size <= error * above)]
    return float(kept[0] if kept.size else np.quantile(others, 1 - HIGHEST, method="lower"))


BEST = 0.1
"""Share of a box in which a class is seen whose pixels of highest score are taken to show it."""


def targets(
    scores: NDArray[np.floating], absent: NDArray[np.bool_], low: ArrayLike, high: ArrayLike,
    shown: Sequence[tuple[int, slice, slice]] = (), ring: int = 0,
) -> NDArray[np.float32]:  # fmt: skip
    """Make masks (K, H, W) that a network learns from, float32, with NaN where nothing is known.

    They are 0 where the class is ``absent`` (see :func:`absent`) or the score is below ``low``, and
    1 where it is above ``high``, with holes filled. Pixels known to lack the class are never 1.
    ``low`` and ``high`` are one value or (K,); ValueError is raised if ``low`` is above ``high``.
    ``shown`` are boxes, of a class, rows and columns, that show it: of what may be the class there,
    the highest scores, :data:`BEST` of the box, count as above ``high``. At most ``ring`` px from
    an outline nothing is known but what is absent.
    """
    low, high = (np.reshape(limit, (-1, 1, 1)) for limit in (low, high))
    if not (low <= high).all():
        raise ValueError("The low score must not be above the high one: exchange them.")
    objects = scores > high
    for box in shown:
        inside = np.where(absent[box], -np.inf, scores[box])
        objects[box] |= inside > np.quantile(inside, 1 - BEST, method="lower")
    objects &= ~absent
    filled = np.stack([binary_fill_holes(plane) for plane in objects]) & ~absent
    made = np.where(absent | (scores < low), np.float32(0), np.float32(np.nan))
    made[filled] = 1
    if ring:
        around = disk(ring)[None]
        near = binary_dilation(filled, around) & ~binary_erosion(filled, around, border_value=1)
        made[near & ~absent] = np.nan
    return made


class PixelCrops(Dataset):
    """Draw random crops of images with their masks, for :func:`~micranet_helpers.train.run.fit`.

    Crops of even numbers hold a random pixel of a random class, so that rare classes are seen; the
    others hold any pixel of which something is known. A crop depends on seed, epoch and its number
    alone, so workers and interruptions change nothing.

    ``images`` are N arrays, float32 (C, H, W); ``targets`` N arrays, float32 (K, H, W), as of
    :func:`targets`. An epoch has ``num_crops`` crops of ``side`` px; smaller images are mirrored at
    their far borders, with unknown targets. ``augment`` changes crops as
    :func:`~micranet_helpers.data.crops.augmented` does. ``labels``, float32 (N, K), is 1 where an
    image has a pixel of the class.
    """

    _most = 1  # highest target

    def __init__(
        self, images: Sequence[NDArray[np.float32]], targets: Sequence[NDArray[np.float32]],
        side: int, num_crops: int, seed: int = 0, augment: bool = True,
    ) -> None:  # fmt: skip
        sizes = [[array.shape[1:] for array in arrays] for arrays in (images, targets)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                "Images and targets differ in number or size: give each image (C, H, W) its "
                "target (K, H, W)."
            )
        if side < 1 or num_crops < 1:
            raise ValueError(f"Side and number of crops must be 1 or more: {side}, {num_crops}.")
        counts = np.array([np.count_nonzero(target > 0, axis=(1, 2)) for target in targets])
        self.labels = torch.from_numpy((counts > 0).astype(np.float32))
        known = [np.count_nonzero(_known(target)) for target in targets]
        if not any(known):
            raise ValueError("Nothing is known of any pixel: all targets are NaN.")
        self._counts = np.column_stack([counts, known])  # of each class's pixels, of known pixels
        self._images, self._targets, self._side = images, targets, side
        self._num_crops, self._seed, self._augment, self._epoch = num_crops, seed, augment, 0

    def __len__(self) -> int:
        return self._num_crops

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """Draw a crop, float32 (C, side, side), and its targets, float32 (K, side, side)."""
        i = range(len(self))[i]
        rng = np.random.default_rng([self._seed, self._epoch, i])
        number, place = self._pixel(rng, of_class=i % 2 == 0 and bool(self.labels.any()))
        image, target = self._images[number], self._targets[number]
        window = tuple(
            slice(start := _start(rng, at, self._side, length), start + self._side)
            for at, length in zip(place, image.shape[1:], strict=True)
        )
        image, target = image[:, *window], target[:, *window]
        far = [(0, 0), *((0, self._side - length) for length in image.shape[1:])]
        image = np.pad(image, far, mode="reflect")
        target = np.pad(target, far, constant_values=np.nan)
        if self._augment:
            both = turned(np.concatenate([image, target]), rng)
            image, target = toned(both[: len(image)], rng), both[len(image) :]
        return torch.from_numpy(image), torch.from_numpy(target)

    def content(self) -> Iterator[NDArray[Any]]:
        """Yield what defines the crops; a ValueError names what cannot be learnt from."""
        yield str((self._side, self._seed, self._augment))
        for number, (image, target) in enumerate(zip(self._images, self._targets, strict=True)):
            if not np.isfinite(image).all() or (target < 0).any() or (target > self._most).any():
                raise ValueError(
                    f"Image {number} is not finite, or its targets are not 0 to {self._most} or "
                    "NaN (unknown): divide masks of 255 by 255."
                )
            yield from (image, target)

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops from now on; :func:`micranet_helpers.train.run.fit` calls this."""
        self._epoch = epoch

    def _pixel(self, rng: np.random.Generator, of_class: bool) -> tuple[int, tuple[int, int]]:
        """Draw an image and a pixel in it, each pixel of its kind as likely as any other."""
        kind = rng.choice(self._counts[:, :-1].any(0).nonzero()[0]) if of_class else -1
        counts = self._counts[:, kind]
        number = rng.choice(len(counts), p=counts / counts.sum())
        nth = rng.integers(counts[number])
        target = self._targets[number]
        flat = nth
        if counts[number] < target[0].size:  # else all pixels are of the kind
            flat = np.flatnonzero(target[kind] > 0 if of_class else _known(target))[nth]
        row, column = np.unravel_index(flat, target.shape[1:])
        return int(number), (int(row), int(column))


def _known(target: NDArray) -> NDArray[np.bool_]:
    """Mark the pixels of a target, (K, H, W), of which something is known: (H, W)."""
    return ~np.isnan(target).all(0)


def _start(rng: np.random.Generator, at: int, side: int, length: int) -> int:
    """Draw where a crop that holds the pixel ``at`` begins, inside the image if it fits."""
    return int(rng.integers(max(0, at - side + 1), max(0, min(at, length - side)) + 1))


Painted = tuple[Sequence[NDArray], Sequence[NDArray]]
"""Images (C, H, W) and targets (K, H, W), e.g. of a split."""


def fit_student(
    train: Painted, validation: Painted, side: int, num_crops: int, folder: str | Path,
    epochs: int, seed: int = 0, batch_size: int = 16, num_checked: int | None = None,
    start: UNet | None = None,
) -> UNet:  # fmt: skip
    """Train a U-Net on painted images: pseudo-labels, or masks for a comparison.

    Images and targets are float32, (C, H, W) and (K, H, W), as of :func:`of_split`. An epoch has
    ``num_crops`` training crops, ``side`` px wide, a multiple of 16; ``num_checked``, by default an
    eighth of them, are validated on; the network begins with the weights of ``start``, or random
    ones. The rest is as for :func:`micranet_helpers.train.run.fit`; a short training gains from
    small batches. The network is in evaluation mode, on the GPU if there is one.
    """
    paint = PixelCrops(*train, side, num_crops, seed)
    check = PixelCrops(*validation, side, num_checked or max(num_crops // 8, 1), seed, False)
    unet = fit(
        paint, check, folder, epochs, batch_size=batch_size, learning_rate=3e-3, network="UNet",
        seed=seed, start=start,
    )  # fmt: skip
    return unet.to(best_device())


def rises(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Compute the logarithm of the difference of two Gaussians of 1.5 and 20 px."""
    local = gaussian_filter(image, 1.5) - gaussian_filter(image, 20)
    return np.log(np.maximum(local, 0) + 0.01)


def varies(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Compute the logarithm of the standard deviation under a Gaussian of 1.5 px."""
    variance = gaussian_filter(image**2, 1.5) - gaussian_filter(image, 1.5) ** 2
    return np.log(np.sqrt(np.maximum(variance, 0)) + 0.001)


LOOKS: dict[str, Callable[[NDArray], NDArray]] = {
    "Fluo-N2DL-HeLa": rises, "PhC-C2DL-PSC": rises, "Usiigaci": varies,
}  # fmt: skip
"""Features that separate the cells of a line from the ground."""

GROUND = {"Fluo-N2DL-HeLa": -10.0, "PhC-C2DL-PSC": 0.0, "Usiigaci": 0.0}
"""Highest evidence, a logit, for a cell where the image shows none: nuclei shine, so there is no
cell; in phase contrast parts of a cell look like the ground, so there may be one."""


def guided(
    sample: Sample, score: NDArray[np.floating], lines: Sequence[str] = ctc.DRAWN
) -> NDArray[np.floating]:
    """Keep the evidence for cells where the image shows something; elsewhere cut it at the ground.

    The image is the first channel of a frame, divided by the threshold of Li & Lee 1993, doi
    10.1016/0031-3203(93)90115-D; the ground is that of :data:`GROUND`. ``score``, float
    (2 L, H, W), is the evidence of L lines, cell and contact in turn, ``lines`` are their names,
    some of :data:`LOOKS`. The result is a copy; contacts are unchanged.
    """
    score = score.copy()
    for k, line in enumerate(lines):
        look = LOOKS[line](sample.pixels[0])
        ground = look <= threshold_li(look)
        score[2 * k][ground] = np.minimum(score[2 * k][ground], GROUND[line])
    return score
