"""How good are masks from image-level labels? python benchmarks/digits.py [--seeds 3] [--save FILE]

Runs the quick-start chapter once for each seed (a new split, new canvases, a new network), with
more canvases than in the chapter, and prints mean ± standard deviation as a Markdown table.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import papermill

from micranet_helpers.lessons import results

CHAPTER = Path(__file__).parents[1] / "book" / "quickstart.ipynb"
VALUES = {"num_train": 20000, "epochs": 3, "num_cluttered": 20}


def run(seed: int) -> dict[str, Any]:
    """Run the chapter in an empty folder and return the results that it saved."""
    os.environ["TQDM_DISABLE"] = "1"
    values = VALUES | {"seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        done = Path(folder) / "done.ipynb"
        papermill.execute_notebook(CHAPTER, done, values, cwd=folder, progress_bar=False)
        return results.load(Path(folder) / "results" / "quickstart.json")


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    args = parser.parse_args()
    runs = []
    for seed in range(args.seeds):
        runs.append(run(seed))
        print(f"seed {seed}: {runs[-1]['metrics']}", flush=True)
    first, seconds = runs[0], [round(each["seconds"]["training"]) for each in runs]
    about = first["provenance"]
    text = (
        f"{about['date'][:10]}, {about['device']}, torch {about['versions']['torch']}. "
        f"{first['dataset']}, {first['parameters']}; test digits, n = {first['n']}, crowded "
        f"{VALUES['num_cluttered']}; labels used: {first['labels_used']}; "
        f"training {min(seconds)} to {max(seconds)} s.\n\n{results.summary(runs)}\n"
    )
    print(text)
    if args.save:
        args.save.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
