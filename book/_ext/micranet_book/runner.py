"""Execute the chapters, list their parameters, build the pages.

The chapters of ``book/`` are sources without outputs. They are executed, in the order of
``book/_toc.yml``, in a copy of the book at ``_build/executed/<profile>/``, and the pages are made
from that copy. A chapter that still holds (see :mod:`micranet_book.record`) is not executed again.
One that fails does not stop the others, nor the pages.
"""

import argparse
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micranet_book import faults, record, status

# What the extra `book` adds (papermill, nbformat, yaml) is imported where it is used, so that a
# reader without it gets the sentence of `_require_book` instead of a traceback.

Parameters = dict[str, dict[str, Any]]  # chapter -> parameter -> value

# Types that a value from YAML must have, by the annotation in the parameters cell.
_ACCEPTED = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,)}


class UsageError(Exception):
    """What was asked for cannot be run; nothing has been executed."""


class ChapterError(Exception):
    """A chapter or the building of the pages did not come to its end."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done, 1: a chapter failed or the pages have warnings, 2: bad usage, 130: stopped by Ctrl-C.
    """
    args = _parser().parse_args(argv)
    try:
        _require_book(Path.cwd())
        args.command(Path.cwd(), args)
    except UsageError as error:
        print(f"micranet-book: {error}", file=sys.stderr)
        return 2
    except ChapterError as error:
        print(f"\nmicranet-book: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmicranet-book: stopped; the same command continues from here.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="micranet-book", description="Run and build the book.")
    commands = parser.add_subparsers(required=True)
    for name, command, text in (
        ("run", _run, "execute chapters into _build/executed/<profile>/"),
        ("build", _build, "execute all chapters, then build the pages in book/_build/html/"),
        ("list", _list, "show the parameters of all chapters"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command, chapters=[], parameters=[])
        sub.add_argument("--profile", default="quick", help="file of book/profiles/ (quick)")
        if name != "list":
            sub.add_argument(
                "-p", dest="parameters", action="append", metavar="chapter:name=value",
                help="replace one parameter; the value is read as YAML (may be repeated)",
            )
            sub.add_argument(
                "--fresh", action="store_true", help="forget earlier runs and start from nothing"
            )
        if name == "run":
            sub.add_argument("chapters", nargs="*", metavar="chapter", help="default: all")
    return parser


def _require_book(root: Path) -> None:
    if not (root / "book" / "_toc.yml").is_file():
        raise UsageError("there is no book/_toc.yml here; run this in a clone of the repository.")
    if not all(map(importlib.util.find_spec, ("papermill", "jupyter_book"))):
        raise UsageError('the notebook tools are missing; pip install "micranet-helpers[book]".')


def _run(root: Path, args: argparse.Namespace) -> None:
    run_book(root, args.profile, args.parameters, args.chapters, args.fresh)


def _build(root: Path, args: argparse.Namespace) -> None:
    problems = []
    try:
        run_book(root, args.profile, args.parameters, fresh=args.fresh)
    except ChapterError as error:
        problems.append(str(error))
    try:
        build_html(_tree(root, args.profile), root / "book")
    except ChapterError as error:
        problems.append(str(error))
    index = _index(root / "book")
    if index.is_file():
        print(index, flush=True)
    if problems:
        raise ChapterError("\n".join(problems))


def _list(root: Path, args: argparse.Namespace) -> None:
    print(parameter_table(root / "book", args.profile))


# --- what to run -------------------------------------------------------------------------------


def chapters(book: Path) -> dict[str, Path]:
    """Find the notebooks of a book: name and path of each, in the order of ``_toc.yml``."""
    files = (book / f"{name}.ipynb" for name in _toc_names(_read_yaml(book / "_toc.yml")))
    return {path.stem: path for path in files if path.is_file()}


def _toc_names(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _toc_names(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("root", "file"):
                yield value.removesuffix(".ipynb")
            else:
                yield from _toc_names(value)


def _read_yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def load_profile(book: Path, name: str) -> tuple[float, Parameters]:
    """Read a profile, check every name in it; return minutes for a cell, and parameters."""
    known = sorted(path.stem for path in (book / "profiles").glob("*.yaml"))
    if name not in known:
        raise UsageError(f"unknown profile '{name}'; choose one of: {', '.join(known)}.")
    profile = _read_yaml(book / "profiles" / f"{name}.yaml")
    if set(profile) != {"minutes_per_cell", "parameters"}:
        raise UsageError(f"{name}.yaml must have the keys minutes_per_cell and parameters only.")
    parameters = profile["parameters"] or {}
    _check_parameters(chapters(book), parameters)
    return profile["minutes_per_cell"], parameters


def _parse_overrides(texts: list[str]) -> Parameters:
    import yaml

    parsed: Parameters = {}
    for text in texts:
        match = re.fullmatch(r"([^:=]+):(\w+)=(.*)", text, re.DOTALL)
        if match is None:
            raise UsageError(f"cannot read -p {text}; write -p chapter:name=value.")
        chapter, name, value = match.groups()
        parsed.setdefault(chapter, {})[name] = yaml.safe_load(value)
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
            if type(value) not in _ACCEPTED.get(kind, (type(value),)):
                hint = " (YAML wants 1.0e-3, not 1e-3)" if kind == "float" else ""
                raise UsageError(f"{chapter}:{name} must be {kind}, not {value!r}{hint}.")


def _check_chapters(names: list[str], notebooks: dict[str, Path]) -> None:
    for name in names:
        if name not in notebooks:
            raise UsageError(f"unknown chapter '{name}'; choose from: {', '.join(notebooks)}.")


def inspect_parameters(notebook: Path) -> dict[str, dict[str, str]]:
    """Read name, type, default and help of each parameter of a notebook."""
    import papermill

    return papermill.inspect_notebook(notebook)


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
    """Execute chapters (all by default) that no longer hold, in the order of the book.

    ``overrides`` are texts ``chapter:name=value`` and win over the profile; ``fresh`` forgets
    earlier runs. Returns the copy of the book, with ``status.json`` in it. It is the working folder
    of all chapters, unless ``MICRANET_WORKDIR`` names another one
    (:mod:`micranet_helpers.lessons.workdir`), so that a chapter finds what earlier ones wrote.
    """
    notebooks = chapters(root / "book")
    minutes, parameters = load_profile(root / "book", profile)
    _check_chapters(names or [], notebooks)
    selected = {name: path for name, path in notebooks.items() if not names or name in names}
    extra = _parse_overrides(overrides or [])
    _check_parameters(selected, extra)
    values = {name: parameters.get(name, {}) | extra.get(name, {}) for name in notebooks}

    tree = _tree(root, profile)
    sources = record.open_tree(root, tree, fresh)
    digests = record.digests(sources, tree, notebooks, values, list(selected))
    record.prepare(root, tree, notebooks, digests)
    for number, (name, source) in enumerate(selected.items(), 1):
        at = f"[{number}/{len(selected)}] {name}"
        if took := record.times(tree, notebooks).get(name):
            print(f"{at} has not changed (it took {took} s)", flush=True)
            continue
        print(f"{at} ...", flush=True)
        output = tree / source.relative_to(root / "book")
        took = _run_chapter(Job(source, output, tree, values[name], minutes), digests[name])
        print(f"{at} {f'done in {took} s' if took else 'failed'}", flush=True)
        status.write(tree, profile, record.times(tree, notebooks))
    _summarise(tree, record.times(tree, selected))
    return tree


@dataclass(frozen=True)
class Job:
    """A chapter, where it goes, its working folder, its parameters, and minutes for a cell."""

    source: Path
    output: Path
    tree: Path
    values: dict[str, Any]
    minutes: float


def _tree(root: Path, profile: str) -> Path:
    return root / "_build" / "executed" / profile


def _summarise(tree: Path, times: dict[str, float | None]) -> None:
    failed = [name for name, took in times.items() if took is None]
    done, total = len(times) - len(failed), sum(filter(None, times.values()))
    print(f"{done} of {len(times)} chapters in {total:.1f} s: {tree}", flush=True)
    if failed:
        raise ChapterError(
            f"{len(failed)} of {len(times)} chapters failed: {', '.join(failed)}. "
            "Their pages show the error; the same command repeats only these."
        )


def _run_chapter(job: Job, digest: str) -> float | None:
    """Execute a chapter, report and record how it ended; return its seconds, None if it failed."""
    name, took = job.source.stem, None
    before, start = record.begin(job.tree, name, digest), time.perf_counter()
    try:
        fault = faults.find(job.output, *_execute(job))
        if fault is None:
            took = round(time.perf_counter() - start, 1)
        else:
            faults.show(job.output, *fault)
            said = f"\nmicranet-book: chapter '{name}' {fault[0]}", fault[1], f"see {job.output}"
            print(*said, sep="\n", file=sys.stderr, flush=True)
    finally:
        record.end(job.tree, name, digest, before, job.output, took)
    return took


def _execute(job: Job) -> tuple[str, str]:
    """Execute a notebook; return how it failed, and what was said about that, or two empty texts.

    The limit is on each cell: a chapter that makes progress may take as long as it needs.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError

    try:
        with _environment():
            papermill.execute_notebook(
                job.source, job.output, job.values, kernel_name="python3", cwd=job.tree,
                progress_bar=sys.stderr.isatty(), start_timeout=120, iopub_timeout=60,
                execution_timeout=max(round(60 * job.minutes), 1),
                store_widget_state=False,  # megabytes of pictures that no page shows
                extra_arguments=["--log-level=ERROR"],  # no warning that sockets are not encrypted
            )  # fmt: skip
    except CellTimeoutError:
        return f"made no progress for {job.minutes:g} minutes and was stopped", ""
    except Exception as error:  # whatever ends a chapter, the others go on
        return "failed", str(error)
    return "", ""


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    # papermill hands on the variables of this process.
    before = dict(os.environ)
    os.environ.update(kernel_environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def kernel_environment() -> dict[str, str]:
    """Return ``os.environ`` with what suits a kernel; what the user has set is kept.

    - A progress bar is of no use in a saved page.
    - By default glibc gives the memory of each large tensor back to the system as soon as it is
      freed; the next tensor is then mapped and zeroed again, page by page, which made up half of
      the CPU time of a forward pass. Systems without glibc do not read these variables.
    - While torch's threads wait for each other they keep their cores busy by default. Beside
      another busy process that makes training several times slower (see the measurements).
    """
    gib = str(2**30)
    keep = {"MALLOC_MMAP_THRESHOLD_": gib, "MALLOC_TRIM_THRESHOLD_": gib}
    quiet = {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return {"OMP_WAIT_POLICY": "PASSIVE", **quiet, **keep, **os.environ}


# --- the pages ---------------------------------------------------------------------------------


def build_html(tree: Path, output: Path) -> Path:
    """Build the pages of an executed copy in ``output/_build/html``; return ``index.html``.

    Warnings are errors, but the pages are there all the same, if Sphinx could make them at all.
    """
    if (output / "_build").exists():
        shutil.rmtree(output / "_build")
    if (tree / "status.json").is_file():
        status.write_tables(tree)
    code = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    options = ["build", str(tree), "--path-output", str(output), "-W", "--keep-going"]
    done = subprocess.run([sys.executable, "-c", code, *options])
    index = _index(output)
    if not index.is_file():
        raise ChapterError("the pages could not be built; the messages above say why.")
    if done.returncode:
        raise ChapterError("the pages are built, but with warnings, which are listed above.")
    return index


def _index(output: Path) -> Path:
    return output / "_build" / "html" / "index.html"
