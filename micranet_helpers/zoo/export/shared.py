"""Check what all exports need: an optional package, and a network that has a graph."""

import importlib
from types import ModuleType
from typing import Any

from micranet_helpers.networks import Network
from micranet_helpers.zoo.architectures import check_numbers
from micranet_helpers.zoo.weights import taken


def extra(module: str) -> ModuleType:
    """Import a package of the extra ``export``; if it is missing, the message names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This export needs {module} ({error}): pip install 'micranet-helpers[export]'."
        ) from error


def check_exportable(model: Any) -> None:
    """Refuse networks whose graph cannot be written, and weights that are not finite."""
    if not isinstance(model, Network):
        raise TypeError(
            f"Only MICRANet, UNet and FalkUNet can be written so, not {type(model).__name__}."
        )
    check_numbers([model])
    taken(model)
