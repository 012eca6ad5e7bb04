"""Write tables that a spreadsheet opens without running anything in them."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def csv_bytes(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> bytes:
    """Write rows as CSV; text that a spreadsheet would take for a formula gets an apostrophe."""
    rows = list(rows)
    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    writer = csv.writer(text := io.StringIO(newline=""), lineterminator="\n")
    writer.writerow(map(_cell, names))
    writer.writerows([_cell(row.get(name, "")) for name in names] for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.10g}"
    formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if formula else value
