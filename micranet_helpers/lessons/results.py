"""Save what a run measured in small JSON files, and make tables of them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from micranet_helpers import metrics as measures
from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.files.provenance import provenance
from micranet_helpers.files.tables import plain
from micranet_helpers.lessons.baselines.compare import f1

KINDS = ("dataset", "source", "split", "labels_used")  # must agree where runs are compared

MOST_ROWS = 8
"""Rows of a table that are shown at once."""

FIELDS = {*KINDS, "n", "seed", "metrics", "seconds", "notes", "parameters", "provenance"}


def save(
    path: str | Path | None = None, *, dataset: str, source: str, seed: int, n: int,
    metrics: Mapping[str, float], seconds: Mapping[str, float], split: str = "testing",
    labels_used: str = "image-level labels of crops", notes: str = "",
    parameters: Mapping[str, Any] | None = None, tallies: Mapping[str, ArrayLike] | None = None,
) -> Path:  # fmt: skip
    """Write what a run measured, and the machine, versions and commit behind it; return the path.

    ``path`` is the JSON file, by default ``results/<dataset>-<source>-<seed>.json``; its folder is
    made, an old file is replaced. ``dataset``, ``source`` (where its images come from: "open",
    "simulated", …), ``split`` and ``n`` images were measured with a run of a ``seed``. ``metrics``
    are values by name, ``seconds`` durations of steps, s; NaN and infinity are stored as null.
    ``labels_used`` says what the network was trained with, ``notes`` what else a reader must know,
    ``parameters`` are those of the run: text, numbers, lists and mappings of these; ``tallies``
    are what each image adds to F1, by way, as for
    :func:`micranet_helpers.metrics.intervals.f1_interval`, so that runs with other test images can
    be judged together. Raises TypeError if a value is nothing that JSON knows: nothing is written;
    OSError if the disk is full or not writable: an old file is then as before.
    """
    record = _plain({
        "dataset": dataset, "source": source, "split": split, "n": n, "labels_used": labels_used,
        "seed": seed, "metrics": metrics, "seconds": seconds, "notes": notes,
        "parameters": parameters or {}, "tallies": tallies or {}, "provenance": provenance(),
    })  # fmt: skip
    path = Path(path or f"results/{dataset}-{source}-{seed}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode())
    return path


def load(path: str | Path) -> dict[str, Any]:
    """Read what :func:`save` wrote: its arguments, and ``provenance``.

    Metrics and seconds that were not finite are NaN. Raises FileNotFoundError if there is no such
    file, ValueError if it is damaged or no file of results.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: run the chapter that writes it.")
    try:
        record = json.loads(path.read_bytes())
        missing = FIELDS - {*record}
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} holds no results: {error}. Delete it and run again.") from None
    if missing:
        raise ValueError(f"{path} holds no results: it lacks {min(missing)}.")
    for field in ("metrics", "seconds"):
        record[field] = {
            name: math.nan if value is None else value for name, value in record[field].items()
        }
    return record


def collect(folder: str | Path, dataset: str | None = None) -> list[dict[str, Any]]:
    """Read all results of a folder of JSON files, or those of one dataset, as :func:`load` does.

    They are sorted by dataset, source, split, labels used and seed.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: give the one with the results.")
    runs = [load(path) for path in sorted(Path(folder).glob("*.json"))]
    chosen = [run for run in runs if dataset in (None, run["dataset"])]
    return sorted(chosen, key=lambda run: [run[field] for field in (*KINDS, "seed")])


def full(dataset: str) -> list[dict[str, Any]]:
    """Read the runs of a dataset, e.g. "em", of the profile `full` that come with the book.

    They are sorted as by :func:`collect`; the list is empty if there are none.
    """
    package = Path(__file__).parents[1]
    # In a checkout they are in the book, in an installed package beside its code.
    folders = package.parent / "book" / "results" / "full", package / "full"
    there = [folder for folder in folders if folder.is_dir()]
    return collect(there[0], dataset) if there else []


def summary(runs: Sequence[Mapping[str, Any]]) -> str:
    """Make a Markdown table of the metrics of some runs that differ in their seed only.

    It holds mean ± standard deviation (of the sample, n − 1), or "–". Of a metric that is missing
    or NaN in some runs, the number of the others is given. Raises ValueError if there is no run,
    two have the same seed, or they differ in dataset, source, split or labels used.
    """
    _check_alike(runs)
    names = dict.fromkeys(name for run in runs for name in run["metrics"])
    rows = [(name, _spread(runs, name)) for name in names]
    return table(("metric", _heading(runs)), rows)


def spread(values: Sequence[float]) -> str:
    """Format mean ± standard deviation (of the sample, n − 1; of two or more) of one value a run.

    The number of values is added if some are NaN; "–" says that there is none.
    """
    there = np.array(values, float)
    there = there[np.isfinite(there)]
    if not there.size:
        return "–"
    mean, digits = there.mean(), _digits(there.mean())
    sd = f" ± {there.std(ddof=1):.{digits}f}" if there.size > 1 else ""
    of = f" (of {there.size})" if there.size < len(values) else ""
    return f"{mean:.{digits}f}{sd}{of}"


def aside(
    run: Mapping[str, Any] | str | Path, runs: Sequence[Mapping[str, Any]] | None = None
) -> str:
    """Compare one run with the full runs of its dataset, in a Markdown table as of :func:`summary`.

    ``run``, of any source and seed, may be the file of a short run in a chapter; ``runs`` are the
    full ones, maybe none, by default :func:`full` of the dataset. Raises ValueError as
    :func:`summary` where there are others, also if they are of another dataset.
    """
    run = run if isinstance(run, Mapping) else load(run)
    runs = full(run["dataset"]) if runs is None else runs
    head, names = ["metric", f"this run: {run['source']}, n = {run['n']}"], dict(run["metrics"])
    if runs:
        _check_alike(runs)
        if run["dataset"] != runs[0]["dataset"]:
            raise ValueError(f"{run['dataset']} cannot be compared with {runs[0]['dataset']}.")
        head.append(f"full: {runs[0]['source']}, {_heading(runs)}")
        names |= {name: None for each in runs for name in each["metrics"]}
    rows = [
        (name, _number(run["metrics"].get(name)), *([_spread(runs, name)] if runs else []))
        for name in names
    ]
    return table(head, rows)


def pivot(runs: Sequence[Mapping[str, Any]], measure: str = "") -> str:
    """Make a Markdown table of methods by measures, of metrics that are named "measure, method".

    A row for each method, a column for each measure that ends in ``measure``, e.g. "pixel F1", in
    the order in which they come; values and errors are those of :func:`summary`.
    """
    _check_alike(runs)
    pairs = [name.partition(", ") for run in runs for name in run["metrics"]]
    chosen = [pair for pair in pairs if pair[0].endswith(measure) and pair[2]]
    measures, _, methods = map(dict.fromkeys, zip(*chosen, strict=True))
    rows = [(each, *(_spread(runs, f"{name}, {each}") for name in measures))
            for each in methods]  # fmt: skip
    return table((_heading(runs), *measures), rows)


def intervals(tallies: Mapping[str, ArrayLike], corner: str = "") -> str:
    """Make a Markdown table of F1 by way, each with its 95 % interval.

    ``tallies`` are what each image adds to F1, as for
    :func:`micranet_helpers.metrics.intervals.f1_interval`. Further rows say how much the best way
    is above each other on the same images (a paired bootstrap); ``corner`` is the head of the first
    column.
    """
    scores = {way: f1(np.asarray(tally)) for way, tally in tallies.items()}
    rows = [(way, f"{score:.3f}", interval(measures.f1_interval(tallies[way])))
            for way, score in scores.items()]  # fmt: skip
    best = max(scores, key=scores.get)
    rows += [(f"{best}, minus {way}", f"{scores[best] - score:+.3f}",
              interval(measures.gain_interval(tallies[best], tallies[way]), "+"))
             for way, score in scores.items() if way != best]  # fmt: skip
    return table((corner, "F1", "95 % interval"), rows)


def interval(ends: tuple[float, float], sign: str = "") -> str:
    """Format an interval, of a difference with the sign "+"; "–" where there is none (NaN)."""
    return "–" if math.isnan(ends[0]) else " to ".join(f"{end:{sign}.3f}" for end in ends)


def together(runs: Sequence[Mapping[str, Any]]) -> str:
    """Put the tallies of runs with other test images together, and table their :func:`intervals`.

    Raises ValueError as :func:`summary`.
    """
    _check_alike(runs)
    tallies = {way: np.concatenate([run["tallies"][way] for run in runs], 1)
               for way in runs[0]["tallies"]}  # fmt: skip
    images = sum(run["n"] for run in runs)
    return intervals(tallies, f"all {len(runs)} folds, n = {images}")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a Markdown table of texts; the first column is aligned left, the others right.

    Rows beyond :data:`MOST_ROWS` are folded away in a second table. Cells are shown as they are:
    nothing in them is taken for Markdown or HTML.
    """
    lines = [f"| {' | '.join(map(plain, cells))} |" for cells in
             (header, ["---"] + ["---:"] * (len(header) - 1), *rows)]  # fmt: skip
    return folded(lines)


def folded(lines: Sequence[str]) -> str:
    """Join the lines of a Markdown table; rows beyond :data:`MOST_ROWS` are folded away."""
    head, rows = lines[:2], lines[2:]
    shown = "\n".join([*head, *rows[:MOST_ROWS]])
    if more := rows[MOST_ROWS:]:
        opening = f"<details><summary>{len(more)} more row{'s' * (len(more) > 1)}</summary>"
        shown += "\n".join(["", "", opening, "", *head, *more, "", "</details>"])
    return shown


def flat(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Name each number of a table "measure, way" for :func:`save`, as :func:`pivot` reads it.

    ``rows`` are the names of ways and their values by measure, as for :func:`number_table`.
    """
    return {f"{name}, {way}": value for way, row in rows.items() for name, value in row.items()}


def number_table(rows: Mapping[str, Mapping[str, float]], corner: str = "") -> str:
    """Make a Markdown table of numbers: name of each row, and its values by column.

    Whole numbers are shown as they are, others with three digits after the point (one from 10 on);
    NaN and what a row lacks as "–". Columns are those of all rows, in the order in which they come;
    ``corner`` is the head of the first.
    """
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    cells = [(name, *(_number(row.get(column)) for column in columns))
             for name, row in rows.items()]  # fmt: skip
    return table((corner, *columns), cells)


def _plain(value: Any) -> Any:
    """Convert to what JSON knows; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _check_alike(runs: Sequence[Mapping[str, Any]]) -> None:
    if not runs:
        raise ValueError("There are no results: give at least one run.")
    if len({run["seed"] for run in runs}) < len(runs):
        raise ValueError("Two runs have the same seed: keep one result of each seed.")
    for field in KINDS:
        if len(found := sorted({run[field] for run in runs})) > 1:
            raise ValueError(
                f"Results of different {field} cannot share a table: choose one of "
                f"{', '.join(found)}."
            )


def _heading(runs: Sequence[Mapping[str, Any]]) -> str:
    images = " or ".join(map(str, sorted({run["n"] for run in runs})))
    parts = "folds" if len({run["parameters"].get("fold") for run in runs}) > 1 else "seeds"
    several = f"mean ± sd of {len(runs)} {parts}" if len(runs) > 1 else "1 seed"
    return f"{several}, n = {images}"


def _spread(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    return spread([run["metrics"].get(name, math.nan) for run in runs])


def _number(value: float | None) -> str:
    if isinstance(value, int | np.integer):
        return str(value)
    return "–" if value is None or not math.isfinite(value) else f"{value:.{_digits(value)}f}"


def _digits(value: float) -> int:
    return 3 if abs(value) < 10 else 1
