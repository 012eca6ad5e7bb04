"""Write files so that no half of one is ever seen."""

import os
from pathlib import Path


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
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
