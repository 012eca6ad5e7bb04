"""Save what was found in the explorer, as files for other programs and as code.

Numbers, places and outlines are those of the whole image, not of the crop.
"""

import io
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from micranet_helpers.explore.session import Session
from micranet_helpers.files.atomic import named, write_atomically
from micranet_helpers.files.tables import csv_bytes
from micranet_helpers.maps.detect import table
from micranet_helpers.maps.outlines import roi_set, rois
from micranet_helpers.networks.micranet import LAYERS

VERSION = version("micranet-helpers")


def save_mask(path: str | Path, session: Session, overwrite: bool = False) -> None:
    """Save the mask as TIFF: 0 outside, and in each object its number in the table.

    Parameters
    ----------
    path : path
        The file, ``*.tif``; its folder must exist.
    session : Session
        What was found.
    overwrite : bool
        Whether an old file may be replaced.

    Raises
    ------
    FileExistsError
        If there is such a file, and it may not be replaced.
    ValueError
        If the name ends otherwise, or the session has no mask.
    OSError
        If the file cannot be written; nothing of it is left then.
    """
    labels = _whole(session, session.labels)
    data = io.BytesIO()
    kind = np.uint16 if session.count < 2**16 else np.uint32
    tifffile.imwrite(data, labels.astype(kind), compression="zlib")
    write_atomically(named(path, ".tif", overwrite), data.getvalue())


def save_objects(path: str | Path, session: Session, overwrite: bool = False) -> None:
    """Save the objects, one a row, in a file ``*.csv``.

    Columns are those of :func:`micranet_helpers.maps.detect.table`. Session, ``overwrite`` and
    errors are as in :func:`save_mask`.
    """
    score = _whole(session, session.score.numpy())
    rows = table(_whole(session, session.labels), score, session.choice.pixel_size_um)
    one = np.ones((1, 1), int)  # an empty table has columns, too
    columns = list(table(one, one, session.choice.pixel_size_um)[0])
    write_atomically(named(path, ".csv", overwrite), csv_bytes(rows, columns))


def save_rois(path: str | Path, session: Session, overwrite: bool = False) -> None:
    """Save the outlines of the objects for ImageJ's ROI manager, in a file ``*.zip``.

    The ROIs are named ``class2-1``, ``class2-2``, … by class and number;
    :func:`micranet_helpers.data.own.rois.read_rois` reads them back. Session, ``overwrite``
    and errors are as in :func:`save_mask`.
    """
    found = rois(_whole(session, session.labels), f"class{session.cls}")
    write_atomically(named(path, ".zip", overwrite), roi_set(found))


def recipe(session: Session) -> str:
    """Write the choices as Python code that makes the same objects.

    It ends with ``labels`` (S, S), the numbered objects of the crop, and ``mask``; ``place`` says
    where the crop lies. Paths are as they were chosen. Raises ValueError if there is no mask.
    """
    _check_mask(session)
    choice, (rows, columns) = session.choice, session.window
    layers = [LAYERS.index(layer) for layer in choice.layers]
    read = f"read_image({choice.image!r})"
    stored = session.scaling == "stored"
    seen = f"entry.usage.scaled({read})" if stored else f"scaled({read}, {session.scaling!r})"
    level = f", {choice.level}" if choice.threshold == "percentile" else ""
    absolute, whole = choice.threshold == "stored", choice.how == "evidence"
    above = f"score >= {session.stored_level}" if absolute else f"{choice.threshold}(score{level})"
    steps = ["evidence" if whole else "combine", "gaussian", choice.threshold]
    steps = steps[:2] if absolute else steps
    maps = f"predict(entry, crop).maps[{session.cls}]  # layers {' '.join(LAYERS)}"
    each = f"[evidence(model, crop)[0][0, {session.cls}] for model in entry.models]"
    score = (f"score = torch.stack({each}).mean(0)" if whole else
             f"maps = {maps}\nscore = combine(maps, {choice.how!r}, layers={layers})")  # fmt: skip
    return f'''\
# Made by the explorer of micranet_helpers {VERSION}.
import numpy as np
import torch

from micranet_helpers import zoo
from micranet_helpers.files.images import read_image
from micranet_helpers.explore import numbered, predict{"" if stored else ", scaled"}
from micranet_helpers.maps import {", ".join(steps)}

entry = zoo.load({choice.zoo!r}, {choice.group!r})
image = torch.from_numpy({seen})
place = np.s_[{rows.start}:{rows.stop}, {columns.start}:{columns.stop}]  # rows, columns
crop = image[None, :, *place]
{score}
score = gaussian(score, sigma={choice.sigma})
labels = numbered({above}, area={choice.area}, split={choice.split})
mask = labels > 0
print(f"{{labels.max()}} objects, {{mask.sum()}} px")
'''


def save_recipe(path: str | Path, session: Session, overwrite: bool = False) -> None:
    """Save the code of :func:`recipe` as ``*.py``; otherwise like :func:`save_mask`."""
    write_atomically(named(path, ".py", overwrite), recipe(session).encode())


def _check_mask(session: Session) -> None:
    if session.choice.threshold == "none":
        raise ValueError("There is no mask without a threshold: choose one first.")


def _whole(session: Session, part: NDArray) -> NDArray:
    """Put what was found in the crop in its place in the image."""
    _check_mask(session)
    whole = np.zeros(session.raw.shape[1:], part.dtype)
    whole[session.window] = part
    return whole
