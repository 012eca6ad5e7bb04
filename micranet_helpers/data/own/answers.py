"""Read answers about images: whether a whole image, or a box of it, shows a class."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from micranet_helpers.data.own.annotations import image_key


class Answer(NamedTuple):
    """Hold what a user said of a class in a box, None for the whole image."""

    cls: str
    box: tuple[slice, slice] | None
    yes: bool


Said = Mapping[str, list[Answer]]
"""Answers by the name of the image."""


def read_answers(paths: Iterable[str | Path]) -> dict[str, list[Answer]]:
    """Read yes and no from CSV files, by the name of the image.

    The columns are ``file``, for boxes ``top,left,side``, and either ``class,answer`` with "yes" or
    "no" (of several lines about one box the last counts), or one for each class with 1 or 0; all
    else, and empty cells, is unknown. Raises ValueError for a file without such columns.
    """
    found: dict[tuple, bool | None] = {}
    for path in paths:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                try:
                    _note(row, found)
                except (KeyError, TypeError, ValueError):
                    raise ValueError(
                        f"{path} holds no answers: its columns must be file, top, left, side, "
                        "class, answer, or file and the classes."
                    ) from None
    answers: dict[str, list[Answer]] = {}
    for (name, place, cls), yes in found.items():
        box = place and tuple(slice(start, start + place[2]) for start in place[:2])
        if yes is not None:
            answers.setdefault(name, []).append(Answer(cls, box, yes))
    return answers


def _note(row: dict[str, str], found: dict[tuple, bool | None]) -> None:
    name, corner = image_key(row["file"]), [row.get(key) or "" for key in ("top", "left", "side")]
    place = tuple(int(float(number)) for number in corner) if all(corner) else None
    if "answer" in row:
        cells = {row["class"]: row["answer"]}
    else:
        cells = {key: cell for key, cell in row.items()
                 if key not in ("file", "top", "left", "side", "time", "who")}  # fmt: skip
    known = {"yes": True, "1": True, "no": False, "0": False}
    found |= {(name, place, cls): known.get(cell.strip()) for cls, cell in cells.items()}


def matched(
    said: Said, classes: Sequence[str], names: Iterable[str]
) -> dict[str, list[Answer]]:
    """Keep the answers about files and classes that there are, by the names of the files.

    Raises ValueError if there are answers, but none is kept.
    """
    found: dict[str, list[Answer]] = {}
    for name in names:
        stem = name.removesuffix(Path(name).suffix)
        given = said.get(image_key(name)) or said.get(image_key(stem)) or []
        if kept := [answer for answer in given if answer.cls in classes]:
            found[name] = kept
    if said and not found:
        raise ValueError(
            f"No answer is about these images and the classes {', '.join(classes)}: compare the "
            "names in the file of answers."
        )
    return found
