"""Read answers about images: whether a whole image, or a box of it, shows a class."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from micranet_helpers.data.own.annotations import delimiter_of, image_key, reading
from micranet_helpers.data.own.crops_table import read_crops
from micranet_helpers.data.own.tables import read_table
from micranet_helpers.files.tables import content

YES = "yes"
NO = "no"
UNKNOWN = "cannot tell"
UNDO = "undo"
FIELDS = ("file", "top", "left", "side", "class", "answer", "time", "who")


class Question(NamedTuple):
    """Hold the box that is asked about: file, top, left and side, px; side 0: the whole image."""

    file: str
    top: int
    left: int
    side: int


class Answer(NamedTuple):
    """Hold an answer: box, class, "yes", "no" or "cannot tell", time (ISO 8601, UTC), who."""

    box: Question
    cls: str
    answer: str
    time: str
    who: str


Known = tuple[str, tuple[slice, slice] | None, bool]  # class, box or whole image, yes or no
Said = Mapping[str, list[Known]]
"""What is known, by the name of the image."""


def read(path: str | Path) -> list[Answer]:
    """Read the answers that stand, in their order: each person's last one about a box and class.

    The columns are ``file``, ``class``, ``answer`` ("yes", "no", "cannot tell" or empty), and if
    wanted ``top``, ``left``, ``side``, ``time`` and ``who``. ``undo`` takes an answer back: the one
    before stands again. No file is no answer. Raises ValueError, which names the lines, if the file
    holds anything else; half a line at the end of a labeller's file is left out.
    """
    if not Path(path).is_file():
        return []
    text = Path(path).read_bytes().decode("utf-8-sig", "replace")
    if text.startswith(",".join(FIELDS)):  # else a spreadsheet may have left out the last break
        text = text[: text.rfind("\n") + 1]
    delimiter, stacks = delimiter_of(text.partition("\n")[0]), {}
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    with reading(path) as faults:
        if not {"file", "class", "answer"} <= {*(rows.fieldnames or FIELDS)}:
            raise ValueError(f"the first line of answers must be: {','.join(FIELDS)}.")
        for row in rows:
            try:
                given = _answer(row)
            except (KeyError, TypeError, ValueError, AttributeError):
                faults.append(f"line {rows.line_num} is no answer: delete it.")
                continue
            before = stacks.pop(about := (given.box, given.cls, given.who), [])
            stacks[about] = before[:-1] if given.answer == UNDO else [*before, given]
    return [stack[-1] for stack in stacks.values() if stack]


def _answer(row: Mapping[str, str]) -> Answer:
    place = (int(row.get(key) or 0) for key in ("top", "left", "side"))
    box = Question(image_key(content(row["file"])), *place)
    time, who = (content(row.get(key) or "") for key in ("time", "who"))
    given = Answer(box, content(row["class"]), row["answer"], time, who)
    datetime.fromisoformat(time or "2000-01-01")
    if min(box[1:]) < 0 or given.answer not in (YES, NO, UNKNOWN, UNDO, ""):
        raise ValueError
    return given


def of_class(answers: Iterable[Answer], cls: str, who: str | None = None) -> dict[Question, str]:
    """Take the answers about a class, of one person or of all: UNKNOWN where they differ."""
    found: dict[Question, str] = {}
    for given in answers:
        if given.cls == cls and who in (None, given.who):
            same = found.get(given.box, given.answer) == given.answer
            found[given.box] = given.answer if same else UNKNOWN
    return found


def read_answers(paths: Iterable[str | Path]) -> dict[str, list[Known]]:
    """Read yes and no from CSV files, by the name of the image.

    A file holds answers, as for :func:`read`, or labels of images or crops, as for
    :func:`~micranet_helpers.data.own.read_table` and
    :func:`~micranet_helpers.data.own.read_crops`. Where people differ, nothing is known. Raises
    FileNotFoundError or ValueError as these do.
    """
    given, known = [each for path in paths for each in _any_kind(Path(path).expanduser())], {}
    for cls in dict.fromkeys(each.cls for each in given):
        for (name, top, left, side), answer in of_class(given, cls).items():
            if answer in (YES, NO):
                box = (slice(top, top + side), slice(left, left + side)) if side else None
                known.setdefault(image_key(name), []).append((cls, box, answer == YES))
    return known


def _any_kind(path: str | Path) -> list[Answer]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}: check the path.")
    first = Path(path).read_bytes().decode("utf-8-sig", "replace").partition("\n")[0]
    names = [name.strip().casefold() for name in first.split(delimiter_of(first))]
    if "answer" in names:
        return read(path)
    found = (read_crops if "top" in names else read_table)(path)
    crops = found.crops or {n: [(0, 0, 0, *label(1, 1)[0])] for n, label in found.images.items()}
    return [Answer(Question(name, *map(int, row[:3])), cls, {1: YES, 0: NO}.get(value, ""), "", "")
            for name, rows in crops.items() for row in rows
            for cls, value in zip(found.classes, row[3:], strict=True)]  # fmt: skip


def matched(
    said: Said, classes: Sequence[str], names: Iterable[str]
) -> dict[str, list[Known]]:
    """Keep the answers about files and classes that there are, by the names of the files.

    Raises ValueError if there are answers, but none is kept.
    """
    found: dict[str, list[Known]] = {}
    for name in names:
        stem = name.removesuffix(Path(name).suffix)
        given = said.get(image_key(name)) or said.get(image_key(stem)) or []
        if kept := [each for each in given if each[0] in classes]:
            found[name] = kept
    if said and not found:
        raise ValueError(
            f"No answer is about these images and the classes {', '.join(classes)}: compare the "
            "names in the file of answers."
        )
    return found
