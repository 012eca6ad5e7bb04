"""What packages need, by the metadata of what is installed here."""

import importlib.metadata
from collections.abc import Iterable, Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def walk(wanted: Iterable[Requirement]) -> Iterator[Requirement]:
    """These requirements and all that follow from them on this machine; some come several times."""
    seen, todo = set(), list(wanted)
    while todo:
        item = todo.pop()
        yield item
        name = canonicalize_name(item.name)
        if (name, frozenset(item.extras)) in seen:
            continue
        seen.add((name, frozenset(item.extras)))
        extras = ("", *item.extras)
        for child in map(Requirement, importlib.metadata.requires(name) or []):
            if not child.marker or any(child.marker.evaluate({"extra": e}) for e in extras):
                todo.append(child)
