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


def named(path: str | Path, suffix: str, overwrite: bool = True) -> Path:
    """Check the name of a file that is to be written or read.

    Parameters
    ----------
    path : str or Path
        The file.
    suffix : str
        What its name must end in.
    overwrite : bool
        Whether there may be such a file already.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If it ends otherwise: other programs tell files by their names.
    FileExistsError
        If there is such a file, and there may be none.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"The name of such a file ends in {suffix}: rename {path.name}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: give another name, or overwrite=True to replace it.")
    return path


def put(path: Path, data: bytes | memoryview) -> None:
    """Write a file as :func:`write_atomically` does, and say in one sentence what hinders it.

    Parameters
    ----------
    path : Path
        The file. An old one is replaced only when the new one is complete.
    data : bytes-like
        Its content.

    Raises
    ------
    OSError
        If it cannot be written; then an old file is as before.
    """
    try:
        write_atomically(path, data)
    except OSError as error:
        raise OSError(
            f"{path} could not be written and is as before; make sure that its folder exists and "
            f"the disk has room ({error})."
        ) from error
