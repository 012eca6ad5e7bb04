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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from micranet_helpers.label.questions import NO, UNKNOWN, YES, Question, Shapes, known

FIELDS = ("file", "top", "left", "side", "class", "answer", "time", "who")
UNDO = "undo"


class Answer(NamedTuple):
    """Hold an answer: box, class, "yes", "no" or "cannot tell", time (ISO 8601, UTC), who."""

    box: Question
    cls: str
    answer: str
    time: str
    who: str


def append(path: str | Path, given: Iterable[tuple[Question, str, str]], who: str) -> None:
    """Add answers (box, class, answer) to a file, and wait until they are on the disk.

    Half a line that a crash has left is removed. People who answer at the same time need a file
    each. Raises OSError if nothing could be written.
    """
    now, text = datetime.now(UTC).isoformat(timespec="milliseconds"), io.StringIO()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:
        file.truncate(whole := Path(path).read_bytes().rfind(b"\n") + 1)
        rows = csv.writer(text, lineterminator="\n")
        rows.writerows([] if whole else [FIELDS])
        rows.writerows((*box, cls, answer, now, who) for box, cls, answer in given)
        try:
            if file.write(data := text.getvalue().encode()) < len(data):
                raise OSError("the disk is full")
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(whole)
            raise OSError(f"{path} could not be written: free some space ({error}).") from error


def read(path: str | Path) -> list[Answer]:
    """Read the answers that stand, in their order: each person's last one about a box and class.

    Where it was taken back, the one before stands again. No file is no answer. Raises ValueError,
    which names the line, if the file holds anything else; half a line at its end is left out.
    """
    if not Path(path).is_file():
        return []
    text = Path(path).read_bytes().decode("utf-8-sig", "replace")
    rows, stacks = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline="")), {}
    if tuple(next(rows, FIELDS)) != FIELDS:
        raise ValueError(f"{path} is no file of answers: its first line must be {','.join(FIELDS)}")
    for row in rows:
        try:
            file, top, left, side, cls, answer, time, who = row
            given = Answer(Question(file, int(top), int(left), int(side)), cls, answer, time, who)
            if not datetime.fromisoformat(time) or answer not in (YES, NO, UNKNOWN, UNDO):
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}, line {rows.line_num}, is no answer: delete it.") from None
        before = stacks.pop((given.box, cls, who), [])
        stacks[given.box, cls, who] = before[:-1] if answer == UNDO else [*before, given]
    return [stack[-1] for stack in stacks.values() if stack]


def of_class(answers: Iterable[Answer], cls: str, who: str | None = None) -> dict[Question, str]:
    """Take the answers about a class, of one person or of all: UNKNOWN where they differ."""
    found: dict[Question, str] = {}
    for given in answers:
        if given.cls == cls and who in (None, given.who):
            same = found.get(given.box, given.answer) == given.answer
            found[given.box] = given.answer if same else UNKNOWN
    return found


def labels(
    path: str | Path, shapes: Shapes, side: int, classes: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Conclude the labels of crops, (rows, columns, K), by file name, from the answers of all."""
    each = [known(shapes, side, of_class(read(path), cls)) for cls in classes]
    grids = {file: grid * np.nan for found in each for file, grid in found.items()}
    return {file: np.stack([found.get(file, grids[file]) for found in each], -1)
            for file in shapes if file in grids}  # fmt: skip


def minutes(answers: Iterable[Answer]) -> float:
    """Measure the time that answers have taken, min, but for pauses of a minute or more."""
    gaps = np.diff(sorted(datetime.fromisoformat(each.time).timestamp() for each in answers))
    return float(gaps[gaps < 60].sum() / 60)


def agreement(
    one: Mapping[str, NDArray], other: Mapping[str, NDArray], side: int
) -> tuple[float, list[Question]]:
    """Compare the labels of crops that two people know, (rows, columns) by file name.

    Returns Cohen's kappa over the crops that both know (1: the same, 0: as by chance; NaN if there
    are none, or all have one label), and the crops on which they differ.
    """
    pairs, differ = [np.zeros((2, 0))], []
    for file in sorted(one.keys() & other.keys()):
        both = np.stack([one[file], other[file]])
        pairs.append(both[:, ~np.isnan(both).any(0)])
        places = np.argwhere(np.abs(both[0] - both[1]) == 1) * side
        differ += [Question(file, top, left, side) for top, left in places.tolist()]
    first, second = np.concatenate(pairs, 1)
    return cohen_kappa_score(first, second) if len({*first, *second}) > 1 else np.nan, differ
