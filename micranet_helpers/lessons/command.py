"""Run the command ``micranet-book``.

``predict``, ``data`` and ``publish-weights`` work wherever the package is installed. ``run``,
``build``, ``list`` and ``networks`` need a clone of the repository, which holds the chapters and
the package ``micranet_book``.
"""

import argparse
import sys
from collections.abc import Callable

from micranet_helpers.files.signals import TERMINATED, stoppable
from micranet_helpers.files.tables import visible

USAGE = """\
usage: micranet-book {predict,data,publish-weights,run,build,list,networks} ...

  predict           find and measure objects in all images of a folder
  data              list, fetch and remove the data sets of the book
  publish-weights   write trained networks to a zoo file, with a model card
  run, build, list  execute chapters, build the pages, show parameters (in a clone)
  networks          train anew the networks that ship with the package (in a clone)
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done, 1: a file could not be written, a chapter failed or the pages have warnings, 2: bad
    usage, 130: Ctrl-C, 143: stopped by SIGTERM.
    """
    argv = sys.argv[1:] if argv is None else argv
    name, rest = (argv or [""])[0], argv[1:]
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name == "data":
        from micranet_helpers.data.fetch import cli

        with stoppable():
            return cli.main(rest)
    if name in ("predict", "publish-weights"):
        return _guarded(_predict if name == "predict" else _publish, rest)
    try:
        from micranet_book import command
    except ImportError:
        return _complain(f"{name or 'this command'} needs the chapters: clone the repository and "
                         "run `make book` or `pip install -e .[book]` there.")  # fmt: skip
    return _guarded(command.run, argv)


def _guarded(command: Callable[[list[str]], None], argv: list[str]) -> int:
    """Run a command; what goes wrong is one sentence and an exit code."""
    try:
        with stoppable():
            command(argv)
    except (ValueError, TypeError, ImportError, FileNotFoundError, FileExistsError) as error:
        return _complain(error)
    except OSError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("stopped; the same command continues from here.", 130)
    except SystemExit as end:  # argparse ends so, too
        if end.code != TERMINATED:
            raise
        return _complain("stopped; the same command continues from here.", TERMINATED)
    return 0


def _predict(argv: list[str]) -> None:
    args = vars(_predict_parser().parse_args(argv))
    from micranet_helpers.predict import predict  # loads torch

    given = {name: value for name, value in args.items() if value is not None}
    report = predict(given.pop("folder"), given.pop("model"), given.pop("out"), **given)
    if report:
        print(visible(f"Open {report}"))


def _predict_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="micranet-book predict",
        description="Find and measure objects in all images of a folder. The same command "
        "continues where it was stopped.",
    )
    parser.add_argument("folder", help="images: TIFF (stacks, too), OME-TIFF, PNG, JPEG, BMP")
    parser.add_argument("--model", required=True, metavar="zoo",
                        help="file of networks, or shipped:NAME")  # fmt: skip
    parser.add_argument("--out", required=True, metavar="folder", help="where to write")
    parser.add_argument("--group", metavar="name", help="of the zoo, where it holds several")
    parser.add_argument(
        "--answers", nargs="+", metavar="csv",
        help="your yes and no about some of the images: they choose the way",
    )  # fmt: skip
    parser.add_argument("--scaling", choices=("fixed", "minmax", "standard"),
                        help="of the images, where the zoo does not say it")  # fmt: skip
    parser.add_argument("--magnification", type=float, metavar="times",
                        help="how much the network sees the images enlarged")  # fmt: skip
    parser.add_argument("--object-px", type=float, metavar="px",
                        help="usual width of an object, magnified: splits those that touch, drops "
                        "crumbs; where the zoo does not say it")  # fmt: skip
    parser.add_argument("--pixel-size-um", type=float, metavar="um",
                        help="side of a pixel of images that do not say it")  # fmt: skip
    parser.add_argument("--scheduler", metavar="address",
                        help="of Dask, for several images at once; local: all cores")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    return parser


def _publish(argv: list[str]) -> None:
    args = _publish_parser().parse_args(argv)
    from micranet_helpers.lessons.model_card import publish_weights  # loads torch

    for path in publish_weights(args.result, _runs(args.models), args.out):
        print(path)


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
