"""Chapters carry the lesson: little code, in lines that a page shows whole."""

from pathlib import Path

import nbformat
import pytest
from micranet_book import runner

CHAPTERS = runner.chapters(Path(__file__).parents[1] / "book")
MOST_LINES, WIDEST = 180, 79

every_chapter = pytest.mark.parametrize("name", CHAPTERS)


def cells(name: str) -> list[nbformat.NotebookNode]:
    found = nbformat.read(CHAPTERS[name], as_version=4).cells
    return [cell for cell in found if cell.cell_type == "code"]


@every_chapter
def test_a_chapter_has_little_code(name: str) -> None:
    lines = [line.strip() for cell in cells(name) for line in cell.source.splitlines()]
    code = [line for line in lines if line and not line.startswith("#")]
    assert len(code) <= MOST_LINES, "move what is not the lesson into the package"


@every_chapter
def test_no_line_of_code_is_clipped(name: str) -> None:
    for cell in cells(name):
        if "setup" not in cell.metadata.get("tags", []):  # folded, with a long address
            assert not [line for line in cell.source.splitlines() if len(line) > WIDEST]
