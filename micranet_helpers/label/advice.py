"""Advise on the size of crops, the share of positives, and whether a network is needed at all.

Objects fill a third of a crop, within the quarter to a half that was best where measured
(``benchmarks/fill.py``), and three steps of map 4b, 24 px, or more (measured: nuclei of 12 px,
enlarged by 2, gained 0.15 to 0.2 in F1).
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from micranet_helpers import metrics
from micranet_helpers.data.own import Survey
from micranet_helpers.maps.thresholds import otsu

LEAST_ANSWERS = 5  # of each kind, to judge a threshold that is chosen by them
LEAST, MOST = 24, 64  # px, width of an object that needs no change of size


def for_size(object_px: float, fill: float = 1 / 3) -> tuple[int, float, str]:
    """Choose the side of a crop for objects of a width, px, of which they fill a share.

    Returns the side, px of the image; the magnification, a power of 2, that makes it a multiple of
    8 px; and both as a sentence. Raises ValueError for a width below 2 px.
    """
    if not 2 <= object_px < np.inf:
        raise ValueError(f"An object is 2 px wide or more, not {object_px:g}: click on its ends.")
    larger, smaller = np.ceil(np.log2(LEAST / object_px)), np.floor(np.log2(MOST / object_px))
    times = float(2 ** (max(larger, 0) + min(smaller, 0)))
    side = round(max(round(object_px / fill * times / 8), 1) * 8 / times)
    enlarged = "" if times == 1 else f", magnified × {times:g} for the network"
    return side, times, f"Objects of {object_px:.0f} px: take crops of {side} px{enlarged}."


def object_px(found: Survey) -> float | None:
    """Measure the median diameter of a disc as large as each object that labels outline, px.

    None if they outline none. Labels of a survey are made again, one image after the other.
    """
    areas: list[int] = []
    for item in found.labelled:
        label, _ = found.annotations.images[item.key](*item.shape[1:])
        for plane in label if label.ndim == 3 else ():
            areas += np.unique(plane[plane > 0], return_counts=True)[1].tolist()
    return float(np.median(np.sqrt(4 / np.pi * np.array(areas)))) if areas else None


def on_share(shown: NDArray[np.bool_]) -> str:
    """Advise where so many, or so few, crops are positive that they teach little; else ""."""
    if len(shown) < 20 or 0.05 <= shown.mean() <= 0.8:
        return ""
    then = "smaller ones" if shown.mean() > 0.5 else "larger ones, or other images"
    return f"{shown.mean():.0%} of these crops are positive: take {then}. "


def on_labels(images: Mapping[str, NDArray], labels: Mapping[str, NDArray], side: int) -> str:
    """Say what labels of crops tell about their size, and about a threshold without a network.

    ``images``, (C, H, W), and ``labels``, (rows, columns) of 0, 1 and NaN, are by file name. Otsu's
    threshold of an image's first channel is judged by the labels: a crop is positive by the share
    of its pixels above the threshold, or below; the least share is chosen on the same crops.
    """
    shares, shown = [], []
    for file, grid in labels.items():
        mask = otsu(torch.as_tensor(images[file][:1], dtype=torch.float32))[0].numpy()
        for row, column in np.argwhere(~np.isnan(grid)):
            shares.append(mask[row * side :, column * side :][:side, :side].mean())
            shown.append(grid[row, column] > 0)
    bright, shown = np.array(shares), np.array(shown)
    text, few = on_share(shown), min(shown.sum(), (~shown).sum())
    if few < LEAST_ANSWERS:
        return f"{text}Too few answers to judge a threshold: {few} crops of the rarer kind."
    f1, right, kind = max(
        (metrics.dice(said, shown), (~said)[~shown].mean(), kind)
        for kind, score in {"bright": bright, "dark": -bright}.items()
        for said in [score >= metrics.best_threshold(score, shown)])  # fmt: skip
    # Where nearly all is yes, always yes has a high F1.
    enough = f1 >= 0.9 and right >= 0.8
    verdict = ("this already does it, without a network, if its outlines suit you" if enough
               else "a network is needed")
    return (f"{text}Otsu's threshold ({kind} pixels): F1 {f1:.2f} by your own answers, {right:.0%} "
            f"of the no right; {verdict}.")  # fmt: skip
