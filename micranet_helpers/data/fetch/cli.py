"""Command ``micranet-book data``: list, fetch and remove the data sets of the book."""

import argparse
import sys

from micranet_helpers.data.fetch import download, registry


def main(argv: list[str]) -> int:
    """Run ``micranet-book data`` with the arguments after ``data``; none lists the data sets.

    Returns 0: done, 1: a file could not be downloaded or deleted, 2: bad usage, or 130: stopped.
    """
    args = _parser().parse_args(argv)
    try:
        args.command(args)
    except (ValueError, OSError) as error:
        print(f"micranet-book data: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("\nmicranet-book data: stopped; run the same command to go on.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    text = "List the data sets with their terms and what is on this computer; fetch or remove one."
    parser = argparse.ArgumentParser(prog="micranet-book data", description=text)
    parser.set_defaults(command=_list)
    commands = parser.add_subparsers()
    for name, command, text in (
        ("fetch", _fetch, "download what is missing of a data set, and verify it"),
        ("remove", _remove, "delete a data set from this computer"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("name", help="name of the data set, as in the list")
        if command is _fetch:
            sub.add_argument("--subset", help="a part of it, as in the list (default: all)")
    return parser


def _list(args: argparse.Namespace) -> None:
    print(registry.listing(download.cached()))
    print(f"\nThe files are in {download.folder()} (set MICRANET_DATA to change this).")
    print("To delete one: micranet-book data remove NAME")


def _fetch(args: argparse.Namespace) -> None:
    for path in download.fetch(args.name, args.subset):
        print(path)


def _remove(args: argparse.Namespace) -> None:
    print(f"{download.remove(args.name) / registry.MEGABYTE:.1f} MB freed.")
