"""Write files atomically: the whole file or none."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

PART = f".[0-9]*-{'[0-9a-f]' * 8}.part"
"""Pattern of how the names of files end that are not yet whole."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to, then move it to ``path`` unless there was an error.

    The folder must exist. An old file is replaced; after an error it is as before.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path, file: str = "") -> None:
    """Remove what killed writers have left of all files in a folder and below it.

    Of one ``file`` it lies beside it; no more is looked at, as the folder may be a whole home.
    """
    for part in folder.glob(f"{escape(file)}{PART}") if file else folder.rglob(f"*{PART}"):
        part.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file by way of :func:`replacing`, or raise OSError with one clear sentence."""
    try:
        with replacing(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise OSError(
            f"{path} could not be written and is as before; make sure that its folder exists and "
            f"the disk has room ({error})."
        ) from error


def named(path: str | Path, suffix: str, overwrite: bool = True) -> Path:
    """Return the path of a file whose name must end in ``suffix``, as other programs expect.

    Raises ValueError if it ends otherwise, FileExistsError if it exists and must not be replaced.
    """
    path = Path(path).expanduser()
    if path.suffix != suffix:
        raise ValueError(f"The name of such a file ends in {suffix}: rename {path.name}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: give another name, or overwrite=True to replace it.")
    return path
