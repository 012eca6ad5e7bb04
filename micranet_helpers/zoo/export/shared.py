"""What all exports share: their optional packages, and the networks that they know."""

import importlib
from types import ModuleType
from typing import Any

from micranet_helpers.networks import Network
from micranet_helpers.zoo.architectures import check_numbers
from micranet_helpers.zoo.weights import taken


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
