"""What do more workers gain? python benchmarks/many.py [--workers 1 2] [--save FILE]

Finds the objects of images of blobs with the shipped network of cells, by Dask with so many local
workers of one thread each. They are up, and have worked on an image each, before the clock starts.
"""

import argparse
import datetime
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import tifffile
import torch
from distributed import Client, LocalCluster
from large import blobs
from table import report

from micranet_helpers.files.spread import LOCAL
from micranet_helpers.predict import predict


def megabytes() -> float:
    """Memory of this process."""
    return psutil.Process().memory_info().rss / 2**20


def measured(workers: int, images: int, side: int) -> tuple[float, float]:
    """Seconds for so many images, and MB of the largest worker at the end."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=workers, **LOCAL) as cluster, Client(cluster) as client,
    ):  # fmt: skip
        took = []
        for name, count in (("first", workers), ("all", images)):
            place = Path(folder) / name
            place.mkdir()
            for number in range(count):
                tifffile.imwrite(place / f"{number}.tif", np.roll(blobs(side), number, 1))
            start = time.perf_counter()
            predict(place, "shipped:cells", Path(folder) / f"{name} out",
                    scheduler=cluster.scheduler_address)  # fmt: skip
            took.append(time.perf_counter() - start)
        return took[-1], max(client.run(megabytes).values())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    args = parser.parse_args()
    area = args.images * args.side**2 / 1e6
    head = (
        f"{datetime.date.today()}, CPU {platform.machine()}, {platform.system()}, "
        f"{os.cpu_count()} cores, torch {torch.__version__}: {args.images} images of "
        f"{args.side}² px, one thread a worker."
    )
    rows, first = [["workers", "seconds", "seconds a Mpx", "ratio", "MB of a worker"]], None
    for workers in args.workers:
        took, memory = measured(workers, args.images, args.side)
        first = first or took
        rows.append([str(workers), f"{took:.1f}", f"{took / area:.2f}", f"{first / took:.2f}",
                     f"{memory:.0f}"])  # fmt: skip
    report(head, rows, args.save)


if __name__ == "__main__":
    main()
