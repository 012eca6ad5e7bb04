"""Seconds and memory of a prediction."""

import time

import numpy as np
import pytest
import torch

from micranet_helpers.metrics.cost import measure

MB = 10**6


def hold(work) -> object:
    made = work()
    time.sleep(0.05)  # longer than a look
    return made


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the memory of the GPU there")
@pytest.mark.parametrize("make", [
    lambda: np.ones(100 * MB, np.uint8), lambda: torch.ones(100 * MB, dtype=torch.uint8)
], ids=["numpy", "torch"])  # fmt: skip
def test_peak_is_what_was_held_also_where_memory_was_freed_before(make) -> None:
    hold(make)  # an allocator that keeps what is freed would hide the second one
    done = measure(lambda: hold(make))
    assert 95 < done.peak_mb < 130
    assert len(done.result) == 100 * MB and 0.05 <= done.seconds < 20


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the memory of the GPU there")
def test_what_was_there_before_does_not_count() -> None:
    there = np.ones(200 * MB, np.uint8)
    assert measure(lambda: time.sleep(0.02)).peak_mb < 30
    assert there[-1] == 1


def test_an_error_passes_and_nothing_goes_on_watching() -> None:
    import threading

    before = threading.active_count()
    with pytest.raises(KeyError):
        measure(lambda: {}["a"])
    assert threading.active_count() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_counts_its_own_memory() -> None:
    done = measure(lambda: torch.ones(50 * MB, dtype=torch.uint8, device="cuda").sum())
    assert 49 < done.peak_mb < 80
