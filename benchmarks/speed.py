"""How fast without maps, and in training? python benchmarks/speed.py [--side 256] [--save FILE]

Prints, from one run, milliseconds a megapixel and ratios for
- a training step of MICRA-Net: the published loop (float32, contiguous memory) and ours (pixels
  of all channels together, as ``fit`` keeps them);
- inference that needs no maps: evidence, and the U-Net that is trained on it;
each in float32, in half precision and compiled by torch.compile, after two rounds to warm up.
float16 only where the processor computes in it.
"""

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from table import report
from torch import nn
from torch.nn import functional as F

from micranet_helpers.maps.cam import evidence
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.networks.precision import best_device
from micranet_helpers.networks.unet import UNet

DEVICE = best_device()
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
WAYS = ["float32", *HALF, "float32, compiled", "bfloat16, compiled"]
CAN = getattr(torch.cpu, "get_capabilities", dict)()
NATIVE = [way for way in WAYS if way != "float16" or DEVICE == "cuda" or CAN.get("avx512_fp16")]
WARM_UP = 2  # rounds; in the first one torch compiles


def training(layout: torch.memory_format, images: torch.Tensor, compiled: bool) -> Callable:
    """Make a function that trains one step."""
    model = MICRANet(1, 2).train().to(DEVICE, memory_format=layout)
    network = torch.compile(model) if compiled else model
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    labels = (torch.rand(len(images), 2, device=DEVICE) > 0.5).float()

    def step() -> None:
        optimiser.zero_grad()
        logits = network(images.contiguous(memory_format=layout)).float()
        F.binary_cross_entropy_with_logits(logits, labels).backward()
        optimiser.step()

    return step


def inference(model: nn.Module, images: torch.Tensor, compiled: bool) -> Callable:
    """Make a function that predicts pixels: MICRA-Net's by evidence, else by the network itself."""
    model = model.eval().to(DEVICE)
    find = (lambda part: evidence(model, part)) if isinstance(model, MICRANet) else model
    find = torch.compile(find) if compiled else find
    return torch.no_grad()(lambda: find(images))


def works(images: torch.Tensor, way: str) -> dict[str, Callable]:
    """Make what is timed in one way."""
    compiled = "compiled" in way
    first = {"training step, published loop": training(torch.contiguous_format, images, False)}
    return (first if way == "float32" else {}) | {
        "training step, ours": training(torch.channels_last, images, compiled),
        "evidence": inference(MICRANet(1, 2), images, compiled),
        "U-Net": inference(UNet(1, 2), images, compiled),
    }


def seconds(work: Callable) -> float:
    """Time one call, to the end of the GPU's work."""
    start = time.perf_counter()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def timed(images: torch.Tensor, ways: list[str], rounds: int) -> dict[tuple[str, str], float]:
    """Find the median seconds of each work in each way; all take turns, as the machine changes."""
    jobs = {(name, way): work for way in ways for name, work in works(images, way).items()}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in jobs}
    for _ in range(WARM_UP + rounds):
        for (name, way), work in jobs.items():
            half = HALF.get(way.partition(",")[0])
            with torch.autocast(DEVICE, half, half is not None):
                times[name, way].append(seconds(work))
    return {key: statistics.median(found[WARM_UP:]) for key, found in times.items()}


def main() -> None:
    """Time all in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64 if DEVICE == "cuda" else 8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=NATIVE)
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    args = parser.parse_args()
    torch.manual_seed(0)
    images = torch.rand(args.batch, 1, args.side, args.side, device=DEVICE)
    megapixels, found, base = images.numel() / 1e6, timed(images, args.ways, args.rounds), {}
    kinds = [*dict.fromkeys(name for name, _ in found)]
    rows = [["", "", "ms a megapixel", "images a second", "times faster"]]
    for name, way in sorted(found, key=lambda each: kinds.index(each[0])):
        took = found[name, way]
        first = base.setdefault(name.partition(",")[0], took)
        rows.append([name, way, f"{took / megapixels * 1e3:.0f}", f"{args.batch / took:.1f}",
                     f"{first / took:.2f}"])  # fmt: skip
    chip = torch.cuda.get_device_name() if DEVICE == "cuda" else f"CPU {platform.machine()}"
    report(
        f"{datetime.date.today()}, {chip}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}: {args.side}² pixels, batch {args.batch}, median of {args.rounds} "
        "rounds, compared with the first row of each kind.", rows, args.save,
    )  # fmt: skip


if __name__ == "__main__":
    main()
