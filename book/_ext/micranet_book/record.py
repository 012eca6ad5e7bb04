"""Know which executed chapters still hold, so that a run goes on where the last one stopped.

A chapter holds as long as a run from nothing would give the same pages. What counts is its own
notebook and parameters, the package, the lock file, the installed versions, and the code and
parameters of the chapters that it needs (``book/needs.yaml``). So a change of text costs that
chapter alone, a change of code also those that need it, and a change of the package everything.

Each chapter works in a folder of its own, ``work/<chapter>/`` in the tree, where it finds what
those that it needs have written, and where its executed notebook is for readers who go on from
there. ``_build/done/`` holds for each a record (digest, seconds,
how it failed) and, if it came to its end, the executed notebook as the pages show it: a reader who
opens the one in the tree and runs it again changes no page.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from micranet_book import status
from micranet_helpers.files.atomic import write_atomically

FOLDER = Path("_build", "done")  # Sphinx looks for pages in other folders only
_KEPT = ("_build", "work", "status.json")
_NO_SOURCES = ("_build", "_ext", "runs", ".ipynb_checkpoints", "*.ipynb")

Needs = dict[str, list[str]]  # chapter -> chapters whose files it finds


def open_tree(root: Path, tree: Path, fresh: bool) -> str:
    """Digest package, lock file and versions; forget earlier runs if the tree is to be fresh."""
    files = [root / "requirements.lock"]
    for folder in (root / "micranet_helpers", root / "book" / "results" / "full"):
        files += (path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts)
    contents = {str(path.relative_to(root)): _hash(path.read_bytes()) for path in files
                if path.is_file()}  # fmt: skip
    if fresh and tree.exists():
        shutil.rmtree(tree)
    (tree / FOLDER).mkdir(parents=True, exist_ok=True)
    return _hash(contents, status.versions())


def _hash(*parts: Any) -> str:
    """Digest bytes, and anything that JSON can hold."""
    found = hashlib.sha256()
    for part in parts:
        known = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        found.update(hashlib.sha256(known).digest())
    return found.hexdigest()


def digests(
    sources: str, tree: Path, notebooks: dict[str, Path], values: dict, names: list[str],
    needs: Needs,
) -> dict[str, str]:  # fmt: skip
    """Digest the chapters named, and those that the tree has already, in the order of the book."""
    found, codes = {}, {}
    for name, path in notebooks.items():
        if name in names or _record(tree, name).is_file():
            text = path.read_bytes()
            cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
            needed = {other: codes[other] for other in needs.get(name, ()) if other in codes}
            codes[name] = _hash(cells, values.get(name, {}), needed)
            found[name] = _hash(sources, text, values.get(name, {}), needed)
    return found


def prepare(
    root: Path, tree: Path, notebooks: dict[str, Path], found: dict[str, str], names: Iterable[str]
) -> None:
    """Forget what no longer holds, then put the sources of the book, as they are now, in place.

    Of chapters that are not named, pages and files stay until they are executed themselves.
    """
    for path in (tree / FOLDER).glob("*.json"):
        if json.loads(path.read_text(encoding="utf-8"))["digest"] != found.get(path.stem):
            path.unlink()
    for path in tree.iterdir():
        if path.name not in _KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    ignored = shutil.ignore_patterns(*_NO_SOURCES)
    shutil.copytree(root / "book", tree, ignore=ignored, dirs_exist_ok=True)
    done = times(tree, notebooks)
    for name, source in notebooks.items():
        place = tree / source.relative_to(root / "book")
        place.parent.mkdir(parents=True, exist_ok=True)
        executed = _record(tree, name, "ipynb")
        kept = done.get(name) or (name not in names and executed.is_file())
        shutil.copy(executed if kept else source, place)


def work_folder(tree: Path, name: str) -> Path:
    """Return the working folder of a chapter."""
    return tree / "work" / name


def _aside(tree: Path, name: str) -> Path:
    return work_folder(tree, f"{name}.before")


def _record(tree: Path, name: str, kind: str = "json") -> Path:
    return tree / FOLDER / f"{name}.{kind}"


def times(tree: Path, names: Iterable[str]) -> dict[str, float | None]:
    """Return the seconds of each chapter that was executed, None if it did not come to its end."""
    return {name: found["seconds"] for name in names if (found := _read(tree, name))}


def fault(tree: Path, name: str) -> list[str]:
    """Return how a chapter failed, and the lines that say why; nothing if nobody could say."""
    return _read(tree, name)["fault"]


def _read(tree: Path, name: str) -> dict[str, Any]:
    path = _record(tree, name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def begin(tree: Path, name: str, digest: str, needed: Iterable[str]) -> None:
    """Note that a chapter is being executed, and give it the files of those that it needs.

    Files of the chapter as it was before are put aside until it has come to its end.
    """
    folder = work_folder(tree, name)
    if folder.exists() and not _read(tree, name):
        shutil.rmtree(_aside(tree, name), ignore_errors=True)
        os.replace(folder, _aside(tree, name))
    _write(tree, name, digest)
    folder.mkdir(parents=True, exist_ok=True)
    for other in needed:
        there = work_folder(tree, other)
        if there.is_dir() and _read(tree, other):
            shutil.copytree(there, folder, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where that is impossible; what is there already stays."""
    if os.path.exists(target):
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def end(tree: Path, name: str, digest: str, executed: Path, took: float) -> None:
    """Note the time that a chapter took, and keep it as it was executed."""
    for place in (_record(tree, name, "ipynb"), work_folder(tree, name) / f"{name}.ipynb"):
        shutil.copy(executed, place)
    _write(tree, name, digest, took)
    shutil.rmtree(_aside(tree, name), ignore_errors=True)


def fail(tree: Path, name: str, digest: str, *fault: str) -> None:
    """Note how a chapter failed."""
    _write(tree, name, digest, fault=fault)


def _write(
    tree: Path, name: str, digest: str, seconds: float | None = None, fault: tuple[str, ...] = ()
) -> None:
    record = {"digest": digest, "seconds": seconds, "fault": fault}
    write_atomically(_record(tree, name), json.dumps(record, indent=1).encode())
