"""Spoil files on purpose: damage by chance, and members of HDF5 files that lead elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np


def damaged(
    data: bytes, number: int, places: Sequence[int] | None = None, fill: bool = True
) -> Iterator[bytes]:
    """Flip up to four bits, cut the end off or fill 16 bytes, by default anywhere."""
    rng = np.random.default_rng(0)
    for n in range(number):
        changed = np.frombuffer(data, np.uint8).copy()
        hit = rng.choice(len(data) if places is None else places, rng.integers(1, 5))
        if n % 8 == 0:
            changed = changed[: hit[0]]
        elif n % 8 == 1 and fill:
            changed[hit[0] :][:16] = rng.choice([0, 255])
        else:
            changed[hit] ^= np.uint8(1) << rng.integers(0, 8, len(hit), np.uint8)
        yield changed.tobytes()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let the system itself refuse to write more bytes than that to a file."""
    import resource  # POSIX only

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


Change = Callable[[h5py.Group], Any]


def replace(name: str, **kwargs: Any) -> Change:
    """Make a dataset anew, with its attributes, or only remove it."""

    def change(group: h5py.Group) -> None:
        attrs = dict(group[name].attrs) if name in group else {}
        group.pop(name, None)
        if kwargs:
            group.create_dataset(name, **kwargs).attrs.update(attrs)

    return change


def elsewhere(name: str, shape: tuple[int, ...]) -> Change:
    """Let the numbers of a dataset lie in another file."""
    size = 4 * int(np.prod(shape))
    return replace(name, shape=shape, dtype="f4", external=[("/etc/passwd", 0, size)])


def virtual(name: str, shape: tuple[int, ...]) -> Change:
    """Let a dataset show the numbers of another file."""

    def change(group: h5py.Group) -> None:
        layout = h5py.VirtualLayout(shape, "f4")
        layout[:] = h5py.VirtualSource("secret.hdf5", "x", shape)
        group.pop(name, None)
        group.create_virtual_dataset(name, layout)

    return change


def link(name: str, target: Any) -> Change:
    """Put something else in place of a member, or where none is."""

    def change(group: h5py.Group) -> None:
        group.pop(name, None)
        group[name] = target

    return change
