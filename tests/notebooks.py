"""Code cells of notebooks."""

from pathlib import Path
from typing import Any

import nbformat


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tagged(path: Path, tag: str) -> list[str]:
    """The code of the cells with a tag."""
    return [cell.source for cell in code_cells(path) if tag in cell.metadata.get("tags", [])]
