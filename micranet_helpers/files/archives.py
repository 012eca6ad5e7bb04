"""Unpack archives from unknown sources so that nothing lands outside their folder.

Members are written as plain files into a folder that takes its name only when all is complete: an
archive that is refused, or a run that is killed, leaves nothing that looks complete.
"""

import errno
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MOST_RATIO = 200  # unpacked : packed; label masks reach 100, bombs 1000 and more
LEAST_LIMIT = 100_000_000  # bytes; a small archive may unpack to this, whatever its ratio
MOST_MEMBERS = 100_000  # each takes a file, also an empty one
CHUNK = 2**20

# What the archive is to blame for: no number, a seek to nowhere, or names that cannot be.
FAULTS = (None, errno.EINVAL, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar archive (plain, gzip, bzip2 or xz), and return its folder.

    An old folder is replaced as a whole. Raises ValueError if the archive is damaged, unpacks to
    more than 200 times its size (and 100 MB) or 100,000 members, or a member would land outside
    the folder, is a link or has the name of another; OSError if the disk is full. The folder is
    then as before.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"There is no archive {archive}: check the path or download it.")
    part = folder.with_name(folder.name + ".unpacking")
    part.parent.mkdir(parents=True, exist_ok=True)
    discard(part)  # what a killed run has left
    part.mkdir()
    try:
        _write(archive, part)
        discard(folder)
        os.replace(part, folder)
    except Exception as error:  # damaged archives make the libraries raise anything
        if isinstance(error, OSError) and error.errno not in FAULTS:
            raise
        reason = " ".join(str(error).split()) or "it ends too early"
        raise ValueError(f"{archive} was not unpacked: {reason}; download it again.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def discard(folder: Path) -> None:
    """Remove a folder, if there is one, so that half of it is never taken for the whole."""
    waste = folder.with_name(folder.name + ".discarded")
    if waste.exists():
        shutil.rmtree(waste)
    if folder.exists():
        os.replace(folder, waste)
        shutil.rmtree(waste)


def _write(archive: Path, folder: Path) -> None:
    left = most = max(LEAST_LIMIT, MOST_RATIO * archive.stat().st_size)
    with archive.open("rb") as file:
        is_zip = file.read(4) in (b"PK\3\4", b"PK\5\6")
    members = _zip_members(archive) if is_zip else _tar_members(archive)
    for number, (name, size, content) in enumerate(members):
        if number == MOST_MEMBERS:
            raise ValueError(f"it holds more than {MOST_MEMBERS:,} members")
        left -= size
        if left < 0:
            raise ValueError(f"it would unpack to more than {most:,} bytes")
        target = (folder / name).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise ValueError(f"its member {ascii(name)} would land outside the folder")
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:  # both libraries give at most the declared size
            shutil.copyfileobj(content, file, CHUNK)


def _zip_members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Yield name, size and content of each member, None for a folder; a link is plain text."""
    with zipfile.ZipFile(archive) as file:
        # A damaged table of contents can swallow members without any other error.
        if _zip_count(archive) not in (len(file.infolist()), 0xFFFF):
            raise ValueError("its table of contents is damaged")
        for info in file.infolist():
            with file.open(info) as content:
                yield info.filename, info.file_size, None if info.is_dir() else content


def _zip_count(archive: Path) -> int:
    """Read the number of members at the end of a zip archive (0xFFFF: too many to be there)."""
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - 2**16 - 22))
        end = file.read()
    at = end.rfind(b"PK\5\6")
    return int.from_bytes(end[at + 10 : at + 12], "little")


def _tar_members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with tarfile.open(archive) as file:
        for info in file:
            if not (info.isdir() or info.isreg()) or info.issparse():
                raise ValueError(f"its member {ascii(info.name)} is a link or a device")
            yield info.name, info.size, file.extractfile(info)
        while file.fileobj.read(CHUNK):  # a compressed file's checksum is at its very end
            pass


def check_stored(path: Path) -> None:
    """Refuse a file of torch that unpacks to more than it is: torch itself packs nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("a bomb")
