"""What masks would give: python benchmarks/ceiling.py em ctc pvivax [--subset small]

Trains the U-Net of the chapters on the *masks* of the training images (of P. vivax, which has
none, on the filled boxes of infected cells), with all settings of self-training, and measures it
on the same test images, beside the results of image-level labels alone from results.py. Networks
and data are those of --folder, as there.
"""

import ast
import os
from itertools import product
from pathlib import Path

import numpy as np
import torch
from micranet_book import runner
from results import BOOK, KEPT, head_of, keep, options
from table import report

from micranet_helpers import metrics
from micranet_helpers.data import ctc, dataset, em, pvivax
from micranet_helpers.lessons import results, training
from micranet_helpers.maps import detect, recipes, selftraining
from micranet_helpers.maps.combination import gaussian
from micranet_helpers.maps.segmentation import segment
from micranet_helpers.networks.unet import UNet

SOURCES = {"em": em, "ctc": ctc, "pvivax": pvivax}
LABELS = {
    "em": "masks of all training and validation images",
    "ctc": "masks of all training and validation images",
    "pvivax": "boxes of all training and validation fields",
}  # fmt: skip


def settings(chapter: str, profile: str) -> dict:
    """All parameters of a chapter, with the values of a profile."""
    notebook = runner.chapters(BOOK)[chapter]
    values = {
        name: ast.literal_eval(item["default"])
        for name, item in runner.inspect_parameters(notebook).items()
    }
    return values | runner.load_profile(BOOK, profile)[1].get(chapter, {})


def target(chapter: str, sample: dataset.Sample) -> np.ndarray:
    """Make the target of the U-Net, float32 (K, H, W): 1, 0, or NaN for a difficult cell.

    An infected cell without a box, as at the border, is painted as background.
    """
    present = (sample.label > 0).astype(np.float32)
    if chapter != "pvivax":
        return present
    infected, difficult = present[0], present[2] > present[0]
    return np.where(difficult, np.float32(np.nan), infected)[None]


def painted(chapter: str, path: Path, split: str) -> selftraining.Painted:
    """Images and masks of a split."""
    samples = list(dataset.read(path, split))
    return [each.pixels for each in samples], [target(chapter, each) for each in samples]


def curve(unet: UNet, path: Path, split: str) -> metrics.Curve:
    """Precision and recall of infected cells for every threshold, as the chapter measures them."""
    samples, recipe = list(dataset.read(path, split)), recipes.recipe("pvivax")
    points = []
    for sample in samples:
        logits = segment(unet, torch.from_numpy(sample.pixels)[None], recipe, 256).scores[0, 0]
        points.append(detect.peaks(gaussian(logits.sigmoid(), 6), 20, 0))
    boxes = zip(*[pvivax.counted(sample, edge=16) for sample in samples], strict=True)
    return metrics.precision_recall(points, *boxes, slack=4)


def best_f1(validation: metrics.Curve, testing: metrics.Curve) -> float:
    """F1 of the test at the threshold that is best for the boxes of the validation."""
    f1_of = [
        2 * each.precision * each.recall / (each.precision + each.recall).clip(1e-9)
        for each in (validation, testing)
    ]
    reached = testing.thresholds >= validation.thresholds[f1_of[0].argmax()]
    return float(f1_of[1][reached][-1]) if reached.any() else 0.0


@torch.no_grad()
def measure(chapter: str, unet: UNet, path: Path) -> dict[str, float]:
    """Pixel F1 on the test split, of each class where it is the line's own; F1 of points."""
    if chapter == "pvivax":
        validation, testing = (curve(unet, path, split) for split in ("validation", "testing"))
        return {
            "F1": best_f1(validation, testing), "average precision": testing.average_precision
        }  # fmt: skip
    recipe, tile = recipes.recipe(chapter), 512 if chapter == "em" else None
    found: dict[str, list] = {}
    for sample in dataset.read(path, "testing"):
        masks = segment(unet, torch.from_numpy(sample.pixels)[None], recipe, tile).masks[0]
        own = 2 * ctc.line_of(sample) if chapter == "ctc" else 0
        found.setdefault(own, []).append((masks[own], sample.label[own] > 0))
    names = dataset.describe(path)[0].classes
    lines = {own: f"{names[own].removesuffix(' cell')}: " * (chapter == "ctc") for own in found}
    return {
        f"{lines[own]}pixel F1": metrics.pooled_f1(*zip(*pairs, strict=True))
        for own, pairs in found.items()
    }


def run(chapter: str, seed: int, profile: str, subset: str, folder: Path) -> None:
    """Train on masks, measure, and keep the result."""
    values = settings(chapter, profile) | {"subset": subset}
    source, number, side = values["source"], values["pixel_crops"], values["side"]
    rounds = len(values.get("rings", [0]))
    more = {"em": {"shrink": values.get("shrink")}, "pvivax": {"fold": seed}}.get(chapter, {})
    name = "-".join([f"{chapter}-{source}{subset}", *map(str, more.values())])
    path = SOURCES[chapter].build(
        folder / "data" / f"{name}.h5", source, subset=subset or None, **more
    )
    trained = folder / "runs" / f"{name}-masks-{seed}"
    unet = selftraining.fit_student(
        *(painted(chapter, path, split) for split in ("training", "validation")), side, number,
        trained, values["pixel_epochs"] * rounds, seed,
    )  # fmt: skip
    results.save(
        folder / "results" / f"{chapter}-masks-{seed}.json", dataset=f"{chapter}-masks",
        source=source, split="testing", n=dataset.describe(path)[1]["testing"],
        labels_used=LABELS[chapter], seed=seed, metrics=measure(chapter, unet, path),
        seconds={"training": training.seconds(trained)},
        parameters={"rounds": rounds} | more
        | {name: values[name] for name in ("subset", "pixel_crops", "pixel_epochs")},
    )  # fmt: skip


def tabulate(chapter: str, profile: str) -> None:
    """Write the table: masks, image-level labels, and their ratio seed by seed."""
    masks, labels = (results.collect(KEPT, name) for name in (f"{chapter}-masks", chapter))
    drawn = "boxes" if chapter == "pvivax" else "masks"
    ways = ("evidence", "self-trained") if chapter == "pvivax" else ("self-trained",)
    rows = [["", f"U-Net trained on {drawn}", f"{' or '.join(ways)}, labels of crops", "ratio"]]
    for name, way in product(masks[0]["metrics"], ways):
        ceiling = {each["seed"]: each["metrics"][name] for each in masks}
        ours = {each["seed"]: each["metrics"][f"{name}, {way}"] for each in labels}
        ratio = [ours[seed] / ceiling[seed] for seed in ceiling if seed in ours]
        columns = (list(ceiling.values()), list(ours.values()), ratio)
        row = f"{name}, {way}" if len(ways) > 1 else name
        rows.append([row, *map(results.spread, columns)])
    report(head_of(masks, profile), rows, KEPT / f"{chapter}-masks.md")


def main() -> None:
    """Run all seeds of all chapters that were asked for."""
    args = options(__doc__, SOURCES).parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    for chapter in args.chapters:
        for seed in args.seeds:
            run(chapter, seed, args.profile, args.subset, args.folder.resolve())
    keep(args.folder, [f"{chapter}-masks" for chapter in args.chapters])
    for chapter in args.chapters:
        tabulate(chapter, args.profile)


if __name__ == "__main__":
    main()
