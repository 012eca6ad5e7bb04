"""One writer at a time: a lock that ends with the process that holds it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from micranet_helpers.files.atomic import remove_parts


@contextmanager
def alone(folder: Path, file: str = "", wait: float = 0) -> Iterator[None]:
    """Hold the lock of a folder, or of a file in it, waiting for it for some seconds.

    The lock is a hidden file; the system frees it when its holder ends, however that may be. What
    killed ones have half written is removed. Raises ValueError if another holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{file and f'.{file}'}.lock", wait) as lock:
            try:
                remove_parts(folder, file)
                yield
            finally:
                with suppress(OSError):  # Windows removes no open file
                    os.unlink(lock.lock_file)  # who waits for it takes a new one
    except Timeout:
        raise ValueError(
            f"Another program is writing to {folder / file}: wait until it ends, or choose another "
            "place."
        ) from None
