"""How much of a crop should an object fill? python benchmarks/fill.py [--save FILE]

Draws simulated cells, answers about the same number of crops of several sides, and trains as
the labeller does. A cell's width is that of a disc of its area. Masks of other frames judge.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from table import report

from micranet_helpers import metrics, zoo
from micranet_helpers.data.simulated import cells
from micranet_helpers.files.provenance import provenance
from micranet_helpers.label import loop
from micranet_helpers.label.questions import crops_of_mask
from micranet_helpers.lessons import results
from micranet_helpers.networks import micranet

LINE, FILLS = "PhC-C2DL-PSC", (0.15, 0.25, 0.35, 0.5, 0.8)
ASKED, EPOCHS, TEST = 4, 16, 4  # answers about a frame, epochs, frames to judge by
WIDTHS = (8, 8, 16, 16, 32, 32, 64, 64)  # a quarter of MICRA-Net's channels: it takes minutes


def draw(folder: str, seed: int, number: int, size: int) -> dict[Path, np.ndarray]:
    """Write frames, and return the numbers of their cells."""
    found = {}
    for n in range(number):
        path = Path(folder, f"{n:02}.tif")
        image, found[path] = cells.draw(np.random.default_rng([seed, n]), size, LINE)
        tifffile.imwrite(path, image)
    return found


def answers(found: dict[Path, np.ndarray], side: int, seed: int) -> dict[str, np.ndarray]:
    """Answer about some crops of each frame, drawn at random among those that lie inside it."""
    rng, labels = np.random.default_rng(seed), {}
    for path, cell in found.items():
        shown, inside = crops_of_mask(cell > 0, side), len(cell) // side
        labels[path.name] = np.full((*shown.shape, 1), np.nan, np.float32)
        for n in rng.permutation(inside**2)[:ASKED]:
            labels[path.name][divmod(n, inside)] = shown[divmod(n, inside)]
    return labels


def measure(found: dict[Path, np.ndarray], fill: float, seed: int) -> tuple[float, ...]:
    """Train on answers about crops that a cell fills to a share, and judge the masks."""
    areas = [np.unique(each[each > 0], return_counts=True)[1] for each in found.values()]
    width = np.median(np.sqrt(4 / np.pi * np.concatenate(areas)))
    side = round(width / fill / 8) * 8
    test, train = [*found][:TEST], {file: found[file] for file in [*found][TEST:]}
    labels = answers(train, side, seed)
    yes = np.nanmean(np.concatenate([grid.ravel() for grid in labels.values()]))
    usage = zoo.Usage(("cell",), "minmax", side=side, magnification=1.0)
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(ValueError):  # too few no
        trained = loop.train_now({file.name: file for file in train}, labels, usage,
                                 test[0].with_name("zoo.hdf5"), EPOCHS, folds=2)  # fmt: skip
        masks, true = zip(*[(loop.masks_of(trained, file)[0], found[file] > 0) for file in test],
                          strict=True)  # fmt: skip
        return width / side, side, yes, trained.auc[0], metrics.pooled_f1(masks, true)
    return width / side, side, yes, np.nan, np.nan


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    for name, default in {"seeds": 3, "frames": 30, "size": 480}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args, micranet.WIDTHS = parser.parse_args(), WIDTHS
    runs = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found = draw(folder, seed, TEST + args.frames, args.size)
            runs.append([measure(found, fill, seed) for fill in FILLS])
            print(seed, runs[-1], file=sys.stderr)
    rows = [["fill", "crop, px", "answers yes", "crop AUC", "pixel F1"]]
    rows += [list(map(results.spread, np.transpose(each))) for each in zip(*runs, strict=True)]
    made = provenance()
    report(f"{made['date'][:10]}, {made['device']}, commit {made['commit']}: {LINE}, {args.seeds} "
           f"seeds, {ASKED * args.frames} answers in {args.frames} frames of {args.size}² px, "
           f"{EPOCHS} epochs, a quarter of the channels; {TEST} frames judge.", rows, args.save)


if __name__ == "__main__":
    main()
