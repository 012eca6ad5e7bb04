"""Write files so that no half of one is ever seen."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside a file, and move what was written there into its place at the end.

    Parameters
    ----------
    path : Path
        The file; its folder must exist. An old file is replaced.

    Yields
    ------
    Path
        Where to write. After an error it is removed, and the old file is as before.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file beside its place and move it there when it is complete.

    Parameters
    ----------
    path : Path
        The file; its folder must exist. An old file is replaced.
    data : bytes-like
        The content.

    Raises
    ------
    OSError
        If the disk is full or not writable; the old file is then as before.
    """
    with replacing(path) as part:
        part.write_bytes(data)
