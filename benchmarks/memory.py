"""What does the allocator cost? python benchmarks/memory.py [--save FILE]

Times one forward pass of 256² images on a CPU, in fresh processes: with the memory layout that
torch starts with and with channels_last, with glibc's thresholds as they are and raised as the
book's runner raises them.
"""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from micranet_book.chapter import kernel_environment
from table import report

from micranet_helpers.networks.micranet import MICRANet

ROUNDS = 15


def forward_ms(batch: int, layout: torch.memory_format) -> float:
    """Median milliseconds an image of one forward pass."""
    model = MICRANet(1, 2).eval().to(memory_format=layout)
    images = torch.rand(batch, 1, 256, 256).contiguous(memory_format=layout)
    times = []
    with torch.no_grad():
        for _ in range(ROUNDS):
            start = time.perf_counter()
            model(images)
            times.append(time.perf_counter() - start)
    return statistics.median(times[2:]) / batch * 1e3


def measured(batch: int, layout: str, raised: bool) -> float:
    """:func:`forward_ms` in a process of its own, where glibc reads its settings."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, __file__, "--one", str(batch), layout]
    environment = kernel_environment() if raised else plain
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(forward_ms(int(args.one[0]), getattr(torch, args.one[1])))
        return
    head = (
        f"{datetime.date.today()}, CPU {platform.machine()}, {platform.system()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, fp32: one forward pass "
        f"of 256² images, median of {ROUNDS - 2} rounds."
    )
    rows = [["images at a time", "layout", "glibc as it is, ms an image", "thresholds raised"]]
    for batch in (1, 4, 16):
        for layout in ("contiguous_format", "channels_last"):
            default, raised = (measured(batch, layout, raised) for raised in (False, True))
            rows.append([str(batch), layout, f"{default:.1f}", f"{raised:.1f}"])
    report(head, rows, args.save)


if __name__ == "__main__":
    main()
