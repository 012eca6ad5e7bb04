"""Does the loader of crops keep up with training? python benchmarks/crops.py [--save FILE]

Writes datasets of noisy images, and times crops in random order: of CropDataset, of a dataset
that reads the whole image for each crop (the plain way), of an array in memory (the floor), and
of a training step. Then it measures the peak of memory of writing and of reading datasets of
growing size, each in a process of its own (on Linux).
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from table import report
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from micranet_helpers.data import dataset
from micranet_helpers.data.crops import CropDataset, Rule
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.networks.precision import best_device, choose_precision
from micranet_helpers.train.learner import Shuffle

SIDE = 1024  # of an image, px
RULE = Rule(("bright",), 0.05)
ABOUT = dataset.About(RULE.classes, "this benchmark", "CC0")
DEVICE = best_device()


def images(number: int, dtype: str) -> Iterator[dataset.Sample]:
    """Photon counts of blurred structures: they pack like micrographs, not like zeros."""
    rng = np.random.default_rng(0)
    fields = gaussian_filter(rng.normal(size=(4, SIDE, SIDE)).astype(np.float32), (0, 8, 8))
    for n in range(number):
        field = np.roll(fields[n % 4], rng.integers(SIDE, size=2), (0, 1))
        counts = rng.poisson(60 * (1 + 8 * field).clip(0.1)).clip(0, 255)
        image = counts.astype(np.uint8) if dtype == "uint8" else (counts / 255).astype(np.float32)
        yield dataset.Sample(str(n), image[None], (field[None] > 0.02).astype(np.uint8))


class PlainWay(Dataset):
    """The same crops from a reader of whole images, or from an array in memory."""

    def __init__(self, crops: CropDataset, side: int, pixels: h5py.Dataset | np.ndarray) -> None:
        self.positions, self.labels, self.side = crops.positions, crops.labels, side
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        number, top, left = self.positions[i]
        crop = self.pixels[number][None, top : top + self.side, left : left + self.side]
        whole = np.zeros((1, self.side, self.side), np.float32)
        whole[:, : crop.shape[1], : crop.shape[2]] = crop
        return torch.from_numpy(whole), self.labels[i]


def crops_a_second(data: Dataset, workers: int, seconds: float) -> float:
    """Rate in random order, without the start of the workers."""
    loader = DataLoader(data, 16, sampler=Shuffle(data, 0), num_workers=workers)
    batches = iter(loader)
    next(batches)
    start, seen = time.perf_counter(), 0
    while time.perf_counter() - start < seconds and (batch := next(batches, None)):
        seen += len(batch[0])
    return seen / (time.perf_counter() - start)


def steps_a_second(side: int, seconds: float) -> float:
    """Crops a second of training steps of MICRA-Net."""
    batch = 64 if DEVICE == "cuda" else 8
    model = MICRANet(1, 1).to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    crops = torch.rand(batch, 1, side, side, device=DEVICE)
    labels = torch.ones(batch, 1, device=DEVICE)
    half, seen = choose_precision() != "32-true", -batch  # the first step prepares
    start = time.perf_counter()
    while seen <= 0 or time.perf_counter() - start < seconds:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
            loss = F.binary_cross_entropy_with_logits(model(crops), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the GPU
        seen += batch
        if seen == 0:
            start = time.perf_counter()
    return seen / (time.perf_counter() - start)


def rates(folder: Path, number: int, sides: list[int], seconds: float) -> list[list[str]]:
    """One row for each dtype and side."""
    rows = [[
        "images", "crop, px", "whole image read", "CropDataset", "… augmented", "1 worker",
        "2 workers", "array in memory", "training", "loader / training",
    ]]  # fmt: skip
    training = {side: max(steps_a_second(side, seconds) for _ in range(3)) for side in sides}
    for dtype in ("uint8", "float32"):
        made = images(number if dtype == "uint8" else number // 2, dtype)
        path = dataset.write(folder / f"{dtype}.hdf5", {"training": made}, ABOUT)
        with h5py.File(path) as file:
            stack = file["training/data"]
            memory = stack[:]
            for side in sides:
                crops, augmented = (
                    CropDataset(path, "training", side, side * 3 // 4, RULE, augment=augment)
                    for augment in (False, True)
                )
                plain, floor = (PlainWay(crops, side, pixels) for pixels in (stack, memory))
                cases = [(plain, 0), (crops, 0), (augmented, 0), (augmented, 1), (augmented, 2),
                         (floor, 0)]  # fmt: skip
                found = [crops_a_second(data, workers, seconds) for data, workers in cases]
                ratio = max(found[2:5]) / training[side]
                shown = [f"{rate:.0f}" for rate in (*found, training[side])]
                rows.append([dtype, str(side), *shown, f"{ratio:.1f}"])
    return rows


def peak_mb(reset: bool = False) -> float:
    """Highest memory of this process; getrusage would tell that of its parent, if larger."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def use(what: str, path: str, megabytes: int) -> float:
    """Write or read a dataset, and tell how much the peak of memory rose, MB."""
    if what == "write":
        warm = list(islice(images(4, "uint8"), 4))  # the generator is not what is measured
        before = peak_mb(reset=True)
        repeated = (warm[n % 4] for n in range(megabytes * 10**6 // SIDE**2))
        dataset.write(path, {"training": repeated}, ABOUT)
    else:
        before = peak_mb(reset=True)
        for _ in DataLoader(CropDataset(path, "training", 256, 256, RULE, augment=True), 16):
            pass
    return peak_mb() - before


def peaks(folder: Path, sizes: list[int]) -> str:
    """Tell the memory of fresh processes in a sentence."""
    told = []
    for size in sizes:
        written, read = (
            subprocess.run(
                [sys.executable, __file__, "--one", what, str(folder / "big.hdf5"), str(size)],
                capture_output=True, text=True, check=True,
            ).stdout.strip()
            for what in ("write", "read")
        )  # fmt: skip
        told.append(f"{written} and {read} MB for {size} MB")
    return f"Memory of writing and of reading, by pixels of the dataset: {'; '.join(told)}."


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256], help="of crops, px")
    parser.add_argument("--images", type=int, default=96, help="of the timed dataset")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each timing")
    parser.add_argument("--sizes", type=int, nargs="*", default=[50, 800, 3200], metavar="MB")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(f"{use(args.one[0], args.one[1], int(args.one[2])):.0f}")
        return
    machine = torch.cuda.get_device_name() if DEVICE == "cuda" else f"CPU {platform.machine()}"
    head = (
        f"{datetime.date.today()}, {machine}, {os.cpu_count()} cores, {platform.system()}, torch "
        f"{torch.__version__}, {choose_precision()}: crops a second in random order, images of "
        f"{SIDE}² px, the ratio that of augmented crops with the best number of workers."
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = rates(Path(folder), args.images, args.sides, args.seconds)
        if args.sizes:
            head = f"{head} {peaks(Path(folder), args.sizes)}"
    report(head, rows, args.save)


if __name__ == "__main__":
    main()
