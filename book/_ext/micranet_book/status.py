"""What a run of the book took, and with which versions: a file, and the tables of a page."""

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


def write(tree: Path, profile: str, seconds: dict[str, float]) -> None:
    """Write ``status.json``: profile, date, machine, versions and the times of the chapters.

    Parameters
    ----------
    tree : Path
        Folder of the executed chapters.
    profile : str
        Profile of the run.
    seconds : dict of str to float
        Time that each chapter took, s, in the order of the book.
    """
    content = {
        "profile": profile,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "versions": {"python": platform.python_version(), **_versions()},
        "seconds": seconds,
    }
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(tree / "status.json", text.encode())


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_tables(tree: Path) -> None:
    """Write ``status.md``, which the page on versions and times includes, from ``status.json``.

    Parameters
    ----------
    tree : Path
        Folder of the executed chapters.
    """
    content = json.loads((tree / "status.json").read_text(encoding="utf-8"))
    write_atomically(tree / "status.md", tables(content).encode())


def tables(content: dict[str, Any]) -> str:
    """Lay out a status as MyST Markdown.

    Parameters
    ----------
    content : dict
        What :func:`write` has written.

    Returns
    -------
    str
        A line about the run, a table of times with links to the chapters, one of versions.
    """
    machine, seconds = content["machine"], content["seconds"]
    date = content["date"].replace("T", " ")[:16]
    times = [(f"[]({name}.ipynb)", _clock(time)) for name, time in seconds.items()]
    times.append(("**all chapters**", f"**{_clock(sum(seconds.values()))}**"))
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


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    text = f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return text.replace(" ", "\N{NO-BREAK SPACE}")  # on a phone, too, one line
