"""Work in a child of a process that has done nothing: the child of one with threads may hang."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
OURS = ("train.trainer", "predict.folder", "label.widget")
SLOW = [*(f"micranet_helpers.{name}" for name in OURS), "hypothesis", "nbformat", "pytest"]
CONTEXT.set_forkserver_preload(SLOW)  # once, not in each child
INTERRUPTED = 7


def begin(work: Callable[..., object], *given: Any) -> BaseProcess:
    """Start some work, a function of a module; the exit code says whether Ctrl-C ended it."""
    child = CONTEXT.Process(target=_quietly, args=(work, *given))
    child.start()
    return child


def _quietly(work: Callable[..., object], *given: Any) -> None:
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    torch.set_num_threads(1)  # sums are rounded as in the test
    try:
        work(*given)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
