"""Write what a run found as a page that opens offline, a table and a contact sheet."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize
from urllib.parse import quote

import jinja2
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont, ImageOps

from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.files.tables import csv_bytes

SHEET, THUMB = 12, 240  # pictures of the contact sheet; px
HIDDEN = ("picture", "sha256")  # no column of a table


def write(
    out: Path, rows: Sequence[Mapping[str, Any]], notes: Sequence[str],
    facts: Sequence[tuple[str, str]], ways: Sequence[Mapping[str, Any]],
) -> Path:  # fmt: skip
    """Write ``summary.csv``, ``least-certain.png`` and ``report.html``; return the last.

    Each row is an image: ``file``, ``picture`` (its overlay, relative to ``out``), ``sha256`` and
    what was counted; or ``file`` and ``error``.
    """
    shown = [{name: row[name] for name in row if name not in HIDDEN} for row in rows]
    write_atomically(out / "summary.csv", csv_bytes(shown, ["file", "error"]))
    sound = sorted((row for row in rows if not row["error"]), key=lambda row: row["certainty"])
    write_atomically(out / "least-certain.png", _sheet(out, sound[:SHEET]))
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"link": lambda path: quote(os.fsencode(path)),
                     "short": lambda x: f"{x:.4g}" if isinstance(x, float) else x}  # fmt: skip
    template = page.from_string(Path(__file__).with_name("report.html").read_text("utf-8"))
    numbers = [name for name in dict.fromkeys(name for row in sound for name in row)
               if name not in ("file", "error", "note", *HIDDEN)]  # fmt: skip
    text = template.render(rows=rows, notes=notes, facts=facts, ways=ways, numbers=numbers,
                           sheet=sound[:SHEET])  # fmt: skip
    write_atomically(out / "report.html", text.encode(errors="backslashreplace"))
    return out / "report.html"


def _sheet(out: Path, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the overlays of some images side by side, with their names."""
    files, columns = (out / row["picture"] for row in rows), min(4, max(1, len(rows)))
    pictures = [ImageOps.contain(Image.open(file), (THUMB - 6, THUMB - 20)) for file in files]
    tall = max((each.height for each in pictures), default=0) + 20
    # Pillow's own letters are those of English.
    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 10)
    page = Image.new("RGB", (columns * THUMB, max(1, -(-len(rows) // columns)) * tall), "white")
    for number, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        page.paste(picture, corner := (number % columns * THUMB, number // columns * tall))
        place = corner[0], corner[1] + tall - 18
        name = normalize("NFC", row["file"])[-36:].encode(errors="replace")
        ImageDraw.Draw(page).text(place, name.decode(), "black", font)
    page.save(data := io.BytesIO(), "PNG")
    return data.getvalue()
