"""What do minutes of labelling buy? python benchmarks/budget.py em [--save] [--out FILE]

Simulates an annotator on real micrographs whose masks or boxes are known, and judges what is found
in test images that were never asked about. *Yes or no* is what the labeller does: questions from
the whole image down to a crop, then to its quarters. Others give scribbles, boxes or outlines for
as long; a U-Net of the same kind learns from boxes and outlines. Each line that is done is added to
``--out``; a run that was stopped goes on behind it. ``--save`` keeps the results for the book.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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

from micranet_helpers import metrics, zoo
from micranet_helpers.data import ctc, em, pvivax
from micranet_helpers.data.dataset import Sample, read
from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.files.provenance import provenance
from micranet_helpers.label import loop
from micranet_helpers.label import questions as ask
from micranet_helpers.lessons import results
from micranet_helpers.lessons.baselines import compare, pixels, supervision
from micranet_helpers.maps import detect, selftraining
from micranet_helpers.maps.segmentation import pixel_scores
from micranet_helpers.predict import objects

KEPT = Path(__file__).parents[1] / "book" / "results" / "full"
SCRIBBLE, BOX, OUTLINE = 11, 7, 79  # s; sources in book/baselines.ipynb
BLOCK = 256  # side of the parts in which boxes and outlines are drawn, px
SEEN = 8000  # crops that each classifier sees, however many are labelled
ASKED = "evidence", "yes or no"  # kinds of masks that come of answers
EPOCHS = 40  # of each round of the U-Net; one that learns from boxes or outlines has twice as many


@dataclass(frozen=True)
class Subject:
    """Hold what is labelled: its images, and crops of a side, px of an image, as they are shown."""

    build: Callable[[Path], Path]
    plane: int  # of the label
    side: int
    magnification: float
    scaling: str
    object_px: float | None = None  # width of an object, as two clicks measure it
    measure: str = "pixel F1"
    folds: int = 0  # of the data: each is the test in turn; 0: there is one test


SUBJECTS = {
    "em": Subject(partial(em.build, source="open", subset="small"), 0, 128, 0.5, "fixed"),
    "ctc": Subject(partial(ctc.build, source="open", subset="small", lines=["Usiigaci"]),
                   0, 48, 2.0, "minmax"),
    # Crops of 192 px at half size found less in the first fold (F1 0.55; these 0.75).
    "pvivax": Subject(partial(pvivax.build, source="open", subset="small"), 0, 96, 1.0, "standard",
                      40, "detection F1", pvivax.FOLDS),
}  # fmt: skip


class Data:
    """Hold the images to label, the test images, and what is true of both."""

    def __init__(self, subject: Subject, folder: Path, fold: int = 0) -> None:
        """Write the images to a folder, as a user's would lie there."""
        file = folder / f"{fold}.h5"
        subject.build(file, **({"fold": fold} if subject.folds else {}))
        self.subject, side = subject, round(subject.side * subject.magnification)
        self.usage = zoo.Usage(("object",), subject.scaling, side=side,
                               magnification=subject.magnification)  # fmt: skip
        known = chain(read(file, "training"), read(file, "validation"))
        self.paths, self.true = self._written(folder / f"{fold}-known", known)
        self.tests, self.truth = self._written(folder / f"{fold}-test", read(file, "testing"))
        self.shapes = {name: sample.image.shape[1:] for name, sample in self.true.items()}

    def _written(self, folder: Path, samples: Iterable[Sample]) -> tuple[dict, dict]:
        folder.mkdir(parents=True)
        paths, true = {}, {}
        for n, sample in enumerate(samples):
            name = f"{n:02}.tif"
            tifffile.imwrite(folder / name, sample.image)
            label = sample.label[self.subject.plane].astype(int)
            paths[name], true[name] = folder / name, replace(sample, label=label)
        return paths, true

    def seen(self, path: Path) -> NDArray[np.float32]:
        """Return what networks see of an image."""
        return loop.seen(tifffile.imread(path), self.usage)

    def sampled(self, plane: NDArray) -> NDArray:
        """Take the pixels of a label that networks see, (1, H, W)."""
        rows, columns = ((np.arange(round(px * self.usage.magnification)) + 0.5)
                         / self.usage.magnification for px in plane.shape)  # fmt: skip
        return plane[np.ix_(rows.astype(int), columns.astype(int))][None]


def asked(data: Data, name: str) -> NDArray[np.bool_]:
    """Mark what makes somebody say yes: objects, or of boxes, which hold much else, the middles."""
    label = data.true[name].label
    if data.subject.measure == "pixel F1":
        return label > 0
    marks = np.zeros(label.shape, bool)
    for thing in regionprops(label):
        marks[tuple(slice((3 * a + b) // 4, (a + 3 * b) // 4) for a, b in
                    zip(thing.bbox[:2], thing.bbox[2:], strict=True))] = True  # fmt: skip
    return marks


def answered(data: Data, number: int, how: str, seed: int, error: float) -> dict:
    """Answer so many questions, in some order, down to quarters of crops.

    "two at a time", as the labeller asks: two images in turn, each crop with its quarters, then the
    next; "image by image": one, then the next; "tree": all images in turn, crops before quarters;
    else random crops first, or after half of them those that a network wishes.
    """
    side, rng = data.subject.side, np.random.default_rng(seed)
    names = rng.permutation([*data.shapes])
    shapes = {name: data.shapes[name] for name in names}
    present = {name: ask.crops_of_mask(asked(data, name), side // 2) for name in names}
    given: dict[ask.Question, str] = {}
    simulate = partial(ask.simulate, present, side // 2, answers=given, error=error, seed=seed)
    if how == "random crops":
        boxes = [*ask.open_questions(shapes, side, {}, side)]
        simulate(boxes=[boxes[i] for i in rng.permutation(len(boxes))], number=number)
    elif how == "network chooses":
        simulate(boxes=ask.open_questions(shapes, side, given), number=number // 2)
        found = loop.chances(classified(data, given, seed), data.paths)
        chance = {name: grid[..., 0] for name, grid in found.items()}
        boxes = [*ask.open_questions(shapes, side, given, side)]
        simulate(boxes=ask.most_useful(boxes, chance, side, len(boxes)), number=number - len(given))
    elif how == "image by image":
        for name in names:
            boxes = ask.open_questions({name: shapes[name]}, side, given, quarters=True)
            simulate(boxes=boxes, number=number - len(given))
    elif how == "tree":
        simulate(boxes=ask.open_questions(shapes, side, given), number=number)
    largest = side if how in ("random crops", "network chooses") else None
    boxes = ask.open_questions(shapes, side, given, largest, quarters=True)
    simulate(boxes=boxes, number=number - len(given))
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
    data: Data, minutes: float, seed: int, how: str = "two at a time", error: float = 0
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
        target, left = drawn(data.true[name].label, level, each, left)
        if not np.isnan(target).all():
            images.append(data.seen(data.paths[name]))
            targets.append(data.sampled(target))
    side = -(-data.usage.side // 16) * 16
    with tempfile.TemporaryDirectory() as folder:
        unet = selftraining.fit_student((images, targets), (images, targets), side,
                                        2 * EPOCHS * loop.CROPS, folder, 1, seed)  # fmt: skip
    images = [data.usage.scaled(tifffile.imread(path)) for path in data.tests.values()]
    masks = [pixel_scores([unet], image, data.usage.magnification) > 0
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
    scribbled = [pixels.scribbles(data.sampled(true.label), strokes, seed=seed + n)
                 for n, true in enumerate(data.true.values())]  # fmt: skip
    forest, masks = pixels.fit(images, scribbled, seed), []
    for name, path in data.tests.items():
        shares = torch.from_numpy(pixels.predict(forest, data.seen(path)))[None]
        whole = torch.nn.functional.interpolate(shares, data.truth[name].label.shape,
                                                mode="bilinear")  # fmt: skip
        masks.append(whole[0].numpy() > 0.5)
    yield "scribbles", 2 * strokes * len(images) * SCRIBBLE / 60, masks


WAYS = {
    "two at a time": by_answers,
    "tree": partial(by_answers, how="tree"),
    "image by image": partial(by_answers, how="image by image"),
    "random crops": partial(by_answers, how="random crops"),
    "network chooses": partial(by_answers, how="network chooses"),
    "2 % wrong": partial(by_answers, error=0.02),
    "5 % wrong": partial(by_answers, error=0.05),
    "scribbles": by_scribbles,
    "boxes": partial(by_objects, level="BBOX", each=BOX),
    "outlines": partial(by_objects, level="FS", each=OUTLINE),
}  # fmt: skip


def judged(data: Data, masks: Sequence[NDArray]) -> dict[str, NDArray[np.int64]]:
    """Count, in each test image, twice what is right, and all found plus all true: (2, N)."""
    if data.subject.measure == "pixel F1":
        truth = [true.label[None] for true in data.truth.values()]
        return dict(zip(("pixel F1", "object F1"), compare.tally(masks, truth, 30), strict=True))
    counts, width = [], data.subject.object_px
    for mask, true in zip(masks, data.truth.values(), strict=True):
        found = objects.numbered(mask[:1], objects.least_area(width), width)[0]
        points = [(row["row"], row["column"]) for row in detect.table(found)]
        pairs = metrics.match_boxes(np.reshape(points, (-1, 2)), *pvivax.counted(true, 16), slack=4)
        counts.append((2 * pairs.tp, pairs.num_pred + pairs.num_true))
    return {"detection F1": np.transpose(counts)}


def measure(data: Data, way: str, minutes: float, seed: int) -> list[dict[str, Any]]:
    """Label, train and judge; one line for each kind of masks."""
    begin, lines = time.perf_counter(), []
    with contextlib.redirect_stdout(sys.stderr):
        for kind, spent, masks in WAYS[way](data, minutes, seed):
            counts = {name: each.tolist() for name, each in judged(data, masks).items()}
            lines.append({"way": way, "kind": kind, "minutes": minutes, "spent": spent,
                          "seed": seed, "counts": counts,
                          "seconds": time.perf_counter() - begin})  # fmt: skip
    made = provenance()
    return [line | {key: made[key] for key in ("commit", "date", "device")} for line in lines]


def pooled(lines: list[dict[str, Any]], measured: str) -> list[dict[str, Any]]:
    """Put the test images of all folds together, and compute F1."""
    runs: dict[tuple, list] = {}
    for line in lines:
        key = line["way"], line["kind"], line["minutes"], line["seed"]
        runs.setdefault(key, []).append(line)
    found = []
    for key, same in runs.items():
        counts = np.concatenate([line["counts"][measured] for line in same], 1)
        minutes, spent = same[0]["minutes"], float(np.mean([line["spent"] for line in same]))
        found.append(same[0] | {
            measured: compare.f1(counts), "n": counts.shape[1], "spent": spent,
            # Once all is answered, the rest of the time is not needed.
            "minutes": round(spent) if key[1] in ASKED and spent < 0.9 * minutes else minutes,
            "seconds": sum(line["seconds"] for line in same),
        })  # fmt: skip
    return found


def table(lines: list[dict[str, Any]], measured: str) -> list[list[str]]:
    """Put the means and spreads over the seeds side by side, a column for each budget."""
    budgets = sorted({line["minutes"] for line in lines})
    kinds = dict.fromkeys((line["way"], line["kind"]) for line in lines)
    rows = [["labels", "masks", *(f"{minutes:g} min" for minutes in budgets)]]
    for way, kind in kinds:
        found = [[line[measured] for line in lines if (line["way"], line["kind"]) == (way, kind)
                  and line["minutes"] == minutes] for minutes in budgets]  # fmt: skip
        rows.append([way, kind, *(results.spread(each) if each else "–" for each in found)])
    return rows


def keep(dataset: str, subject: Subject, lines: list[dict[str, Any]]) -> None:
    """Write the results of each seed; all at once, as a changed file makes the commit unclean."""
    measured = subject.measure
    with tempfile.TemporaryDirectory() as folder:
        for seed in sorted({line["seed"] for line in lines}):
            mine = {line["kind"] + f", {line['way']}" * (line["way"] != line["kind"])
                    + f", {line['minutes']:g} min": line
                    for line in lines if line["seed"] == seed}  # fmt: skip
            first = next(iter(mine.values()))
            results.save(
                Path(folder, f"budget-{dataset}-open-{seed}.json"), dataset=f"budget-{dataset}",
                source="open", seed=seed, n=first["n"], labels_used="for each way its own",
                metrics={f"{measured}, {name}": line[measured] for name, line in mine.items()}
                | {f"minutes, {name}": line["spent"] for name, line in mine.items()},
                seconds={name: line["seconds"] for name, line in mine.items()},
                parameters=subject.build.keywords | {
                    "seconds": [ask.SECONDS, SCRIBBLE, BOX, OUTLINE],
                    "measured at": ", ".join(sorted({line["commit"] for line in mine.values()})),
                },
            )  # fmt: skip
        for file in Path(folder).iterdir():
            shutil.copy(file, KEPT)


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
    done = {tuple(line[key] for key in ("seed", "minutes", "fold", "way")) for line in lines}
    subject = SUBJECTS[args.dataset]
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(max(subject.folds, 1)):
            data = Data(subject, Path(folder), fold)
            for seed, minutes, way in product(args.seeds, args.minutes, args.ways):
                if (seed, minutes, fold, way) in done:
                    continue
                new = measure(data, way, minutes, seed)
                lines += [line | {"fold": fold} for line in new]
                rows = table(pooled(new, subject.measure), subject.measure)
                print(seed, fold, minutes, *rows, file=sys.stderr)
                if args.out:
                    write_atomically(args.out, json.dumps(lines).encode())
    made, lines = lines, pooled(lines, subject.measure)
    commits = ", ".join(sorted({line["commit"][:10] for line in made}))
    if args.save:
        keep(args.dataset, subject, lines)
    report(f"{made[0]['date'][:10]}, {made[0]['device']}, commit {commits}: {args.dataset}, "
           f"{len(data.paths)} images to label, {lines[0]['n']} to judge by; "
           f"{subject.measure}, mean ± sd over {len({line['seed'] for line in lines})} seeds.",
           table(lines, subject.measure),
           KEPT.parent / f"budget-{args.dataset}.md" if args.save else None)  # fmt: skip


if __name__ == "__main__":
    main()
