"""Run the command ``micranet-book``.

``data`` and ``publish-weights`` work wherever the package is installed. ``run``, ``build``,
``list`` and ``networks`` need a clone of the repository, which holds the chapters and the package
``micranet_book``.
"""

import argparse
import sys

USAGE = """\
usage: micranet-book {data,publish-weights,run,build,list,networks} ...

  data              list, fetch and remove the data sets of the book
  publish-weights   write trained networks to a zoo file, with a model card
  run, build, list  execute chapters, build the pages, show parameters (in a clone)
  networks          train anew the networks that ship with the package (in a clone)
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done, 1: a file could not be written or a chapter failed, 2: bad usage, 130: Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    name, rest = (argv or [""])[0], argv[1:]
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name == "data":
        from micranet_helpers.data.fetch import cli

        return cli.main(rest)
    if name == "publish-weights":
        return _publish(rest)
    try:
        from micranet_book import runner
    except ImportError:
        return _complain(f"{name or 'this command'} needs the chapters: clone the repository and "
                         "run `make book` or `pip install -e .[book]` there.")  # fmt: skip
    return runner.main(argv)


def _publish(argv: list[str]) -> int:
    args = _publish_parser().parse_args(argv)
    from micranet_helpers.zoo.model_card import publish_weights  # loads torch

    try:
        for path in publish_weights(args.result, _runs(args.models), args.out):
            print(path)
    except (ValueError, ImportError, FileNotFoundError, FileExistsError) as error:
        return _complain(error)
    except OSError as error:
        return _complain(error, 1)
    return 0


def _publish_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="micranet-book publish-weights",
        description="Write trained networks to a zoo file, with a model card.",
    )
    parser.add_argument("result", help="JSON file that says what was measured")
    parser.add_argument(
        "--model", dest="models", action="append", required=True, metavar="name=run[,run...]",
        help="group of the zoo and folder of its run, or of its folds (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="folder", help="where to write")
    return parser


def _runs(texts: list[str]) -> dict[str, list[str]]:
    """Read ``name=run,run`` into folders by name."""
    runs: dict[str, list[str]] = {}
    for text in texts:
        name, sign, folders = text.partition("=")
        if not (name and sign and all(folders.split(","))):
            raise ValueError(f"cannot read --model {text}; write --model name=run or name=run,run.")
        if name in runs:
            raise ValueError(f"two models are named {name}; give each a name of its own.")
        runs[name] = folders.split(",")
    return runs


def _complain(error: Exception | str, code: int = 2) -> int:
    print(f"micranet-book: {error}", file=sys.stderr)
    return code
