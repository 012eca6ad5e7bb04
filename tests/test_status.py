"""The status of a run, as a file and as tables of a page."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from markdown_it import MarkdownIt
from micranet_book import status


def cells(text: str) -> list[list[str]]:
    """The rows of all tables, by an independent reader of Markdown."""
    tokens = MarkdownIt().enable("table").parse(text)
    inline = [token.content for token in tokens if token.type == "inline"]
    return [inline[i : i + 2] for i in range(1, len(inline), 2)]


def test_tables_say_what_was_written(tmp_path: Path) -> None:
    status.write(tmp_path, "quick", {"intro": 59.6, "em": 135.7, "zoo": 3.2, "ctc": None})
    status.write_tables(tmp_path)
    text = (tmp_path / "status.md").read_text()
    assert re.match(r"Profile `quick`, \d{4}-\d\d-\d\d \d\d:\d\d UTC, \d+ CPU cores, ", text)
    rows = cells(text.replace("\N{NO-BREAK SPACE}", " "))
    assert rows[:6] == [
        ["chapter", "time"], ["[](intro.ipynb)", "1 min 00 s"], ["[](em.ipynb)", "2 min 16 s"],
        ["[](zoo.ipynb)", "3 s"], ["[](ctc.ipynb)", "did not finish"],
        ["**all chapters**", "**3 min 18 s**"],
    ]  # fmt: skip
    assert rows[6:8] == [["package", "version"], ["python", rows[7][1]]]
    assert [name for name, _ in rows[8:]] == list(status.versions())


def test_a_package_that_is_not_installed_is_left_out(monkeypatch) -> None:
    def version(name: str) -> str:
        if name == "torchvision":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(status, "version", version)
    assert set(status.versions()) == set(status.PACKAGES) - {"torchvision"}
