"""One writer at a time: a lock that ends with the process that holds it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def alone(path: Path, wait: float = 0) -> Iterator[None]:
    """Hold the lock of a folder or file that is to be written, waiting for it for some seconds.

    The lock is a hidden file, in the folder or beside the file; it stays there, but the system
    frees it when its holder ends, however that may be. Raises ValueError if another holds it.
    """
    folder = path if not path.suffix or path.is_dir() else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / (".lock" if folder == path else f".{path.name}.lock"), wait):
            yield
    except Timeout:
        raise ValueError(
            f"Another program is writing to {path}: wait until it ends, or choose another place."
        ) from None
