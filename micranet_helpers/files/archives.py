"""Unpack archives from unknown sources so that nothing lands outside their folder.

Every member is checked before it is written, into a folder that takes its name only when all is
complete: what is refused or killed half-way leaves nothing that looks like a result.
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
import unicodedata
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

_ON_WINDOWS = os.name == "nt"
_WINDOWS_NAME = re.compile(r'(con|prn|aux|nul|com\d|lpt\d)\s*(\..*)?|.*[<>:"|?*].*', re.I)


class _Member(NamedTuple):
    name: str
    is_folder: bool
    size: int
    content: IO[bytes] | None


def unpack(archive: Path, folder: Path, most_bytes: int | None = None) -> Path:
    """Unpack a zip or tar archive (plain, gzip, bzip2 or xz).

    Parameters
    ----------
    archive : Path
        The archive; what it is, is read from its first bytes.
    folder : Path
        Where its members go. An old folder is replaced as a whole. Only one process may unpack
        to it at a time.
    most_bytes : int, optional
        Most bytes of all members; by default 200 times the size of the archive, at least 100 MB.

    Returns
    -------
    Path
        ``folder``. Files are plain files: no links, no executable bits.

    Raises
    ------
    FileNotFoundError
        If there is no such archive.
    ValueError
        If it is damaged or truncated, encrypted, larger than allowed, or if a member would land
        outside the folder, is a link or device, or has the name of another one on systems that
        ignore case. ``folder`` is then as before.
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
        limit = max(LEAST_LIMIT, MOST_RATIO * archive.stat().st_size)
        _write(archive, part, limit if most_bytes is None else most_bytes)
        discard(folder)
        os.replace(part, folder)
    except Exception as error:
        # The number of an error tells the disk's faults from the archive's: none, a seek to
        # nowhere, or a name that only this file system takes for that of another member.
        faults = (None, errno.EINVAL, errno.EEXIST)
        if isinstance(error, OSError) and error.errno not in faults:
            raise
        reason = str(error) or "it ends too early"
        raise ValueError(f"{archive} was not unpacked: {reason}; get it anew.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def discard(folder: Path) -> None:
    """Remove a folder so that half of it is never taken for the whole.

    Parameters
    ----------
    folder : Path
        Removed with all that it holds; it need not exist.

    Raises
    ------
    OSError
        If it cannot be removed.
    """
    waste = folder.with_name(folder.name + ".discarded")
    if waste.exists():
        shutil.rmtree(waste)
    if folder.exists():
        os.replace(folder, waste)
        shutil.rmtree(waste)


def _write(archive: Path, folder: Path, most_bytes: int) -> None:
    with archive.open("rb") as file:
        is_zip = file.read(4) in (b"PK\3\4", b"PK\5\6")
    folders: dict[tuple[str, ...], str] = {}
    files: set[tuple[str, ...]] = set()
    total = 0
    members = _zip_members(archive) if is_zip else _tar_members(archive)
    for count, member in enumerate(members, 1):
        total += member.size
        if total > most_bytes or count > MOST_MEMBERS:
            raise ValueError(
                f"it would unpack to more than {most_bytes:,} bytes or {MOST_MEMBERS:,} members"
            )
        parts = _parts(member.name)
        _take(folders, files, parts, member.is_folder)
        target = folder.joinpath(*parts)
        if member.content is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.size > shutil.disk_usage(folder).free:
                raise OSError(errno.ENOSPC, "No space left to unpack", str(archive))
            _copy(member.content, target, member.size)


def _parts(name: str) -> tuple[str, ...]:
    shown = ascii(name[:100])
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    nowhere = any(not part.strip(" .") for part in parts)  # "..", or what Windows takes for it
    if name.startswith("/") or nowhere or re.match(r"[a-z]:", name, re.I):
        raise ValueError(f"its member {shown} would land outside the folder")
    if "\\" in name or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
        raise ValueError(f"the name of its member {shown} holds a backslash or no plain text")
    if len(name) > 1000 or any(len(part.encode()) > 240 for part in parts):
        raise ValueError(f"the name of its member {shown} is too long")
    if _ON_WINDOWS and any(map(_WINDOWS_NAME.fullmatch, parts)):
        raise ValueError(f"Windows does not allow the name of its member {shown}")
    return parts


def _take(
    folders: dict[tuple[str, ...], str], files: set[tuple[str, ...]],
    parts: tuple[str, ...], is_folder: bool,
) -> None:
    # A name is taken as it would be on systems that ignore case, the way accents are written
    # (macOS) and dots or spaces at the end (Windows). Only folders may be named repeatedly.
    if not parts and not is_folder:
        raise ValueError("one of its members has no name")
    key: tuple[str, ...] = ()
    for depth, part in enumerate(parts, 1):
        folded = unicodedata.normalize("NFC", part).casefold()
        key += (unicodedata.normalize("NFC", folded).rstrip(" ."),)
        if is_folder or depth < len(parts):
            clash = key in files or folders.setdefault(key, part) != part
        else:
            clash = key in files or key in folders
            files.add(key)
        if clash:
            shown = ascii("/".join(parts)[:100])
            raise ValueError(f"its member {shown} has the name of another one on some systems")


def _copy(content: IO[bytes], target: Path, size: int) -> None:
    left = size
    with target.open("xb") as file:
        while chunk := content.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left:
        raise ValueError(f"its member {ascii(target.name)} has not the size that it declares")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        # A damaged table of contents can swallow members without any other error.
        if len(file.infolist()) != _zip_count(archive):
            raise ValueError("its table of contents is damaged")
        for info in file.infolist():
            if info.flag_bits & 1:
                raise ValueError("it is encrypted")
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"its member {ascii(info.filename)} is a link or a device")
            name = info.orig_filename  # as stored: filename is cut at NUL
            if info.is_dir():
                yield _Member(name, True, 0, None)
            else:
                with file.open(info) as content:
                    yield _Member(name, False, info.file_size, content)


def _zip_count(archive: Path) -> int:
    # Number of members by the record at the end of the archive; zipfile does not compare it.
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - 2**16 - 22))
        end = file.read()
    at = end.rfind(b"PK\5\6")
    count = int.from_bytes(end[at + 10 : at + 12], "little")
    if count == 0xFFFF:  # too many for this record, they are counted in the one of ZIP64
        at = end.rfind(b"PK\6\6")
        count = int.from_bytes(end[at + 32 : at + 40], "little")
    return count


def _tar_members(archive: Path) -> Iterator[_Member]:
    with _decompressed(archive) as stream:
        blocks = _Blocks(stream)
        with tarfile.open(fileobj=blocks, mode="r:") as file:
            end = -1
            while (info := file.next()) is not None:
                if not (info.isdir() or info.isreg()) or info.issparse():
                    raise ValueError(f"its member {ascii(info.name)} is a link or a device")
                if info.size < 0 or file.offset <= end:
                    raise ValueError(f"its member {ascii(info.name)} has an impossible size")
                end = file.offset
                size = 0 if info.isdir() else info.size
                yield _Member(info.name, info.isdir(), size, file.extractfile(info))
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
    for magic, opener in (
        (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open)
    ):
        if start.startswith(magic):
            return opener(archive, "rb")
    return archive.open("rb")


class _Blocks:
    """What tarfile reads from: neither endless headers nor a missing end pass unnoticed."""

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
