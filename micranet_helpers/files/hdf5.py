"""Read HDF5 files from unknown sources: no links out of the file, no surprises in types.

An HDF5 file can point to other files, declare any size and hold any type. What is not the plain
number, text or group that is expected is refused before it is read.
"""

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from micranet_helpers.files.tables import visible

MEMBERS, DEEPEST = 50_000, 32
"""Upper limits on items and on nested groups; larger numbers mean a corrupt or hostile file."""

UNSUSPECTED = 2**26  # bytes of an array, however small its file is
MOST_PACKED = 200  # bytes of an array : its file
HEAD = 16  # bytes, of a heap of texts and of each of its pieces
MOST_CHUNKS = 2**16  # of an array; more need 8 bytes of the file each, or HDF5 would only list them


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[h5py.File]:
    """Open a file for reading, and turn whatever goes wrong into one clear sentence.

    ``what`` is the part wanted from it, for that sentence. Raises FileNotFoundError, or ValueError
    if it is no HDF5 file or anything in the ``with`` block finds it damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}: check the path or download it.")
    with explaining(path, what), opened(path) as file:
        yield file


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open a file for reading; ValueError if one of its texts is damaged."""
    with _Watched(path) as watched, h5py.File(watched, "r") as file:
        yield file


class _Watched(io.FileIO):
    """A file that refuses heaps of texts over which HDF5 would go for ever, as it reads them."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._left, self._seen = self.seek(0, io.SEEK_END), set()  # heaps do not overlap

    def readinto(self, buffer: Any) -> int:
        """Read what HDF5 asks for; look also at a heap whose head began in what it has already."""
        at = self.tell()
        self.seek(place := max(at - HEAD + 1, 0))
        data = self.read(at - place + len(buffer))
        for found in re.finditer(rb"(?s)GCOL\x01\x00{3}(?=(.{8}))", data):
            self._check(place + found.start(), int.from_bytes(found[1], "little"))
        wanted = data[at - place :]
        buffer[: len(wanted)] = wanted
        return len(wanted)

    def _check(self, start: int, length: int) -> None:
        """Refuse a heap with a piece of no length."""
        if start in self._seen:
            return
        self._seen.add(start)
        self._left -= length
        if self._left < 0:
            raise ValueError(f"a text in {self.name} is damaged.")
        self.seek(start + HEAD)
        heap, at = self.read(max(length - HEAD, 0)), 0
        while at + HEAD <= len(heap):
            number, size = heap[at : at + 2], int.from_bytes(heap[at + 8 : at + HEAD], "little")
            step = HEAD + -(-size // 8) * 8 if any(number) else size
            if step < HEAD:
                raise ValueError(f"a text in {self.name} is damaged.")
            at += step


@contextmanager
def explaining(path: str | Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a ValueError of one clear sentence."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except ValueError as error:
        raise ValueError(visible(f"Cannot load {what} from {path}: {error}")) from error
    except (OSError, RuntimeError, LookupError, TypeError, ArithmeticError, MemoryError) as error:
        raise ValueError(
            f"Cannot load {what} from {path}: it is no HDF5 file or is damaged, "
            f"download or make it again ({error})."
        ) from error


def member(parent: h5py.Group, name: str, kind: Any = h5py.Group) -> h5py.Group | h5py.Dataset:
    """Return a member of a group; refuse links, other kinds and numbers kept in other files.

    ``name`` is that of a direct member, ``kind`` a type or union of types.
    """
    # Without slashes, or h5py would follow the name from group to group, through any link.
    link = None if "/" in name else parent.get(name, getlink=True)
    if link is None:
        raise ValueError(f"{parent.name} has no {name!r}, only: {', '.join(parent) or 'nothing'}.")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name!r} in {parent.name} is a link to another place, which is refused.")
    found = parent[name]
    if not isinstance(found, kind):
        raise ValueError(f"{found.name} is a {type(found).__name__} where none is expected.")
    if kept_elsewhere(found):
        raise ValueError(f"{found.name} keeps its numbers in another file, which is refused.")
    if isinstance(found, h5py.Dataset) and found.size:
        _check_size(found)
    return found


def _check_size(data: h5py.Dataset) -> None:
    """Refuse an array that so small a file cannot hold, or in more pieces than there are."""
    chunks, size = data.chunks or data.shape, data.file.id.get_filesize()
    most = max(UNSUSPECTED, MOST_PACKED * size)
    number = math.prod(-(-side // chunk) for side, chunk in zip(data.shape, chunks, strict=True))
    if max(data.nbytes, math.prod(chunks) * data.dtype.itemsize) > most:
        raise ValueError(f"{data.name} {data.shape} declares more than the file can hold.")
    if number > MOST_CHUNKS + size // 8:
        raise ValueError(f"{data.name} {data.shape} lies in {number} pieces, more than there are.")


def kept_elsewhere(item: Any) -> bool:
    """Recognize a dataset whose numbers, perhaps even its shape, come from other files."""
    return isinstance(item, h5py.Dataset) and bool(item.is_virtual or item.external)


def walk(group: h5py.Group) -> Iterator[tuple[str, Any]]:
    """Yield all that a group holds, at any depth, as (path from the group, item); follow no links.

    A group comes before what it holds. Items are groups, datasets, datatypes or links. Raises
    ValueError for more than :data:`MEMBERS` items, or groups more than :data:`DEEPEST` deep.
    """
    todo, count = [("", group)], 0
    while todo:
        place, item = todo.pop()
        if place:
            yield place, item
        if not isinstance(item, h5py.Group):
            continue
        count += len(item)
        if count > MEMBERS:
            raise ValueError(f"{group.name} has more than {MEMBERS} members, which is refused.")
        if len(item) and place.count("/") >= DEEPEST:
            raise ValueError(
                f"{group.name} holds groups more than {DEEPEST} deep, or in a circle, "
                "which is refused."
            )
        names = reversed(list(item))
        todo += [(f"{place}/{name}".removeprefix("/"), _opened(item, name)) for name in names]


def _opened(parent: h5py.Group, name: str) -> Any:
    if "/" in name:
        raise ValueError(f"{parent.name} has a member with a slash in its name, which is refused.")
    link = parent.get(name, getlink=True)
    return parent[name] if isinstance(link, h5py.HardLink) else link


def standalone(group: h5py.Group) -> io.BytesIO:
    """Copy a group of the top level into a file of its own, members and attributes at its top.

    The file is in memory: after a failed write to disk, HDF5 crashes when the program ends. Soft
    links that begin at the top level are adapted. Raises ValueError if something in the group is
    elsewhere, or more than a file can hold.
    """
    links = _adapted_links(group)
    with h5py.File(image := io.BytesIO(), "w") as file:
        for key in group.attrs:
            file.attrs[key] = attribute(group, key)
        for name in group:
            if name not in links:  # HDF5 would copy what the link leads to
                group.copy(name, file, name)
        for place, target in links.items():
            if "/" in place:
                del file[place]
            file[place] = h5py.SoftLink(target)
    return image


def _adapted_links(group: h5py.Group) -> dict[str, str]:
    links, size = {}, 0
    for place, item in walk(group):
        if isinstance(item, h5py.SoftLink):
            links[place] = _adapted(item.path, group.name, place)
        elif not isinstance(item, h5py.Group | h5py.Dataset) or kept_elsewhere(item):
            kind = type(item).__name__
            raise ValueError(f"{place} is a {kind} that needs another file, which is refused.")
        elif isinstance(item, h5py.Dataset):
            size += item.id.get_storage_size()
    if size > group.file.id.get_filesize():
        raise ValueError(f"the arrays in {group.name} claim more bytes than the file has.")
    return links


def _adapted(target: str, group: str, place: str) -> str:
    if not target.startswith("/"):  # it can only lead downwards: HDF5 knows no ".."
        return target
    first, *rest = [part for part in target.split("/") if part not in ("", ".")] or [""]
    if first != group.strip("/"):
        raise ValueError(f"{place} is a link out of {group}, which is refused.")
    return "/" + "/".join(rest)


def attribute(owner: h5py.Group | h5py.Dataset, key: str) -> Any:
    """Read an attribute: a number, an array or one text; None if there is none."""
    if key not in owner.attrs:
        return None
    # Looked at before it is read: HDF5 crashes on some damaged attributes of other types.
    found = owner.attrs.get_id(key)
    text = h5py.check_string_dtype(found.dtype) and found.shape == ()
    if not text and found.dtype.kind not in "fiu":
        raise ValueError(f"its attribute {key} holds neither numbers nor one text.")
    value = owner.attrs[key]
    return value.decode() if isinstance(value, bytes) else value
