"""Know which executed chapters still hold, so that a run goes on where the last one stopped.

A chapter holds as long as a run from nothing would give the same pages. What counts is its own
notebook and parameters, the package, the lock file, the installed versions, and the code and
parameters of *all* chapters before it, since it may load what any of them wrote. So a change of
text costs that chapter alone, a change of code that chapter and those after it, and a change of
the package everything. What chapters that no longer hold have written is removed first.

``_build/done/`` in the tree holds for each chapter a record (digest, seconds, files that it wrote)
and, if it came to its end, the executed notebook as the pages show it: a reader who opens the one
in the tree and runs it again changes no page.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from micranet_book import status
from micranet_helpers.files.atomic import write_atomically

FOLDER = Path("_build", "done")  # Sphinx looks for pages in other folders only
_NO_SOURCES = ("_build", "_ext", "runs", ".ipynb_checkpoints", "*.ipynb")

Stamps = dict[str, tuple[int, int]]  # file -> time of its last change, size


def open_tree(root: Path, tree: Path, fresh: bool) -> str:
    """Empty the tree if package, lock file or versions have changed; return their digest."""
    files = [root / "requirements.lock"]
    for folder in (root / "micranet_helpers", root / "book" / "results" / "full"):
        files += (path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts)
    contents = {str(path.relative_to(root)): _hash(path.read_bytes()) for path in files
                if path.is_file()}  # fmt: skip
    sources = _hash(contents, status.versions())
    mark = tree / FOLDER / "sources"
    if fresh or not mark.is_file() or mark.read_text() != sources:
        _empty(tree, sources)
    return sources


def _empty(tree: Path, sources: str) -> None:
    if tree.exists():
        shutil.rmtree(tree)
    (tree / FOLDER).mkdir(parents=True)
    (tree / FOLDER / "sources").write_text(sources)


def _hash(*parts: Any) -> str:
    """Digest bytes, and anything that JSON can hold."""
    found = hashlib.sha256()
    for part in parts:
        known = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        found.update(hashlib.sha256(known).digest())
    return found.hexdigest()


def digests(
    sources: str, tree: Path, notebooks: dict[str, Path], values: dict, names: list[str]
) -> dict[str, str]:
    """Digest the chapters named, and those that the tree has already, in the order of the book."""
    found, before = {}, sources
    for name, path in notebooks.items():
        if name in names or _record(tree, name).is_file():
            text = path.read_bytes()
            cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
            found[name] = _hash(before, text, values.get(name, {}))
            before = _hash(before, name, cells, values.get(name, {}))
    return found


def prepare(root: Path, tree: Path, notebooks: dict[str, Path], found: dict[str, str]) -> None:
    """Remove what no longer holds, then put the sources of the book, as they are now, in place."""
    for path in (tree / FOLDER).glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["digest"] == found.get(path.stem):
            continue
        if record["files"] is None:  # it was killed: nobody knows what it wrote
            _empty(tree, (tree / FOLDER / "sources").read_text())
            break
        for name in record["files"]:
            (tree / name).unlink(missing_ok=True)
        path.unlink()
    ignored = shutil.ignore_patterns(*_NO_SOURCES)
    shutil.copytree(root / "book", tree, ignore=ignored, dirs_exist_ok=True)
    done = times(tree, notebooks)
    for name, source in notebooks.items():
        place = tree / source.relative_to(root / "book")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_record(tree, name, "ipynb") if done.get(name) else source, place)


def _record(tree: Path, name: str, kind: str = "json") -> Path:
    return tree / FOLDER / f"{name}.{kind}"


def times(tree: Path, names: Iterable[str]) -> dict[str, float | None]:
    """Return the seconds of each chapter that was executed, None if it did not come to its end."""
    paths = {name: _record(tree, name) for name in names}
    return {name: json.loads(path.read_text(encoding="utf-8"))["seconds"]
            for name, path in paths.items() if path.is_file()}  # fmt: skip


def begin(tree: Path, name: str, digest: str) -> Stamps:
    """Note that a chapter is being executed; return the state of the files before it."""
    _write(tree, name, {"digest": digest, "seconds": None, "files": None})
    return _stamps(tree)


def end(
    tree: Path, name: str, digest: str, before: Stamps, executed: Path, took: float | None
) -> None:
    """Note which files a chapter wrote and, unless it broke off, the time that it took."""
    files = [file for file, stamp in _stamps(tree).items() if before.get(file) != stamp]
    if took is not None:
        shutil.copy(executed, _record(tree, name, "ipynb"))
    _write(tree, name, {"digest": digest, "seconds": took, "files": files})


def _write(tree: Path, name: str, record: dict[str, Any]) -> None:
    write_atomically(_record(tree, name), json.dumps(record, indent=1).encode())


def _stamps(tree: Path) -> Stamps:
    stamps = {}
    for path in tree.rglob("*"):
        file = path.relative_to(tree)
        if file.parts[0] != FOLDER.parts[0] and path.is_file():
            stamps[str(file)] = path.stat().st_mtime_ns, path.stat().st_size
    return stamps
