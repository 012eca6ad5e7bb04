"""What does a pixel of a large image cost? python benchmarks/large.py [--sides 512] [--save FILE]

Finds the objects of square tiled TIFFs, each in a fresh process: all blocks of one image, with the
shipped network of cells or, "light", a mean of 9 × 9 px in its place, which leaves what reading,
joining and writing cost. Images up to 4,096² take the way of small ones.
"""

import argparse
import datetime
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import torch
from scipy.ndimage import gaussian_filter, uniform_filter
from table import report

from micranet_helpers import predict as predicting
from micranet_helpers.predict import large, ways

PATCH, WIDTH = 512, 40.0  # px: of noise, repeated, and of a usual blob


def mean(models: object, image: np.ndarray, *_: object) -> np.ndarray:
    """Score both classes of an image (1, H, W) by a mean of 9 × 9 px instead of a network."""
    return np.repeat(uniform_filter(image, (0, 9, 9)) - 0.5, 2, 0)


def blobs(side: int, sigma: float = 6) -> np.ndarray:
    """Make an image of blobs, uint8 (side, side)."""
    noise = gaussian_filter(np.random.default_rng(0).random((side, side)), sigma, mode="wrap")
    return ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)


def written(folder: Path, side: int) -> None:
    """Write an image of blobs, a tile at a time."""
    patch = blobs(PATCH, 14)
    tiles = (patch for _ in range((side // PATCH) ** 2))
    tifffile.imwrite(folder / "a.tif", tiles, shape=(side, side), dtype=np.uint8,
                     tile=(PATCH, PATCH), compression="zlib")  # fmt: skip


def measured(side: int, network: str) -> tuple[float, float, float]:
    """Seconds, peak of memory in MB, and objects of one image, in a process of its own."""
    command = [sys.executable, __file__, "--one", str(side), network]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()[-3:]))


def one(side: int, network: str) -> None:
    """Print the seconds, MB and objects of :func:`measured`."""
    if network == "light":
        ways.pixel_scores = large.pixel_scores = mean
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder) / "images", Path(folder) / "out"
        images.mkdir()
        written(images, side)
        start = time.perf_counter()
        predicting.predict(images, "shipped:cells", out, object_px=WIDTH)
        took = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        header, row, *_ = (out / "summary.csv").read_text().split("\n")
        print(took, peak, row.split(",")[header.split(",").index("objects")])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048, 4096, 8192, 20480])
    parser.add_argument("--network", choices=("shipped", "light"), default="shipped")
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(int(args.one[0]), args.one[1])
        return
    head = (
        f"{datetime.date.today()}, CPU {platform.machine()}, {platform.system()}, "
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}: "
        f"one image, network {args.network}, tiles of {large.TILE} px."
    )
    rows = [["side, px", "Mpx", "seconds", "seconds a Mpx", "peak memory, MB", "objects"]]
    for side in args.sides:
        took, peak, objects = measured(side, args.network)
        area = side**2 / 1e6
        rows.append([str(side), f"{area:.1f}", f"{took:.1f}", f"{took / area:.2f}", f"{peak:.0f}",
                     f"{objects:.0f}"])  # fmt: skip
    report(head, rows, args.save)


if __name__ == "__main__":
    main()
