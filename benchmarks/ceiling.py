"""What masks would give: python benchmarks/ceiling.py em ctc [--seeds 0 1 2] [--subset small]

Trains the U-Net of the chapters on the *masks* of the training images, with all settings of
self-training, and measures it on the same test images. Beside it stands what image-level labels
alone gave, from the results of results.py. Networks and data are those of --folder, as there.
"""

import ast
import os
import time
from pathlib import Path

import numpy as np
import torch
from results import BOOK, KEPT, head_of, options
from table import report

from micranet_helpers import metrics, pseudo, recipes, results, runner
from micranet_helpers.data import ctc, em, layout
from micranet_helpers.segment import segment
from micranet_helpers.train import fit
from micranet_helpers.unet import UNet

SOURCES = {"em": em, "ctc": ctc}
LABELS = "masks of all training images"


def settings(chapter: str, profile: str) -> dict:
    """All parameters of a chapter, with the values of a profile."""
    notebook = runner.chapters(BOOK)[chapter]
    values = {
        name: ast.literal_eval(item["default"])
        for name, item in runner.inspect_parameters(notebook).items()
    }
    return values | runner.load_profile(BOOK, profile)[1].get(chapter, {})


def crops(path: Path, split: str, number: int, side: int, seed: int) -> pseudo.PixelCrops:
    """Random crops of a split with their masks; augmented for training only."""
    samples = list(layout.read(path, split))
    masks = [(sample.label > 0).astype(np.float32) for sample in samples]
    pixels = [sample.pixels for sample in samples]
    return pseudo.PixelCrops(pixels, masks, side, number, seed, augment=split == "training")


@torch.no_grad()
def measure(chapter: str, unet: UNet, path: Path) -> dict[str, float]:
    """Pixel F1 on the test split, of each class where it is the line's own."""
    recipe, tile = recipes.recipe(chapter), 512 if chapter == "em" else None
    found: dict[str, list] = {}
    for sample in layout.read(path, "testing"):
        masks = segment(unet, torch.from_numpy(sample.pixels)[None], recipe, tile).masks[0]
        own = 2 * ctc.line_of(sample) if chapter == "ctc" else 0
        found.setdefault(own, []).append((masks[own], sample.label[own] > 0))
    names = layout.describe(path)[0].classes
    lines = {own: f"{names[own].removesuffix(' cell')}: " * (chapter == "ctc") for own in found}
    return {
        f"{lines[own]}pixel F1": metrics.pooled_f1(*zip(*pairs, strict=True))
        for own, pairs in found.items()
    }


def run(chapter: str, seed: int, profile: str, subset: str, folder: Path) -> None:
    """Train on masks, measure, and keep the result."""
    begin, values = time.perf_counter(), settings(chapter, profile) | {"subset": subset}
    source, number, side = values["source"], values["pixel_crops"], values["side"]
    name = f"{chapter}-{source}{subset}"
    path = SOURCES[chapter].build(folder / "data" / f"{name}.h5", source, subset=subset or None)
    unet = fit(
        crops(path, "training", number, side, seed),
        crops(path, "validation", number // 8, side, seed),
        folder / "runs" / f"{name}-masks-{seed}", values["pixel_epochs"], batch_size=16,
        learning_rate=3e-3, network="UNet", seed=seed,
    )  # fmt: skip
    results.save(
        KEPT / f"{chapter}-masks-{seed}.json", dataset=f"{chapter}-masks",
        source=source, split="testing", n=layout.describe(path)[1]["testing"],
        labels_used=LABELS, seed=seed, metrics=measure(chapter, unet, path),
        seconds={"all": time.perf_counter() - begin},
        parameters={name: values[name] for name in ("subset", "pixel_crops", "pixel_epochs")},
    )  # fmt: skip


def tabulate(chapter: str, profile: str) -> None:
    """Write the table: masks, image-level labels, and their ratio seed by seed."""
    masks, labels = (results.collect(KEPT, name) for name in (f"{chapter}-masks", chapter))
    rows = [["", "U-Net trained on masks", "self-trained, no mask", "ratio"]]
    for name in masks[0]["metrics"]:
        ceiling = {each["seed"]: each["metrics"][name] for each in masks}
        ours = {each["seed"]: each["metrics"][f"{name}, self-trained"] for each in labels}
        ratio = [ours[seed] / ceiling[seed] for seed in ceiling if seed in ours]
        columns = (list(ceiling.values()), list(ours.values()), ratio)
        rows.append([name, *map(results.spread, columns)])
    report(head_of(masks, profile), rows, KEPT / f"{chapter}-masks.md")


def main() -> None:
    """Run all seeds of all chapters that were asked for."""
    args = options(__doc__, SOURCES).parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    for chapter in args.chapters:
        for seed in args.seeds:
            run(chapter, seed, args.profile, args.subset, args.folder.resolve())
        tabulate(chapter, args.profile)


if __name__ == "__main__":
    main()
