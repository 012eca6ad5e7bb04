"""Read HDF5 files from unknown sources: no links out of the file, no surprises in types.

An HDF5 file can point to other files, declare any size and hold any type. What is not the plain
number, text or group that is expected is refused before it is read.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

MEMBERS = 50_000
"""Most items that :func:`walk` takes; more is taken for a damaged or hostile file."""

DEEPEST = 32
"""Most groups within groups, for the same reason."""


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[h5py.File]:
    """Open a file for reading and turn whatever goes wrong into one clear sentence.

    Parameters
    ----------
    path : path
        The file.
    what : str
        What is wanted from it, for the sentence.

    Yields
    ------
    h5py.File
        Closed at the end of the ``with`` block.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no HDF5 file, or anything in the ``with`` block finds it damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}: check the path or download it.")
    with explaining(path, what), h5py.File(path, "r") as file:
        yield file


@contextmanager
def explaining(path: str | Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a ValueError of one clear sentence.

    Parameters
    ----------
    path, what
        As for :func:`reading`.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except ValueError as error:
        raise ValueError(f"Cannot load {what} from {path}: {error}") from error
    except (OSError, RuntimeError, LookupError, TypeError, ArithmeticError, MemoryError) as error:
        raise ValueError(
            f"Cannot load {what} from {path}: it is no HDF5 file or is damaged, "
            f"download or make it again ({error})."
        ) from error


def member(parent: h5py.Group, name: str, kind: Any = h5py.Group) -> h5py.Group | h5py.Dataset:
    """Take a member of a group, unless it is a link or of another kind.

    Parameters
    ----------
    parent : h5py.Group
        Where to look.
    name : str
        Name of a direct member.
    kind : type or union of types
        What is expected, ``h5py.Group`` by default.

    Returns
    -------
    h5py.Group or h5py.Dataset
        The member. A dataset keeps its numbers in this file.

    Raises
    ------
    ValueError
        If there is none, or it is a link, of another kind, or keeps its numbers elsewhere.
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
    return found


def kept_elsewhere(item: Any) -> bool:
    """Tell a dataset whose numbers are in other files; even its shape may come from there.

    Parameters
    ----------
    item : object
        Anything that :func:`walk` yields.

    Returns
    -------
    bool
        True for virtual datasets and external storage.
    """
    return isinstance(item, h5py.Dataset) and bool(item.is_virtual or item.external)


def walk(group: h5py.Group) -> Iterator[tuple[str, Any]]:
    """Go through all that a group holds, at any depth, without following links.

    Parameters
    ----------
    group : h5py.Group
        Where to begin.

    Yields
    ------
    place : str
        Path from the group, e.g. ``"a/b"``; a group comes before, and next to, what it holds.
    item : h5py.Group, Dataset, Datatype, SoftLink or ExternalLink
        What is there. A group that hard links put into itself is as deep as any.

    Raises
    ------
    ValueError
        If there are more than :data:`MEMBERS` items, or groups more than :data:`DEEPEST` deep.
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
    """Copy a group into a file of its own, with its members and attributes at the top level.

    Parameters
    ----------
    group : h5py.Group
        A group at the top level of its file.

    Returns
    -------
    io.BytesIO
        The file. It is in memory: after a failed write to disk, HDF5 crashes when the program
        ends. Soft links that begin at the top level are adapted.

    Raises
    ------
    ValueError
        If something in the group is elsewhere, or more than a file can hold.
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
    """Read an attribute that holds numbers or one text.

    Parameters
    ----------
    owner : h5py.Group or h5py.Dataset
        Whose attribute.
    key : str
        Its name.

    Returns
    -------
    str, number, ndarray or None
        None if there is no such attribute.

    Raises
    ------
    ValueError
        If it holds anything else.
    """
    if key not in owner.attrs:
        return None
    # Looked at before it is read: HDF5 crashes on some damaged attributes of other types.
    found = owner.attrs.get_id(key)
    text = h5py.check_string_dtype(found.dtype) and found.shape == ()
    if not text and found.dtype.kind not in "fiu":
        raise ValueError(f"its attribute {key} holds neither numbers nor one text.")
    value = owner.attrs[key]
    return value.decode() if isinstance(value, bytes) else value
