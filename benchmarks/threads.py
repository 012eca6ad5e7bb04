"""What do waiting threads cost? python benchmarks/threads.py [--steps 10] [--save FILE]

Times training steps of MICRA-Net in fresh processes, where torch's threads read their settings:
as torch starts, with threads that sleep while they wait (OMP_WAIT_POLICY=PASSIVE), and with one
thread; on the machine as it is, and beside a process that keeps one core busy.
"""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from table import report
from torch.nn import functional as F

from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.networks.precision import best_device, choose_precision

SETTINGS = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one": {"OMP_NUM_THREADS": "1"},
}
NAMES = {
    "default": "as torch starts",
    "passive": "`OMP_WAIT_POLICY=PASSIVE`",
    "one": "one thread",
}
READ_BY_THREADS = ("OMP_", "GOMP_", "KMP_", "MKL_")
WARM_UP = 3


def seconds_of_steps(steps: int, batch: int, side: int, precision: str) -> list[float]:
    """Train for some steps, after a few to warm up, and list the seconds of each."""
    device = best_device()
    half = torch.float16 if precision.startswith("16") else torch.bfloat16
    model = MICRANet(1, 10).train().to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    images = torch.rand(batch, 1, side, side, device=device)
    labels = (torch.rand(batch, 10, device=device) > 0.5).float()
    times = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        with torch.autocast(device, half, enabled=precision != "32-true"):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(logits.float(), labels).backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times[WARM_UP:]


def measured(settings: dict[str, str], *options: object) -> list[float]:
    """Run :func:`seconds_of_steps` in a process of its own, with no other settings of threads."""
    plain = {name: value for name, value in os.environ.items()
             if not name.startswith(READ_BY_THREADS)}  # fmt: skip
    command = [sys.executable, __file__, "--one", *map(str, options)]
    done = subprocess.run(
        command, env=plain | settings, capture_output=True, text=True, check=True
    )
    return [float(value) for value in done.stdout.split()]


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Time every setting, quiet and beside a busy process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        *sizes, precision = args.one
        print(*seconds_of_steps(*map(int, sizes), precision))
        return
    options = args.steps, args.batch, args.side, choose_precision()
    quiet = {name: measured(SETTINGS[name], *options) for name in args.settings}
    with busy_process():
        busy = {name: measured(SETTINGS[name], *options) for name in args.settings}
    head = (
        f"{datetime.date.today()}, {platform.system()} {platform.machine()}, {os.cpu_count()} "
        f"cores, torch {torch.__version__}, {options[-1]}: seconds of one training step of "
        f"{args.batch} × {args.side}², median of {args.steps} (least to most), and times the "
        "quiet median of the first row."
    )
    base = statistics.median(quiet[args.settings[0]])
    rows = [["setting", "quiet, s", "times", "beside one busy process, s", "times"]]
    for name in args.settings:
        row = [NAMES[name]]
        for times in (quiet[name], busy[name]):
            middle = statistics.median(times)
            row += [f"{middle:.3f} ({min(times):.3f} to {max(times):.3f})", f"{middle / base:.2f}"]
        rows.append(row)
    report(head, rows, args.save)


if __name__ == "__main__":
    main()
