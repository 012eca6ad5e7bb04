"""Measure seconds and peak memory of a prediction."""

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil
import torch

INTERVAL = 0.002
"""Time between samples of the memory, s."""


class Cost(NamedTuple):
    """Hold the result of :func:`measure`, its seconds and its peak memory, MB (10^6 bytes).

    Memory is that above the start: of the GPU where there is one, else of this process.
    """

    result: Any
    seconds: float
    peak_mb: float


def measure(work: Callable[[], Any]) -> Cost:
    """Do some work, e.g. predict an image, and measure its time and memory.

    Without a GPU, memory is sampled every 2 ms, so shorter peaks may be missed. Memory that the
    process has freed but kept is first returned to the system, on Linux; elsewhere the peak may
    come out too low.
    """
    watch = _gpu_peak if torch.cuda.is_available() else _cpu_peak
    with watch() as peak:
        start = time.perf_counter()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return Cost(result, seconds, max(peak) / 1e6)


@contextmanager
def _gpu_peak() -> Iterator[list[int]]:
    peak = [0]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield peak
    peak.append(torch.cuda.max_memory_allocated() - before)


@contextmanager
def _cpu_peak() -> Iterator[list[int]]:
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)
    process, done, peak = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        ended = False
        while not ended:  # the last look is when the work is done
            ended = done.wait(INTERVAL)
            peak[0] = max(peak[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
