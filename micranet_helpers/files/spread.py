"""Do many things one after the other, or several at once by Dask, the extra ``large``."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")
RETRIES = 2
KEEP = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**30))
"""Environment in which glibc keeps the memory of a large tensor for the next one."""

LOCAL = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0",
         "env": KEEP}  # fmt: skip
"""Of a cluster on this machine: a process for each core, a dashboard for this machine alone at any
free port; Dask ends no worker for its memory, and gives none back that the next tensor needs."""


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], scheduler: str | None = None,
    lost: Callable[[Item, str], Result] | None = None,
) -> Iterator[tuple[Item, Result]]:  # fmt: skip
    """Yield each item and what a function returns for it, as soon as it does.

    ``scheduler`` is None, ``"local"`` or the address of one. What a lost worker had begun, others
    do; an item that has ended several workers has the result of ``lost``, or raises ValueError.
    """
    if scheduler is None:
        yield from ((item, function(item)) for item in items)
        return
    try:
        from distributed import Client, KilledWorker, as_completed
    except ModuleNotFoundError as error:
        raise ValueError(f"pip install 'micranet-helpers[large]' for {error.name}.") from None
    with Client(**(LOCAL if scheduler == "local" else {"address": scheduler})) as client:
        shared = client.submit(_same, function, pure=False)  # sent once; made again if it is lost
        futures = {client.submit(_call, shared, item, pure=False, retries=RETRIES): item
                   for item in items}  # fmt: skip
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except KilledWorker:
                why = f"{futures[future]} ended several workers: give them more memory."
                if lost is None:
                    raise ValueError(why) from None
                yield futures[future], lost(futures[future], why)
            future.release()


def _same(function: Any) -> Any:
    return function


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)
