"""Find a network: one that ships with the package, or a file."""

from pathlib import Path

SHELF = Path(__file__).with_name("shipped")
"""Folder of the networks that ship with the package."""

_SHIPPED = "shipped:"


def shipped() -> dict[str, Path]:
    """List the networks that ship with the package: the zoo of each by its name."""
    return {path.stem: path for path in sorted(SHELF.glob("*.hdf5"))}


def locate(text: str | Path) -> Path:
    """Find a zoo by what a user wrote: ``shipped:NAME``, or a path, which may begin with ``~``.

    Raises ValueError if no network of this name ships; whether a file exists is not looked at.
    """
    name = str(text).removeprefix(_SHIPPED)
    if name == str(text):
        return Path(text).expanduser()
    found = shipped()
    if name not in found:
        raise ValueError(
            f"No network {name} ships with this version: take one of "
            f"{', '.join(_SHIPPED + each for each in found) or 'your own, as none ships'}."
        )
    return found[name]
