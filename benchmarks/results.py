"""The runs behind the results: python benchmarks/results.py em ctc [--seeds 0 1 2] [--subset small]

Runs chapters with the parameters of a profile, once for each seed, and keeps their JSON files and
a table under book/results/full/. Networks and data stay in --folder: a run that was stopped goes
on, and one that is done is only measured again. So long parts can wait: first with
--set "ratios=[]", then without. Where a chapter has folds, a seed is that of the fold of its
number: --seeds 0 1 2 3 4.
"""

import argparse
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import papermill
import yaml
from micranet_book import runner

from micranet_helpers.lessons import results

BOOK = Path(__file__).parents[1] / "book"
KEPT = BOOK / "results" / "full"


def run(chapter: str, seed: int, profile: str, subset: str, others: dict, folder: Path) -> None:
    """Run a chapter in its folder, where it writes its results, too."""
    _, parameters = runner.load_profile(BOOK, profile)
    values = parameters.get(chapter, {}) | {"seed": seed} | others
    if "fold" in runner.inspect_parameters(BOOK / f"{chapter}.ipynb"):
        values["fold"] = seed
    if subset:
        values["subset"] = subset
    done = folder / f"{chapter}-{seed}.ipynb"
    papermill.execute_notebook(BOOK / f"{chapter}.ipynb", done, values, cwd=folder)


def keep(folder: Path, names: Iterable[str]) -> None:
    """Copy results to the book: after all runs, as a changed file makes the commit unclean."""
    KEPT.mkdir(exist_ok=True)
    for name in names:
        for file in (folder / "results").glob(f"{name}-*.json"):
            shutil.copy(file, KEPT)


def head_of(runs: list[dict], profile: str) -> str:
    """Where results come from, in a sentence."""
    origin = runs[0]["provenance"]
    commits = dict.fromkeys(run["provenance"]["commit"] or "unknown" for run in runs)
    subset = runs[0]["parameters"].get("subset") or "all"
    return (
        f"`{profile}` profile, source `{runs[0]['source']}` ({subset}), split {runs[0]['split']}, "
        f"labels used: {runs[0]['labels_used']}; {origin['device']}, "
        f"torch {origin['versions']['torch']}, commit {', '.join(map(_short, commits))}, "
        f"{origin['date'][:10]}."
    )


def _short(commit: str) -> str:
    return commit[:10] + "+changes" * commit.endswith("+changes")


def tabulate(chapter: str, profile: str) -> None:
    """Write the table over the seeds, with where it comes from, of each dataset of a chapter."""
    for dataset in datasets_of(chapter):
        runs = results.collect(KEPT, dataset)
        made = (results.summary if dataset == chapter else results.pivot)(runs)
        if runs[0].get("tallies"):
            made = f"{results.together(runs)}\n\n{made}"
        text = f"{head_of(runs, profile)}\n\n{made}\n"
        (KEPT / f"{dataset}.md").write_text(text, encoding="utf-8")
        print(text)


def datasets_of(chapter: str) -> list[str]:
    """Names under which a chapter keeps its results: its own, of the baselines one a dataset."""
    if chapter != "baselines":
        return [chapter]
    there = dict.fromkeys(run["dataset"] for run in results.collect(KEPT))
    return [name for name in there if name.startswith("baselines-")]


def options(text: str, choices: Iterable[str] | None = None) -> argparse.ArgumentParser:
    """What can be asked for, here and in ceiling.py."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("chapters", nargs="+", choices=choices)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--profile", default="full")
    parser.add_argument("--subset", default="", help="part of the download; by default everything")
    parser.add_argument("--folder", type=Path, default=Path("_build/full"))
    return parser


def main() -> None:
    """Run all seeds of all chapters that were asked for."""
    parser = options(__doc__)
    parser.add_argument("--set", nargs="*", default=[], help="other values, e.g. ratios=[]")
    args = parser.parse_args()
    others = {
        name: yaml.safe_load(text) for name, text in (each.split("=", 1) for each in args.set)
    }
    os.environ["TQDM_DISABLE"] = "1"
    args.folder.mkdir(parents=True, exist_ok=True)
    for chapter in args.chapters:
        for seed in args.seeds:
            run(chapter, seed, args.profile, args.subset, others, args.folder.resolve())
    keep(args.folder, args.chapters)
    for chapter in args.chapters:
        tabulate(chapter, args.profile)


if __name__ == "__main__":
    main()
