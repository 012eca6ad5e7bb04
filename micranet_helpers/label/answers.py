"""Keep every answer in a file at once, and compare those of two people.

The file is CSV and grows only: an answer is taken back by the answer ``undo`` about the same box.
A line is on the disk before :func:`append` returns, so a kernel that is killed loses none.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micranet_helpers.data.own.answers import FIELDS, Answer, Question, of_class, read
from micranet_helpers.files.tables import cell
from micranet_helpers.label.questions import Shapes, known


def append(path: str | Path, given: Iterable[tuple[Question, str, str]], who: str) -> None:
    """Add answers (box, class, answer) to a file, and wait until they are on the disk.

    Half a line that a crash has left is removed. People who answer at the same time need a file
    each. Raises OSError if nothing could be written, and ValueError if the columns are not ours.
    """
    now, text = datetime.now(UTC).isoformat(timespec="milliseconds"), io.StringIO()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:
        before = Path(path).read_bytes()
        file.truncate(whole := before.rfind(b"\n") + 1)
        if whole and not before.decode("utf-8-sig", "replace").startswith(",".join(FIELDS)):
            raise ValueError(f"{path} has other columns: answer into a file of its own.")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerows([] if whole else [FIELDS])
        rows.writerows(map(cell, (*box, cls, answer, now, who)) for box, cls, answer in given)
        try:
            if file.write(data := text.getvalue().encode()) < len(data):
                raise OSError("the disk is full")
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(whole)
            raise OSError(f"{path} could not be written: free some space ({error}).") from error


def labels(
    path: str | Path, shapes: Shapes, side: int, classes: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Conclude the labels of crops, (rows, columns, K), by file name, from the answers of all."""
    given = read(path)
    each = [known(shapes, side, of_class(given, cls)) for cls in classes]
    grids = {file: grid * np.nan for found in each for file, grid in found.items()}
    return {file: np.stack([found.get(file, grids[file]) for found in each], -1)
            for file in shapes if file in grids}  # fmt: skip


def minutes(answers: Iterable[Answer]) -> float:
    """Measure the time that answers have taken, min, but for pauses of a minute or more."""
    times = [datetime.fromisoformat(each.time).timestamp() for each in answers if each.time]
    gaps = np.diff(sorted(times))
    return float(gaps[gaps < 60].sum() / 60)


def agreement(
    one: Mapping[str, NDArray], other: Mapping[str, NDArray], side: int
) -> tuple[float, list[Question]]:
    """Compare the labels of crops that two people know, (rows, columns) by file name.

    Returns Cohen's kappa over the crops that both know (1: the same, 0: as by chance; NaN if there
    are none, or all have one label), and the crops on which they differ.
    """
    from sklearn.metrics import cohen_kappa_score  # takes a second to load

    pairs, differ = [np.zeros((2, 0))], []
    for file in sorted(one.keys() & other.keys()):
        both = np.stack([one[file], other[file]])
        pairs.append(both[:, ~np.isnan(both).any(0)])
        places = np.argwhere(np.abs(both[0] - both[1]) == 1) * side
        differ += [Question(file, top, left, side) for top, left in places.tolist()]
    first, second = np.concatenate(pairs, 1)
    return cohen_kappa_score(first, second) if len({*first, *second}) > 1 else np.nan, differ
