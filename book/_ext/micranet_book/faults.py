"""Find where a chapter failed, and say so on its page."""

import re
from pathlib import Path
from typing import Any

_TRACEBACK_LINES = 15
_NOTE = """\

::::::{{admonition}} This chapter did not finish
:class: error
It {reason}. What is missing below was not executed.

```````text
{lines}
```````
::::::
"""


def find(notebook: Path, reason: str, log: str) -> tuple[str, str] | None:
    """Return how a chapter failed, and the cell and last lines that say why; None if it did not.

    papermill may have raised nothing: it takes ``raise SystemExit(0)`` for the end of a chapter.
    """
    number, cell = _first_unfinished(notebook)
    if cell is None and not reason:
        return None
    lines = []
    if cell is not None:
        first = (cell.source.splitlines() or ["(empty)"])[0]
        lines, log = [f"code cell {number}: {first}"], _traceback(cell) or log
    lines += re.sub(r"\x1b\[[0-9;]*m", "", log).rstrip().splitlines()[-_TRACEBACK_LINES:]
    return reason or "ended early", "\n".join(lines)


def _first_unfinished(notebook: Path) -> tuple[int, Any]:
    # Number, counted as in the source, and content of the first code cell that did not complete.
    # papermill's own `status` is of no use: it says "completed" even where the kernel has died.
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    source = [cell for cell in code if "injected-parameters" not in cell.metadata.get("tags", [])]
    for number, cell in enumerate(source, 1):
        replied = "shell.execute_reply" in cell.metadata.get("execution", {})
        if not replied or cell.execution_count is None or _traceback(cell):
            return number, cell
    return 0, None


def _traceback(cell: Any) -> str:
    outputs = [output for output in cell.outputs if output.output_type == "error"]
    return "\n".join(outputs[0].traceback) if outputs else ""


def show(notebook: Path, reason: str, lines: str) -> None:
    """Write below the title of an executed chapter how it failed."""
    import nbformat

    content = nbformat.read(notebook, as_version=4)
    # papermill's own notes are above the title, and link to nothing on a page.
    tag = "papermill-error-cell-tag"
    content.cells = [cell for cell in content.cells if tag not in cell.metadata.get("tags", [])]
    title, _, rest = content.cells[0].source.partition("\n")
    content.cells[0].source = f"{title}\n{_NOTE.format(reason=reason, lines=lines)}\n{rest}"
    nbformat.write(content, notebook)
