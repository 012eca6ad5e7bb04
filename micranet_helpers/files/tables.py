"""Write text that came from files so that nothing in it is run, and tables for a spreadsheet."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from unicodedata import category

FORMULA = "=", "+", "-", "@", "\t", "\r"
"""What a spreadsheet takes for the beginning of a formula."""


def visible(text: str) -> str:
    """Show control characters, e.g. a terminal's escapes, and bytes that are no text by codes."""
    return "".join(c if category(c)[0] != "C" or c == "\n" else ascii(c)[1:-1] for c in text)


def plain(text: str) -> str:
    """Escape what Markdown takes for markup, HTML or a formula, in one line."""
    return re.sub(r"([\\`<\[$|])", r"\\\1", visible(" ".join(text.split())))


def csv_bytes(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> bytes:
    """Write rows as CSV; text that a spreadsheet would take for a formula gets an apostrophe."""
    rows = list(rows)
    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    writer = csv.writer(text := io.StringIO(newline=""), lineterminator="\n")
    writer.writerow(map(cell, names))
    writer.writerows([cell(row.get(name, "")) for name in names] for row in rows)
    return text.getvalue().encode(errors="backslashreplace")  # names that are no text


def cell(value: Any) -> Any:
    """Write a cell of a table; text that a spreadsheet would compute gets an apostrophe."""
    if isinstance(value, float):
        return f"{value:.10g}"
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def content(written: str) -> str:
    """Read what :func:`cell` wrote as text."""
    return written[written.startswith("'") and _is_formula(written) :]


def _is_formula(text: str) -> bool:
    """Tell a formula, also behind apostrophes: what is written so must be read as it was."""
    return text.lstrip("'").startswith(FORMULA)
