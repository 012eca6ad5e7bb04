"""The page of functions: its examples run, and the lessons call what it shows."""

import doctest
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
from notebooks import code_cells

BOOK = Path(__file__).parents[1] / "book"
PAGE = BOOK / "functions.md"


@pytest.mark.slow
def test_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    done = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    plt.close("all")
    assert done.attempted > 30 and done.failed == 0


def test_lessons_call_what_the_page_shows() -> None:
    shown = re.findall(r"`micranet_helpers\.[\w.]+\.(\w+)`", PAGE.read_text(encoding="utf-8"))
    cells = "\n".join(cell.source for path in BOOK.glob("*.ipynb") for cell in code_cells(path))
    assert len(shown) > 12
    for name in shown:
        assert re.search(rf"\b{name}\(", cells), name
