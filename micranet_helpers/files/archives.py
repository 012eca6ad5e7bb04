"""Unpack archives from unknown sources so that nothing lands outside their folder.

Every member is checked before it is written, into a folder that takes its name only when all is
complete: an archive that is refused, or a run that is killed, leaves nothing that looks complete.
"""

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

MOST_MEMBERS = 100_000
MOST_RATIO = 200  # unpacked : packed; label masks reach 100, bombs 1000 and more
LEAST_LIMIT = 100_000_000  # bytes; a small archive may unpack to this, whatever its ratio
MOST_HEADER = 2**20  # bytes that tarfile may ask for at once: it reads long names into memory
MOST_PADDING = 2**24  # bytes of zeros at the end of a tar archive; 10,240 are usual
CHUNK = 2**20


class _Member(NamedTuple):
    name: str
    size: int
    content: IO[bytes] | None  # None: a folder


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar archive (plain, gzip, bzip2 or xz).

    Parameters
    ----------
    archive : Path
        The archive; its first bytes say of which kind it is.
    folder : Path
        Where its members go. An old folder is replaced as a whole. Only one process may unpack
        to it at a time.

    Returns
    -------
    Path
        ``folder``. Files are plain files: no links, no executable bits.

    Raises
    ------
    FileNotFoundError
        If there is no such archive.
    ValueError
        If it is damaged, truncated or encrypted, unpacks to more than 200 times its size (and
        100 MB), or if a member would land outside the folder, is a link or device, or has the
        name of another one. ``folder`` is then as before.
    OSError
        If the disk is full or not writable; ``folder`` is then as before.
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
    except Exception as error:
        # A fault of the disk has a number; one of the archive has none, or comes from a seek to
        # nowhere or a name that is too long.
        faults = (None, errno.EINVAL, errno.ENAMETOOLONG)
        if isinstance(error, OSError) and error.errno not in faults:
            raise
        reason = str(error) or "it ends too early"
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
    most_bytes = max(LEAST_LIMIT, MOST_RATIO * archive.stat().st_size)
    with archive.open("rb") as file:
        is_zip = file.read(4) in (b"PK\3\4", b"PK\5\6")
    total = 0
    members = _zip_members(archive) if is_zip else _tar_members(archive)
    for count, member in enumerate(members, 1):
        total += member.size
        if total > most_bytes or count > MOST_MEMBERS:
            raise ValueError(
                f"it would unpack to more than {most_bytes:,} bytes or {MOST_MEMBERS:,} members"
            )
        target = folder.joinpath(*_parts(member.name))
        try:
            _write_member(member, target)
        except (FileExistsError, NotADirectoryError) as error:
            shown = ascii(member.name)
            raise ValueError(f"its member {shown} has the name of another one") from error


def _write_member(member: _Member, target: Path) -> None:
    if member.content is None:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:  # both libraries give at most the declared size
        shutil.copyfileobj(member.content, file, CHUNK)


def _parts(name: str) -> list[str]:
    """Split the name of a member, which must lead downwards on every system."""
    shown = ascii(name[:100])
    parts = [part for part in name.split("/") if part not in ("", ".")]
    nowhere = any(not part.strip(" .") for part in parts)  # "..", or what Windows takes for it
    if name.startswith("/") or nowhere or re.match(r"[a-z]:", name, re.I):
        raise ValueError(f"its member {shown} would land outside the folder")
    if "\\" in name or any(sign < " " or "\ud800" <= sign <= "\udfff" for sign in name):
        raise ValueError(f"the name of its member {shown} holds a backslash or control characters")
    if len(name) > 1000:
        raise ValueError(f"the name of its member {shown} is too long")
    return parts


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        # A damaged table of contents can swallow members without any other error.
        if _zip_count(archive) not in (len(file.infolist()), 0xFFFF):
            raise ValueError("its table of contents is damaged")
        for info in file.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"its member {ascii(info.filename)} is a link or a device")
            if info.is_dir():
                yield _Member(info.filename, 0, None)
            else:
                with file.open(info) as content:
                    yield _Member(info.filename, info.file_size, content)


def _zip_count(archive: Path) -> int:
    """Read the number of members at the end of a zip archive (0xFFFF: too many to be there)."""
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - 2**16 - 22))
        end = file.read()
    at = end.rfind(b"PK\5\6")
    return int.from_bytes(end[at + 10 : at + 12], "little")


def _tar_members(archive: Path) -> Iterator[_Member]:
    with _decompressed(archive) as stream:
        blocks = _Blocks(stream)
        with tarfile.open(fileobj=blocks, mode="r:") as file:
            while (info := file.next()) is not None:
                plain = (info.isdir() or info.isreg()) and not info.issparse()
                if not plain or info.size < 0:
                    raise ValueError(f"its member {ascii(info.name)} is a link or a device")
                size = 0 if info.isdir() else info.size
                yield _Member(info.name, size, file.extractfile(info))
        # tarfile takes a damaged header for the end; the true end is a block of zeros.
        if any(blocks.latest):
            raise ValueError("one of its headers is damaged")
        # To the last byte, for only there is the checksum of a compressed file compared.
        left = MOST_PADDING
        while rest := stream.read(CHUNK):
            left -= len(rest)
            if left < 0 or any(rest):
                raise ValueError("there are data after its end")


def _decompressed(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        start = file.read(6)
    openers = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    opener = next((found for magic, found in openers.items() if start.startswith(magic)), open)
    return opener(archive, "rb")


class _Blocks:
    """Pass tarfile its blocks; refuse endless headers and a file that ends before its archive."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.latest = stream, b""
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_HEADER:
            raise ValueError("one of its headers is too large")
        self.latest = self.stream.read(size)
        if size and not self.latest:
            raise EOFError
        return self.latest
