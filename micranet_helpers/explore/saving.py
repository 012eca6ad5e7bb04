"""Save what was found in the explorer, as files for other programs and as code.

Numbers, places and outlines are those of the whole image, not of the crop.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micranet_helpers.explore.session import Session
from micranet_helpers.files.atomic import named, write_atomically
from micranet_helpers.files.tables import csv_bytes
from micranet_helpers.maps import LAYERS
from micranet_helpers.maps.detect import table
from micranet_helpers.maps.outlines import roi_set, rois
from micranet_helpers.predict.objects import mask_bytes


def save_mask(path: str | Path, session: Session, overwrite: bool = False) -> None:
    """Save the mask as OME-TIFF: 0 outside, and in each object its number in the table.

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
    labels, name = _whole(session, session.labels), f"class{session.cls}"
    data = mask_bytes(labels[None], [name], session.choice.pixel_size_um)
    write_atomically(named(path, ".tif", overwrite), data)


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
    choice, cls, (rows, columns) = session.choice, session.cls, session.window
    scaling = "" if choice.scaling == "stored" else f", scaling={choice.scaling!r}"
    torch = "" if session.marks else "\nimport torch"
    if session.marks:
        needs = ["micranet_helpers.predict.ways import masks_of, open_zoo, scores_of"]
        steps = f"""\
scores = scores_of(networks, image, {session.how!r})[[{cls}]]
mask = masks_of(networks, image, {session.how!r}, scores, above={choice.above})[0][place]"""
    else:
        needs = ["micranet_helpers.explore import predict",
                 f"micranet_helpers.maps import combine, gaussian, {choice.threshold}",
                 "micranet_helpers.predict import open_zoo"]  # fmt: skip
        layers = [LAYERS.index(layer) for layer in choice.layers]
        level = f", {choice.level}" if choice.threshold == "percentile" else ""
        steps = f"""\
crop = torch.from_numpy(networks.usage.scaled(image))[None, :, *place]
maps = predict(networks.entry, crop).maps[{cls}]  # layers {" ".join(LAYERS)}
score = gaussian(combine(maps, {session.how!r}, layers={layers}), sigma={choice.sigma})
mask = {choice.threshold}(score{level})"""
    imports = "\n".join(f"from {each}" for each in sorted(
        ["micranet_helpers.files.series import read_plane",
         "micranet_helpers.maps.detect import pieces", *needs]))  # fmt: skip
    return f"""\
# Made by the explorer of micranet_helpers {version("micranet-helpers")}.
import numpy as np{torch}

{imports}

networks = open_zoo({choice.zoo!r}, {choice.group!r}{scaling})
image = read_plane({choice.image!r}).image
place = np.s_[{rows.start}:{rows.stop}, {columns.start}:{columns.stop}]  # rows, columns
{steps}
labels = pieces(mask, area={choice.area}, split={choice.split})
mask = labels > 0
print(f"{{labels.max()}} objects, {{mask.sum()}} px")
"""


def save_recipe(path: str | Path, session: Session, overwrite: bool = False) -> None:
    """Save the code of :func:`recipe` as ``*.py``; otherwise like :func:`save_mask`."""
    write_atomically(named(path, ".py", overwrite), recipe(session).encode())


def _check_mask(session: Session) -> None:
    if not session.masked:
        raise ValueError("There is no mask without a threshold: choose one first.")


def _whole(session: Session, part: NDArray) -> NDArray:
    """Put what was found in the crop in its place in the image."""
    _check_mask(session)
    whole = np.zeros(session.raw.shape[1:], part.dtype)
    whole[session.window] = part
    return whole
