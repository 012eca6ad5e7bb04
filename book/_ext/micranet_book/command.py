"""Read the command line of the book: run chapters, build pages, list parameters."""

import argparse
import importlib.util
from pathlib import Path

from micranet_book import runner
from micranet_book.runner import ChapterError, UsageError


def run(argv: list[str]) -> None:
    """Run the command line for :func:`micranet_helpers.lessons.command.main`."""
    args = _parser().parse_args(argv)
    _require_book(Path.cwd())
    args.command(Path.cwd(), args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="micranet-book", description="Run and build the book.")
    commands = parser.add_subparsers(required=True)
    for name, command, text in (
        ("run", _run, "execute chapters into _build/executed/<profile>/"),
        ("build", _build, "execute all chapters, then build the pages in book/_build/html/"),
        ("list", _list, "show the parameters of all chapters"),
        ("networks", _networks, "train anew the networks that ship with the package"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command, chapters=[], parameters=[])
        if name == "networks":
            sub.add_argument("names", nargs="*", metavar="name", help="default: all")
            continue
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
    runner.run_book(root, args.profile, args.parameters, args.chapters, args.fresh)


def _build(root: Path, args: argparse.Namespace) -> None:
    problems = []
    try:
        runner.run_book(root, args.profile, args.parameters, fresh=args.fresh)
    except ChapterError as error:
        problems.append(str(error))
    try:
        runner.build_html(runner.tree_of(root, args.profile), root / "book")
    except ChapterError as error:
        problems.append(str(error))
    index = runner.index_of(root / "book")
    if index.is_file():
        print(index, flush=True)
    if problems:
        raise ChapterError("\n".join(problems))


def _list(root: Path, args: argparse.Namespace) -> None:
    print(runner.parameter_table(root / "book", args.profile))


def _networks(root: Path, args: argparse.Namespace) -> None:
    from micranet_book import networks  # loads torch, as the next does
    from micranet_helpers.files.provenance import provenance

    if unknown := set(args.names) - {*networks.SHIPPED}:
        raise UsageError(f"no network is called {', '.join(sorted(unknown))}: choose among "
                         f"{', '.join(networks.SHIPPED)}.")  # fmt: skip
    if str(provenance()["commit"]).endswith("+changes"):
        raise UsageError("commit your changes first: the model cards name the commit.")
    networks.make(root, args.names or [*networks.SHIPPED])
