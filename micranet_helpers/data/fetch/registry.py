"""What can be downloaded: the table of data sets in ``registry.toml``."""

import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from urllib.parse import quote

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of the files that are unpacked after the download."""

MEGABYTE = 1e6


@dataclass(frozen=True)
class File:
    """One file of an item."""

    path: str  # in the folder of its item, with "/" between folders
    urls: tuple[str, ...]  # in the order in which they are tried
    hash: str | None  # SHA-256 or "md5:..."; None: none is published, so trusted on first use
    bytes: int | None  # None: unknown
    subset: str | None  # the part of the item to which it belongs

    @property
    def is_archive(self) -> bool:
        """Whether the file is unpacked after the download."""
        return self.path.endswith(ARCHIVES)


@dataclass(frozen=True)
class Item:
    """One data set: what :func:`micranet_helpers.data.fetch.download.fetch` takes by its name."""

    name: str
    title: str
    licence: str  # as its source states it
    citation: str
    urls: tuple[str, ...]  # under which its files lie, in the order in which they are tried
    files: tuple[File, ...]


@cache
def items() -> dict[str, Item]:
    """Read all data sets by name, in the order of ``registry.toml``."""
    return parse((files(__package__) / "registry.toml").read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, Item]:
    """Read data sets by name from text as in ``registry.toml``, which explains the format."""
    return {
        name: Item(name, **table | {
            "urls": tuple(table["urls"]),
            "files": tuple(_file(line, table["urls"]) for line in table["files"].splitlines()),
        })
        for name, table in tomllib.loads(text).items()
    }  # fmt: skip


def select(name: str, subset: str | None = None) -> list[File]:
    """List the files of an item, or of a part of it; a ValueError says what there is."""
    if name not in items():
        raise ValueError(f"There is no data set {name!r}; choose one of: {', '.join(items())}.")
    found = items()[name].files
    subsets = sorted({file.subset for file in found if file.subset})
    if subset is not None and subset not in subsets:
        raise ValueError(
            f"{name} has no subset {subset!r}; choose one of: {', '.join(subsets) or '(none)'}, "
            "or leave it out."
        )
    return [file for file in found if subset in (None, file.subset)]


def table(on_disk: Mapping[str, int]) -> str:
    """Lay out sizes and licences as a Markdown table, a line for each item, for a page.

    ``on_disk`` holds the bytes of each item in the cache, from
    :func:`micranet_helpers.data.fetch.download.cached`. Sizes are in MB (10^6 bytes).
    """
    head = ("name", "MB", "cached", "subsets (MB)", "hash", "licence")
    return _markdown(head, ((name, *rest[1:-1]) for name, *rest in _rows(on_disk)))


def citations() -> str:
    """Lay out what the items are and whom to cite as a Markdown table, a line for each work."""
    works: dict[str, list[Item]] = {}
    for item in items().values():
        works.setdefault(item.citation, []).append(item)
    rows = (
        (", ".join(item.name for item in group), "; ".join(item.title for item in group), citation)
        for citation, group in works.items()
    )
    return _markdown(("names", "what", "cite"), rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def listing(on_disk: Mapping[str, int]) -> str:
    """Lay out what both tables say as paragraphs of at most 96 characters, for a terminal."""
    fold = partial(textwrap.fill, width=96, initial_indent="    ", subsequent_indent="      ")
    lines = []
    for name, title, size, cached, subsets, hash_, licence, citation in _rows(on_disk):
        parts = f"; subsets: {subsets}" if subsets else ""
        lines += [f"{name}: {size} MB, {cached} MB on this disk{parts}", fold(title)]
        lines += [fold(f"licence: {licence}"), fold(f"cite: {citation}"), fold(f"hash: {hash_}")]
    return "\n".join(lines)


def _rows(on_disk: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    for item in items().values():
        subsets = dict.fromkeys(file.subset for file in item.files if file.subset)
        parts = (f"{subset} ({_size(select(item.name, subset))})" for subset in subsets)
        published = all(file.hash for file in item.files)
        yield (
            item.name, item.title, _size(item.files),
            f"{on_disk.get(item.name, 0) / MEGABYTE:.1f}", ", ".join(parts),
            "published" if published else "trusted on first use", item.licence, item.citation,
        )


def _size(files: Sequence[File]) -> str:
    if any(file.bytes is None for file in files):
        return "?"
    return f"{sum(file.bytes or 0 for file in files) / MEGABYTE:.1f}"


def _file(line: str, bases: list[str]) -> File:
    hash_, size, subset, path = (None if part == "-" else part for part in line.split(" ", 3))
    urls = tuple(base + quote(path) for base in bases)
    return File(path, urls, hash_, int(size) if size else None, subset)
