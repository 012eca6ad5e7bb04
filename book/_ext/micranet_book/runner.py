"""Execute the chapters, list their parameters, build the pages.

The chapters of ``book/`` are sources without outputs. They are executed, in the order of
``book/_toc.yml``, into a fresh copy of the book at ``_build/executed/<profile>/``, and the
pages are made from that copy: nothing is executed twice and nothing old is ever shown.
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
from pathlib import Path
from typing import IO, Any

from micranet_book import status

# What the extra `book` adds (papermill, nbformat, psutil, yaml) is imported where it is used,
# so that a reader without it gets the sentence of `_require_book` instead of a traceback.

Parameters = dict[str, dict[str, Any]]  # chapter -> parameter -> value

# Types that a value from YAML must have, by the annotation in the parameters cell.
_ACCEPTED = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,)}
_TRACEBACK_LINES = 15


class UsageError(Exception):
    """What was asked for cannot be run; nothing has been executed."""


class ChapterError(Exception):
    """A chapter or the building of the pages did not come to its end."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : list of str, optional
        Arguments after the command's name; those of the process by default.

    Returns
    -------
    int
        0: done, 1: a chapter or the build failed, 2: bad usage, 130: stopped by Ctrl-C.
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
        print("\nmicranet-book: stopped.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="micranet-book", description="Run and build the book.")
    commands = parser.add_subparsers(required=True)
    for name, command, text in (
        ("run", _run, "execute chapters into _build/executed/<profile>/"),
        ("build", _build, "execute all chapters, then make the pages in book/_build/html/"),
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
        if name == "run":
            sub.add_argument("chapters", nargs="*", metavar="chapter", help="default: all")
    return parser


def _require_book(root: Path) -> None:
    if not (root / "book" / "_toc.yml").is_file():
        raise UsageError("there is no book/_toc.yml here; run this in a clone of the repository.")
    if not all(map(importlib.util.find_spec, ("papermill", "jupyter_book"))):
        raise UsageError('the notebook tools are missing; pip install "micranet-helpers[book]".')


def _run(root: Path, args: argparse.Namespace) -> None:
    run_book(root, args.profile, args.parameters, args.chapters)


def _build(root: Path, args: argparse.Namespace) -> None:
    tree = run_book(root, args.profile, args.parameters)
    print(build_html(tree, root / "book"))


def _list(root: Path, args: argparse.Namespace) -> None:
    print(parameter_table(root / "book", args.profile))


# --- what to run -------------------------------------------------------------------------------


def chapters(book: Path) -> dict[str, Path]:
    """Find the notebooks of a book.

    Parameters
    ----------
    book : Path
        Folder with ``_toc.yml``.

    Returns
    -------
    dict of str to Path
        Name (file stem) and path of each notebook, in the order of the table of contents.
    """
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
    """Read one file of ``book/profiles/`` and check every name in it.

    Parameters
    ----------
    book : Path
        Folder of the book.
    name : str
        Stem of the profile's file.

    Returns
    -------
    time_limit : float
        Seconds that one chapter may take.
    parameters : dict
        For each chapter the values that replace its own.
    """
    known = sorted(path.stem for path in (book / "profiles").glob("*.yaml"))
    if name not in known:
        raise UsageError(f"unknown profile '{name}'; choose one of: {', '.join(known)}.")
    profile = _read_yaml(book / "profiles" / f"{name}.yaml")
    if set(profile) != {"time_limit", "parameters"}:
        raise UsageError(f"{name}.yaml must have the keys time_limit and parameters, no others.")
    parameters = profile["parameters"] or {}
    _check_parameters(chapters(book), parameters)
    return profile["time_limit"], parameters


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
    """Read the cell tagged ``parameters`` of a notebook.

    Parameters
    ----------
    notebook : Path
        A chapter.

    Returns
    -------
    dict of str to dict
        For each parameter its ``name``, ``inferred_type_name``, ``default`` and ``help``.
    """
    import papermill

    return papermill.inspect_notebook(notebook)


def parameter_table(book: Path, profile: str) -> str:
    """Lay out the parameters of all chapters as plain text.

    Parameters
    ----------
    book : Path
        Folder of the book.
    profile : str
        Profile whose values are shown beside the defaults.

    Returns
    -------
    str
        A line for each parameter: chapter, name, type, default, the profile's value, help.
    """
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
    root: Path, profile: str, overrides: list[str] | None = None, names: list[str] | None = None
) -> Path:
    """Execute chapters, in book order, into a fresh copy of the book.

    Parameters
    ----------
    root : Path
        Folder that holds ``book/``.
    profile : str
        Stem of a file in ``book/profiles/``.
    overrides : list of str, optional
        Single parameters as ``chapter:name=value``; they win over the profile.
    names : list of str, optional
        Chapters to execute; all by default.

    Returns
    -------
    Path
        The copy, ``_build/executed/<profile>/``, with ``status.json`` in it. It is the working
        folder of every chapter, so that a chapter finds the files that earlier ones wrote, unless
        ``MICRANET_WORKDIR`` names another one (:mod:`micranet_helpers.lessons.workdir`).
    """
    notebooks = chapters(root / "book")
    limit, parameters = load_profile(root / "book", profile)
    _check_chapters(names or [], notebooks)
    selected = {name: path for name, path in notebooks.items() if not names or name in names}
    extra = _parse_overrides(overrides or [])
    _check_parameters(selected, extra)

    tree = _fresh_tree(root, profile)
    seconds: dict[str, float] = {}
    for number, (name, source) in enumerate(selected.items(), 1):
        print(f"[{number}/{len(selected)}] {name} ...", flush=True)
        start = time.perf_counter()
        values = parameters.get(name, {}) | extra.get(name, {})
        _execute(source, tree / source.relative_to(root / "book"), tree, values, limit)
        seconds[name] = round(time.perf_counter() - start, 1)
        print(f"[{number}/{len(selected)}] {name} done in {seconds[name]} s", flush=True)
        status.write(tree, profile, seconds)
    print(f"{len(seconds)} chapters in {sum(seconds.values()):.1f} s: {tree}", flush=True)
    return tree


def _fresh_tree(root: Path, profile: str) -> Path:
    # Always from nothing: a file of an earlier run could stand in for one that a chapter
    # no longer writes, and Sphinx passes over the warnings of pages it has seen before.
    tree = root / "_build" / "executed" / profile
    if tree.exists():
        shutil.rmtree(tree)
    ignored = shutil.ignore_patterns("_build", "runs", ".ipynb_checkpoints")
    return Path(shutil.copytree(root / "book", tree, ignore=ignored))


def _execute(source: Path, output: Path, tree: Path, values: dict, limit: float) -> None:
    import yaml

    # On a terminal the reader sees papermill's progress bar; elsewhere stderr goes to a log.
    shown = sys.stderr.isatty()
    command = [sys.executable, "-m", "papermill", str(source), str(output), "--cwd", str(tree)]
    command += ["--kernel", "python3", "--parameters_yaml", yaml.safe_dump(values)]
    command += ["--progress-bar" if shown else "--no-progress-bar"]
    log = output.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file:
        code = _wait(command, limit, None if shown else file)
    reason = {0: "", None: f"took more than {limit} s and was stopped"}.get(code, "failed")
    _check_executed(output, reason, log.read_text(encoding="utf-8", errors="replace"))


def _wait(command: list[str], limit: float, stderr: IO[str] | None) -> int | None:
    # Exit code of the command, or None if it had to be killed at the time limit.
    process = subprocess.Popen(command, env=kernel_environment(), stderr=stderr)
    try:
        return process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _kill_family(process)


def _kill_family(process: subprocess.Popen) -> None:
    # A kernel lives in a session of its own: no signal to papermill or its group reaches it.
    import psutil

    if process.poll() is not None:
        return
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=10)


def kernel_environment() -> dict[str, str]:
    """Environment for a kernel: glibc is told to keep its memory, tqdm to draw no bars.

    A progress bar is of no use in a saved page. By default glibc gives the memory of each large
    tensor back to the system as soon as it is freed; the next tensor is then mapped and zeroed
    again, page by page, which made up half of the CPU time of a forward pass. Systems without
    glibc do not read these variables.

    Returns
    -------
    dict of str to str
        A copy of ``os.environ``; what the user has set is kept.
    """
    gib = str(2**30)
    keep = {"MALLOC_MMAP_THRESHOLD_": gib, "MALLOC_TRIM_THRESHOLD_": gib}
    return {"TQDM_DISABLE": "1", **keep, **os.environ}


def _check_executed(notebook: Path, reason: str, log: str) -> None:
    # Even after exit code 0: papermill takes `raise SystemExit(0)` for the end of a chapter.
    number, cell = _first_unfinished(notebook)
    if cell is None and not reason:
        return
    where = ""
    if cell is not None:
        log = _traceback(cell) or log
        where = f" at code cell {number}: {(cell.source.splitlines() or ['(empty)'])[0]}"
        reason = reason or "ended early"
    tail = re.sub(r"\x1b\[[0-9;]*m", "", log).rstrip().splitlines()[-_TRACEBACK_LINES:]
    lines = [f"chapter '{notebook.stem}' {reason}{where}", *tail]
    raise ChapterError("\n".join([*lines, f"The executed notebook is kept: {notebook}"]))


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


# --- the pages ---------------------------------------------------------------------------------


def build_html(tree: Path, output: Path) -> Path:
    """Make the pages from an executed copy of the book, with warnings as errors.

    Parameters
    ----------
    tree : Path
        What :func:`run_book` returned.
    output : Path
        Folder that gets ``_build/html``; its old ``_build`` is removed first.

    Returns
    -------
    Path
        The first page, ``index.html``.
    """
    if (output / "_build").exists():
        shutil.rmtree(output / "_build")
    if (tree / "status.json").is_file():
        status.write_tables(tree)
    code = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    options = ["build", str(tree), "--path-output", str(output), "-W", "--keep-going"]
    done = subprocess.run([sys.executable, "-c", code, *options])
    index = output / "_build" / "html" / "index.html"
    if done.returncode or not index.is_file():
        raise ChapterError("the pages could not be built; the warnings above say why.")
    return index
