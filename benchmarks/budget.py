"""What do minutes of labelling buy? python benchmarks/budget.py em [--save] [--out FILE]

Simulates an annotator on real micrographs whose masks are known, and judges the masks of test
images that were never asked about. *Yes or no* is what the labeller does: questions from the whole
image down to a crop, then to its quarters. Others give scribbles, boxes or outlines for as long; a
U-Net of the same kind learns from boxes and outlines. Each line that is done is added to ``--out``;
a run that was stopped goes on behind it. ``--save`` keeps the results for the book.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from skimage.measure import regionprops
from table import report

from micranet_helpers import results, zoo
from micranet_helpers.baselines import compare, pixels, supervision
from micranet_helpers.data import ctc, em
from micranet_helpers.data.dataset import Sample, read
from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.label import loop
from micranet_helpers.label import questions as ask
from micranet_helpers.maps import recipes, selftraining
from micranet_helpers.maps.segmentation import pixel_scores

KEPT = Path(__file__).parents[1] / "book" / "results" / "full"
SCRIBBLE, BOX, OUTLINE = 11, 7, 79  # s; sources in book/baselines.ipynb
BLOCK = 256  # side of the parts in which boxes and outlines are drawn, px
SEEN = 8000  # crops that each classifier sees, however many are labelled
EPOCHS = 40  # of each round of the U-Net; one that learns from boxes or outlines has twice as many


@dataclass(frozen=True)
class Subject:
    """Hold what is labelled: its images, and crops of a side, px of an image, as they are shown."""

    build: Callable[[Path], Path]
    plane: int  # of the label
    side: int
    magnification: float
    scaling: str


SUBJECTS = {
    "em": Subject(partial(em.build, source="open", subset="small"), 0, 128, 0.5, "fixed"),
    "Usiigaci": Subject(partial(ctc.build, source="open", subset="small", lines=["Usiigaci"]),
                        0, 48, 2.0, "minmax"),
}  # fmt: skip


class Data:
    """Hold the images to label, the test images, and what is true of both."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        """Write the images to a folder, as a user's would lie there."""
        file = subject.build(folder / "data.h5")
        self.subject, side = subject, round(subject.side * subject.magnification)
        self.usage = zoo.Usage(("object",), subject.scaling, side=side,
                               magnification=subject.magnification)  # fmt: skip
        known = chain(read(file, "training"), read(file, "validation"))
        self.paths, self.true = self._written(folder / "known", known)
        self.tests, self.truth = self._written(folder / "test", read(file, "testing"))
        self.shapes = {name: true.shape for name, true in self.true.items()}

    def _written(self, folder: Path, samples: Iterator[Sample]) -> tuple[dict, dict]:
        folder.mkdir()
        paths, true = {}, {}
        for n, sample in enumerate(samples):
            name = f"{n:02}.tif"
            tifffile.imwrite(folder / name, sample.image)
            paths[name], true[name] = folder / name, sample.label[self.subject.plane].astype(int)
        return paths, true

    def seen(self, path: Path) -> NDArray[np.float32]:
        """Return what networks see of an image."""
        return loop.seen(tifffile.imread(path), self.usage)

    def sampled(self, plane: NDArray) -> NDArray:
        """Take the pixels of a label that networks see, (1, H, W)."""
        rows, columns = ((np.arange(round(px * self.usage.magnification)) + 0.5)
                         / self.usage.magnification for px in plane.shape)  # fmt: skip
        return plane[np.ix_(rows.astype(int), columns.astype(int))][None]


def answered(data: Data, number: int, how: str, seed: int, error: float) -> dict:
    """Answer so many questions, in some order, down to quarters of crops.

    "tree": all images in turn, crops before quarters; "image by image": all about one, then about
    the next; else random crops first, or after half of them those that a network wishes.
    """
    side, rng = data.subject.side, np.random.default_rng(seed)
    names = rng.permutation([*data.shapes])
    shapes = {name: data.shapes[name] for name in names}
    present = {name: ask.crops_of_mask(data.true[name] > 0, side // 2) for name in names}
    given: dict[ask.Question, str] = {}
    simulate = partial(ask.simulate, present, side // 2, answers=given, error=error, seed=seed)
    if how == "random crops":
        boxes = [*ask.open_questions(shapes, side, {}, side)]
        simulate(boxes=[boxes[i] for i in rng.permutation(len(boxes))], number=number)
    elif how == "network chooses":
        simulate(boxes=ask.open_questions(shapes, side, given), number=number // 2)
        chance = {name: grid[..., 0] for name, grid in classified(data, given, seed).chance.items()}
        boxes = [*ask.open_questions(shapes, side, given, side)]
        simulate(boxes=ask.most_useful(boxes, chance, side, len(boxes)), number=number - len(given))
    elif how == "image by image":
        for name in names:
            boxes = ask.all_questions({name: shapes[name]}, side, given)
            simulate(boxes=boxes, number=number - len(given))
    largest = None if how == "tree" else side
    simulate(boxes=ask.all_questions(shapes, side, given, largest), number=number - len(given))
    return given


def classified(data: Data, given: dict, seed: int) -> loop.Trained:
    """Train two classifiers, each on half of the images."""
    grids = ask.known(data.shapes, data.subject.side, given)
    labels = {name: grid[..., None] for name, grid in grids.items()}
    known = sum(np.count_nonzero(~np.isnan(grid)) for grid in labels.values())
    with tempfile.TemporaryDirectory() as folder:
        return loop.train_now(data.paths, labels, data.usage, Path(folder, "zoo.hdf5"),
                              max(round(2 * SEEN / known), 1), folds=2, seed=seed)  # fmt: skip


def by_answers(
    data: Data, minutes: float, seed: int, how: str = "tree", error: float = 0
) -> Iterator[tuple[str, float, list]]:
    """Yield the masks of evidence, and of the U-Net that learns from it."""
    given = answered(data, int(minutes * 60 / ask.SECONDS), how, seed, error)
    spent = len(given) * ask.SECONDS / 60
    trained = classified(data, given, seed)
    yield "evidence", spent, [loop.masks_of(trained, path) for path in data.tests.values()]
    with tempfile.TemporaryDirectory() as folder:
        unet = loop.refine_now(trained, data.paths, [given], Path(folder, "zoo.hdf5"), EPOCHS,
                               seed=seed)  # fmt: skip
    yield "yes or no", spent, [loop.masks_of(trained, path, unet) for path in data.tests.values()]


def by_objects(
    data: Data, minutes: float, seed: int, level: str, each: int
) -> Iterator[tuple[str, float, list]]:
    """Draw boxes or outlines, block by block, and yield the masks of a U-Net that learns them."""
    images, targets, left = [], [], minutes * 60
    for name in np.random.default_rng(seed).permutation([*data.paths]):
        target, left = drawn(data.true[name], level, each, left)
        if not np.isnan(target).all():
            images.append(data.seen(data.paths[name]))
            targets.append(data.sampled(target))
    side = -(-data.usage.side // 16) * 16
    with tempfile.TemporaryDirectory() as folder:
        unet = selftraining.fit_student((images, targets), (images, targets), side,
                                        2 * EPOCHS * loop.CROPS, folder, 1, seed)  # fmt: skip
    images = [data.usage.scaled(tifffile.imread(path)) for path in data.tests.values()]
    masks = [pixel_scores([unet], image, recipes.SELF_TRAINED, data.usage.magnification) > 0
             for image in images]  # fmt: skip
    yield {"BBOX": "boxes", "FS": "outlines"}[level], minutes - left / 60, masks


def drawn(
    label: NDArray[np.integer], level: str, each: int, left: float
) -> tuple[NDArray[np.float32], float]:
    """Draw the objects of one block after the other while there is time; a look costs a second.

    Returns 1, 0 or, in blocks without time, NaN for each pixel, and the time that is left.
    """
    target = np.full(label.shape, np.nan, np.float32)
    shapes, things = supervision.degrade(label, level), regionprops(label)
    blocks = [tuple(int(at) // BLOCK * BLOCK for at in thing.centroid) for thing in things]
    for top, left_of in product(*(range(0, length, BLOCK) for length in label.shape)):
        inside = [thing for thing, place in zip(things, blocks, strict=True)
                  if place == (top, left_of)]  # fmt: skip
        if (left := left - 1 - each * len(inside)) < 0:
            return target, left + 1 + each * len(inside)
        block = target[top : top + BLOCK, left_of : left_of + BLOCK]
        block[np.isnan(block)] = 0
        target[np.isin(shapes, [thing.label for thing in inside])] = 1
    return target, left


def by_scribbles(data: Data, minutes: float, seed: int) -> Iterator[tuple[str, float, list]]:
    """Scribble on all images alike, and yield the masks of a pixel classifier."""
    strokes = int(minutes * 60 / (2 * SCRIBBLE * len(data.paths)))
    if not strokes:
        return
    images = [data.seen(path) for path in data.paths.values()]
    scribbled = [pixels.scribbles(data.sampled(true), strokes, seed=seed + n)
                 for n, true in enumerate(data.true.values())]  # fmt: skip
    forest, masks = pixels.fit(images, scribbled, seed), []
    for name, path in data.tests.items():
        shares = torch.from_numpy(pixels.predict(forest, data.seen(path)))[None]
        whole = torch.nn.functional.interpolate(shares, data.truth[name].shape, mode="bilinear")
        masks.append(whole[0].numpy() > 0.5)
    yield "scribbles", 2 * strokes * len(images) * SCRIBBLE / 60, masks


WAYS = {
    "tree": by_answers,
    "image by image": partial(by_answers, how="image by image"),
    "random crops": partial(by_answers, how="random crops"),
    "network chooses": partial(by_answers, how="network chooses"),
    "2 % wrong": partial(by_answers, error=0.02),
    "5 % wrong": partial(by_answers, error=0.05),
    "scribbles": by_scribbles,
    "boxes": partial(by_objects, level="BBOX", each=BOX),
    "outlines": partial(by_objects, level="FS", each=OUTLINE),
}  # fmt: skip


def measure(data: Data, way: str, minutes: float, seed: int) -> list[dict[str, Any]]:
    """Label, train and judge; one line for each kind of masks."""
    begin, lines = time.perf_counter(), []
    truth = [true[None] for true in data.truth.values()]
    with contextlib.redirect_stdout(sys.stderr):
        for kind, spent, masks in WAYS[way](data, minutes, seed):
            counts = compare.tally(masks, truth, 30)
            lines.append({"way": way, "kind": kind, "minutes": minutes, "spent": spent,
                          "seed": seed, "pixel F1": compare.f1(counts.pixels),
                          "pixels": counts.pixels.tolist(), "objects": counts.objects.tolist(),
                          "seconds": time.perf_counter() - begin})  # fmt: skip
    made = results.provenance()
    return [line | {key: made[key] for key in ("commit", "date", "device")} for line in lines]


def table(lines: list[dict[str, Any]]) -> list[list[str]]:
    """Put the means and spreads over the seeds side by side, a column for each budget."""
    budgets = sorted({line["minutes"] for line in lines})
    kinds = dict.fromkeys((line["way"], line["kind"]) for line in lines)
    rows = [["labels", "masks", *(f"{minutes:g} min" for minutes in budgets)]]
    for way, kind in kinds:
        found = [[line["pixel F1"] for line in lines if (line["way"], line["kind"]) == (way, kind)
                  and line["minutes"] == minutes] for minutes in budgets]  # fmt: skip
        rows.append([way, kind, *(results.spread(each) if each else "–" for each in found)])
    return rows


def keep(dataset: str, data: Data, lines: list[dict[str, Any]]) -> None:
    """Write the results of each seed."""
    for seed in sorted({line["seed"] for line in lines}):
        mine = [line for line in lines if line["seed"] == seed]
        names = [line["kind"] + f", {line['way']}" * (line["way"] != line["kind"])
                 + f", {line['minutes']:g} min" for line in mine]  # fmt: skip
        results.save(
            KEPT / f"budget-{dataset}-open-{seed}.json", dataset=f"budget-{dataset}",
            source="open", seed=seed, n=len(data.tests), labels_used="for each way its own",
            metrics={f"pixel F1, {name}": line["pixel F1"]
                     for name, line in zip(names, mine, strict=True)}
            | {f"minutes, {name}": line["spent"] for name, line in zip(names, mine, strict=True)},
            seconds={name: line["seconds"] for name, line in zip(names, mine, strict=True)},
            parameters={"subset": "small", "seconds": [ask.SECONDS, SCRIBBLE, BOX, OUTLINE],
                        "measured at": ", ".join(sorted({line["commit"] for line in mine}))},
        )  # fmt: skip


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=SUBJECTS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--minutes", nargs="+", type=float, default=[5, 10, 20, 40, 80])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="lines as JSON; what it holds is not done again")
    parser.add_argument("--save", action="store_true", help="keep table and results in the book")
    args = parser.parse_args()
    lines = json.loads(args.out.read_text()) if args.out and args.out.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        data = Data(SUBJECTS[args.dataset], Path(folder))
        for seed, minutes, way in product(args.seeds, args.minutes, args.ways):
            if any((each["way"], each["minutes"], each["seed"]) == (way, minutes, seed)
                   for each in lines):  # fmt: skip
                continue
            lines += measure(data, way, minutes, seed)
            print(way, minutes, seed, [round(each["pixel F1"], 3) for each in lines[-2:]],
                  file=sys.stderr)  # fmt: skip
            if args.out:
                write_atomically(args.out, json.dumps(lines).encode())
    commits = ", ".join(sorted({line["commit"][:10] for line in lines}))
    report(f"{lines[0]['date'][:10]}, {lines[0]['device']}, commit {commits}: {args.dataset}, "
           f"{len(data.paths)} images to label, {len(data.tests)} to judge by; pixel F1, mean ± sd "
           f"over {len({line['seed'] for line in lines})} seeds.", table(lines),
           KEPT.parent / f"budget-{args.dataset}.md" if args.save else None)  # fmt: skip
    if args.save:
        keep(args.dataset, data, lines)


if __name__ == "__main__":
    main()
