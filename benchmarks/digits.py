"""How good are masks from image-level labels? python benchmarks/digits.py [--seeds 3] [--save FILE]

Runs the quick-start chapter once for each seed (a new split, new canvases, a new network) and
prints mean ± standard deviation of its numbers as a Markdown table.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import papermill
from table import report

CHAPTER = Path(__file__).parents[1] / "book" / "quickstart.ipynb"
SHOWN = (
    "labels right", "canvases all right", "pixel F1", "pixel F1, published recipe",
    "pixel F1, digit or background", "pixel F1, crowded canvases",
)  # fmt: skip


def results_of(seed: int) -> dict:
    """Run the chapter in an empty folder and return the numbers that it wrote."""
    os.environ["TQDM_DISABLE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        done = Path(folder) / "done.ipynb"
        papermill.execute_notebook(CHAPTER, done, {"seed": seed}, cwd=folder, progress_bar=False)
        return json.loads((Path(folder) / "results" / "quickstart.json").read_text())


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    args = parser.parse_args()
    runs = []
    for seed in range(args.seeds):
        runs.append(results_of(seed))
        print(f"seed {seed}: {runs[-1]}", flush=True)
    first, seconds = runs[0], [run["seconds of training"] for run in runs]
    head = (
        f"{datetime.date.today()}, {first['device']} with {os.cpu_count()} cores, "
        f"{platform.system()} {platform.machine()}, torch {first['torch']}. "
        f"{first['dataset']}, {first['split']} (n = {first['n']}, crowded {first['n crowded']}), "
        f"labels used: {first['labels used']}; mean ± sd of {len(runs)} seeds; "
        f"training {min(seconds)} to {max(seconds)} s."
    )
    rows = [["", "mean ± sd"]]
    for name in SHOWN:
        values = [run[name] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        rows.append([name, f"{statistics.mean(values):.4f} ± {spread:.4f}"])
    report(head, rows, args.save)


if __name__ == "__main__":
    main()
