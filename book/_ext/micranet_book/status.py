"""Record the times and versions of a run: in a file, and as the tables of a page."""

import datetime
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from micranet_helpers.files.atomic import write_atomically

PACKAGES = (
    "micranet-helpers", "torch", "torchvision", "pytorch-lightning", "numpy", "scipy",
    "scikit-image", "scikit-learn", "h5py", "matplotlib", "captum", "papermill", "jupyter-book",
)  # fmt: skip
"""Packages whose versions are recorded, if they are installed."""


def write(tree: Path, profile: str, seconds: dict[str, float | None]) -> None:
    """Write ``status.json``: profile, date, machine, versions and seconds that each chapter took.

    None for a chapter that did not finish.
    """
    content = {
        "profile": profile,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "versions": {"python": platform.python_version(), **versions()},
        "seconds": seconds,
    }
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(tree / "status.json", text.encode())


def versions() -> dict[str, str]:
    """Return the versions of those of :data:`PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_tables(tree: Path) -> None:
    """Write ``status.md``, which the page on versions and times includes, from ``status.json``."""
    content = json.loads((tree / "status.json").read_text(encoding="utf-8"))
    write_atomically(tree / "status.md", tables(content).encode())


def tables(content: dict[str, Any]) -> str:
    """Lay out a status as MyST Markdown: a line about the run, tables of times and versions."""
    machine, seconds = content["machine"], content["seconds"]
    date = content["date"].replace("T", " ")[:16]
    times = [(f"[]({name}.ipynb)", _clock(time)) for name, time in seconds.items()]
    times.append(("**all chapters**", f"**{_clock(sum(filter(None, seconds.values())))}**"))
    lines = [
        f"Profile `{content['profile']}`, {date} UTC, {machine['cpus']} CPU cores, "
        f"{machine['system']}.",
        "",
        *_table(("chapter", "time"), times),
        "",
        *_table(("package", "version"), list(content["versions"].items())),
    ]
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {left} | {right} |" for left, right in [head, ("---", "--:"), *rows]]


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "did not finish"
    minutes, rest = divmod(round(seconds), 60)
    text = f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return text.replace(" ", "\N{NO-BREAK SPACE}")  # on a phone, too, one line
