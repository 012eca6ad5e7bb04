"""What all exports share: their optional packages, the name and the writing of a file."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from micranet_helpers.architectures import Network, check_numbers
from micranet_helpers.files import write_atomically
from micranet_helpers.weights import taken


def extra(module: str) -> ModuleType:
    """Import a package of the extra ``export``.

    Parameters
    ----------
    module : str
        Its name.

    Returns
    -------
    module
        The package.

    Raises
    ------
    ImportError
        If it is not there; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This export needs {module} ({error}): pip install 'micranet-helpers[export]'."
        ) from error


def check_exportable(model: Any) -> None:
    """Raise one clear sentence if no graph of a network can be written, or of no use.

    Parameters
    ----------
    model : MICRANet, UNet or FalkUNet
        The network.

    Raises
    ------
    TypeError
        If it is another one, such as Mask R-CNN.
    ValueError
        If its arrays are not those of such a network, too large to be true, or hold NaN or
        infinity.
    """
    if not isinstance(model, Network):
        raise TypeError(
            f"Only MICRANet, UNet and FalkUNet can be written so, not {type(model).__name__}."
        )
    check_numbers([model])
    taken(model)


def named(path: str | Path, suffix: str) -> Path:
    """Check the name of a file.

    Parameters
    ----------
    path : str or Path
        The file.
    suffix : str
        What its name must end in.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If it ends otherwise: other programs tell files by their names.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"The name of such a file ends in {suffix}: rename {path.name}.")
    return path


def put(path: Path, data: bytes) -> None:
    """Write a file; an old one is replaced only when the new one is complete.

    Parameters
    ----------
    path : Path
        The file.
    data : bytes
        Its content.

    Raises
    ------
    OSError
        If it cannot be written; then an old file is as before.
    """
    try:
        write_atomically(path, data)
    except OSError as error:
        raise OSError(
            f"{path} could not be written; make sure that its folder exists and the disk has room "
            f"({error})."
        ) from error
