"""Read HDF5 files from unknown sources: no links out of the file, no surprises in types.

An HDF5 file can point to other files, declare any size and hold any type. What is not the plain
number, text or group that is expected is refused before it is read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


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
    if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
        raise ValueError(f"{found.name} keeps its numbers in another file, which is refused.")
    return found


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
