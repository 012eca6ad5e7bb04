"""Execute the chapters, list their parameters, build the pages.

The chapters of ``book/`` are sources without outputs. They are executed in a copy of the book at
``_build/executed/<profile>/``, in the order of ``book/_toc.yml``, two at a time, each after those
that it needs (``book/needs.yaml``); the pages are made from that copy. A chapter that still holds
(see :mod:`micranet_book.record`) is not executed again. One that fails does not stop the others,
nor the pages.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from micranet_book import record, status
from micranet_book.chapter import Job, literal, start
from micranet_helpers.files.lock import alone

# What the extra `book` adds (papermill, nbformat, yaml) is imported where it is used, so that a
# reader without it gets the sentence of the command instead of a traceback.

AT_ONCE = 2
"""Chapters that are executed side by side: much of each runs on one core whatever the others do."""

LONGEST = "sweeps", "em", "baselines"
"""Chapters that begin as early as they can: at the end each would run alone."""

Parameters = dict[str, dict[str, Any]]  # chapter -> parameter -> value

# Types that a value from YAML must have, by the annotation in the parameters cell.
_ACCEPTED = {
    "bool": (bool,), "int": (int,), "float": (int, float),
    "str": (str,), "list": (list,), "dict": (dict,),
}  # fmt: skip


class UsageError(ValueError):
    """What was asked for cannot be run; nothing has been executed."""


class ChapterError(ChildProcessError):
    """A chapter or the building of the pages did not come to its end."""


# --- what to run -------------------------------------------------------------------------------


def chapters(book: Path) -> dict[str, Path]:
    """Find the notebooks of a book: name and path of each, in the order of ``_toc.yml``."""
    from sphinx_external_toc.parsing import parse_toc_yaml

    toc = book / "_toc.yml"
    with _reading(toc):
        files = [(book / name).with_suffix(".ipynb") for name in parse_toc_yaml(toc)]
    for path in filter(Path.is_file, files):
        with _reading(path):
            json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {path.stem: path for path in files if path.is_file()}


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Turn whatever goes wrong with a file of the book into one sentence."""
    try:
        yield path
    except UsageError:
        raise
    except Exception as error:  # a broken file makes the libraries raise anything
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{path} cannot be read: put it right, or take it anew from the repository ({reason})."
        ) from None


def _read_yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def load_profile(book: Path, name: str) -> tuple[float, Parameters]:
    """Read a profile, check every name in it; return minutes for a cell, and parameters."""
    known = sorted(path.stem for path in (book / "profiles").glob("*.yaml"))
    if name not in known:
        raise UsageError(f"unknown profile '{name}'; choose one of: {', '.join(known)}.")
    path = book / "profiles" / f"{name}.yaml"
    with _reading(path):
        profile = _read_yaml(path)
        if set(profile) != {"minutes_per_cell", "parameters"}:
            raise ValueError("the keys are minutes_per_cell and parameters")
        minutes, parameters = float(profile["minutes_per_cell"]), profile["parameters"] or {}
        if not 0 < minutes < 1e6:
            raise ValueError("minutes_per_cell must be above 0")
        _check_parameters(chapters(book), parameters)
    return minutes, parameters


def _parse_overrides(texts: list[str]) -> Parameters:
    import yaml

    parsed: Parameters = {}
    for text in texts:
        match = re.fullmatch(r"([^:=]+):(\w+)=(.*)", text, re.DOTALL)
        if match is None:
            raise UsageError(f"cannot read -p {text}; write -p chapter:name=value.")
        chapter, name, value = match.groups()
        try:
            read = value if value.startswith("~") else yaml.safe_load(value)  # "~" alone is null
        except yaml.YAMLError as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"cannot read -p {text} as YAML ({reason}).") from None
        read = os.path.expanduser(read) if isinstance(read, str) else read
        parsed.setdefault(chapter, {})[name] = read
    return parsed


def _check_parameters(notebooks: dict[str, Path], parameters: Parameters) -> None:
    # papermill only logs an unknown name and exits with 0, so that a misspelt one tests nothing.
    for chapter, values in parameters.items():
        _check_chapters([chapter], notebooks)
        declared = inspect_parameters(notebooks[chapter])
        for name, value in values.items():
            if name not in declared:
                raise UsageError(
                    f"chapter '{chapter}' has no parameter '{name}'; "
                    f"it has: {', '.join(declared) or 'none'}."
                )
            kind = declared[name]["inferred_type_name"]
            listed = ast.literal_eval(declared[name]["default"]) if kind == "list" else ()
            items = {type(item).__name__ for item in listed}
            if not _fits(value, kind, items):
                kind += f" of {', '.join(sorted(items))}" if items else ""
                hint = " (YAML wants 1.0e-3, not 1e-3)" if kind == "float" else ""
                raise UsageError(f"{chapter}:{name} must be {kind}, not {value!r}{hint}.")


def _fits(value: Any, kind: str, items: set[str]) -> bool:
    """Compare a value with the type of a parameter, and those of a list with its default's."""
    if kind == "list" and items:
        return type(value) is list and all(
            any(_fits(item, each, set()) for each in items) for item in value
        )
    return type(value) in _ACCEPTED.get(kind, (type(value),))


def _check_chapters(names: list[str], notebooks: dict[str, Path]) -> None:
    for name in names:
        if name not in notebooks:
            raise UsageError(f"unknown chapter '{name}'; choose from: {', '.join(notebooks)}.")


def inspect_parameters(notebook: Path) -> dict[str, dict[str, str]]:
    """Read name, type, default and help of each parameter of a notebook."""
    import papermill

    with _reading(notebook):
        return papermill.inspect_notebook(literal(notebook))


def parameter_table(book: Path, profile: str) -> str:
    """Lay out the parameters of all chapters, with a profile's values, as plain text."""
    _, values = load_profile(book, profile)
    rows = [("chapter", "parameter", "type", "default", profile, "meaning")]
    for chapter, notebook in chapters(book).items():
        for name, item in inspect_parameters(notebook).items():
            value = repr(values[chapter][name]) if name in values.get(chapter, {}) else ""
            kind, default = item["inferred_type_name"], item["default"]
            rows.append((chapter, name, kind, default, value, item["help"].strip()))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(pad)


# --- running -----------------------------------------------------------------------------------


def run_book(
    root: Path,
    profile: str,
    overrides: list[str] | None = None,
    names: list[str] | None = None,
    fresh: bool = False,
) -> Path:
    """Execute chapters (all by default) that no longer hold, two at a time, each after its needs.

    ``overrides`` are texts ``chapter:name=value`` and win over the profile; ``fresh`` forgets
    earlier runs. Returns the copy of the book, with ``status.json`` in it. Each chapter has a
    working folder in it (:func:`micranet_book.record.work_folder`), unless ``MICRANET_WORKDIR``
    names another one for all (:mod:`micranet_helpers.lessons.workdir`).
    """
    notebooks = chapters(root / "book")
    minutes, parameters = load_profile(root / "book", profile)
    _check_chapters(names or [], notebooks)
    selected = {name: path for name, path in notebooks.items() if not names or name in names}
    extra = _parse_overrides(overrides or [])
    _check_parameters(selected, extra)
    values = {name: parameters.get(name, {}) | extra.get(name, {}) for name in notebooks}

    tree = tree_of(root, profile)
    with _reading(root / "book" / "needs.yaml") as path:
        needs = {name: list(needed) for name, needed in _read_yaml(path).items()}
    threads = max((os.cpu_count() or 1) // AT_ONCE, 1)
    with alone(tree.parent, tree.name):
        sources = record.open_tree(root, tree, fresh)
        digests = record.digests(sources, tree, notebooks, values, list(selected), needs)
        record.prepare(root, tree, notebooks, digests, list(selected))
        jobs = {
            name: Job(str(path), str(tree / path.relative_to(root / "book")), str(tree),
                      digests[name], values[name], minutes, threads)
            for name, path in selected.items()
        }  # fmt: skip
        _run_all(
            tree, jobs, needs, lambda: status.write(tree, profile, record.times(tree, notebooks))
        )
    _summarise(tree, record.times(tree, selected))
    return tree


def tree_of(root: Path, profile: str) -> Path:
    """Name the folder of the executed chapters of a profile."""
    return root / "_build" / "executed" / profile


def _run_all(
    tree: Path, jobs: dict[str, Job], needs: record.Needs, note: Callable[[], None]
) -> None:
    """Execute chapters in the order of the book, as far as their needs and free places allow."""
    places = {name: f"[{number}/{len(jobs)}] {name}" for number, name in enumerate(jobs, 1)}
    done = {name: took for name, took in record.times(tree, jobs).items() if took}
    for name, took in done.items():
        print(f"{places[name]} has not changed (it took {took} s)", flush=True)
    waiting = sorted(
        (name for name in jobs if name not in done), key=lambda name: name not in LONGEST
    )
    running: dict[str, subprocess.Popen] = {}
    try:
        while waiting or running:
            missing = {*waiting, *running}
            ready = [name for name in waiting if missing.isdisjoint(needs.get(name, ()))]
            for name in ready[: AT_ONCE - len(running)]:
                waiting.remove(name)
                print(f"{places[name]} ...", flush=True)
                record.begin(tree, name, jobs[name].digest, needs.get(name, ()))
                running[name] = start(jobs[name])
            time.sleep(0.1)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                _report(tree, jobs[name], places[name], running.pop(name).returncode)
                note()
    finally:
        for process in running.values():
            process.stdin.close()  # it stops its kernel, and then itself
        for process in running.values():
            process.wait()


def _report(tree: Path, job: Job, place: str, code: int) -> None:
    name = Path(job.source).stem
    took = record.times(tree, [name])[name]
    print(f"{place} {f'done in {took} s' if took else 'failed'}", flush=True)
    if took is None:
        reason, lines = record.fault(tree, name) or (f"ended with exit code {code}", "")
        said = f"\nmicranet-book: chapter '{name}' {reason}", lines, f"see {job.output}"
        print(*said, sep="\n", file=sys.stderr, flush=True)


def _summarise(tree: Path, times: dict[str, float | None]) -> None:
    failed = [name for name, took in times.items() if took is None]
    done, total = len(times) - len(failed), sum(filter(None, times.values()))
    print(f"{done} of {len(times)} chapters in {total:.1f} s: {tree}", flush=True)
    if failed:
        raise ChapterError(
            f"{len(failed)} of {len(times)} chapters failed: {', '.join(failed)}. "
            "Their pages show the error; the same command repeats only these."
        )


# --- the pages ---------------------------------------------------------------------------------


PAGES = """
import sys; from micranet_book.chapter import end_with_parent; end_with_parent()
from jupyter_book.cli.main import main; sys.exit(main())"""
"""Makes the pages, and ends with the one that wants them."""


def build_html(tree: Path, output: Path) -> Path:
    """Build the pages of an executed copy in ``output/_build/html``; return ``index.html``.

    Warnings are errors, but the pages are there all the same, if Sphinx could make them at all.
    """
    options = ["build", str(tree), "--path-output", str(output), "-W", "--keep-going"]
    with alone(tree.parent, tree.name):
        if (output / "_build").exists():
            shutil.rmtree(output / "_build")
        if (tree / "status.json").is_file():
            status.write_tables(tree)
        command = [sys.executable, "-c", PAGES, *options]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as made:
            made.wait()
    index = index_of(output)
    if not index.is_file():
        raise ChapterError("the pages could not be built; the messages above say why.")
    if made.returncode:
        raise ChapterError("the pages are built, but with warnings, which are listed above.")
    return index


def index_of(output: Path) -> Path:
    """Name the first of the pages."""
    return output / "_build" / "html" / "index.html"
