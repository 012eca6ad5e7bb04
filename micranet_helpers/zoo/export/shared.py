"""Check what all exports need: an optional package, and a network that has a graph."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

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


def check_exportable(model: Any, classes: Sequence[str] | None) -> None:
    """Refuse networks without a graph, weights that are not finite, and names that do not fit."""
    if not isinstance(model, Network):
        raise TypeError(
            f"Only MICRANet, UNet and FalkUNet can be written so, not {type(model).__name__}."
        )
    check_numbers([model])
    taken(model)
    if classes is None:
        return
    texts = {name for name in classes if isinstance(name, str) and name}
    if isinstance(classes, str) or not len(texts) == len(classes) == model.num_classes:
        raise ValueError(
            f"Give {model.num_classes} different names, one for each class, not {classes!r}."
        )


def of_channels(model: Network, value: ArrayLike) -> list[float]:
    """Repeat a number for each channel of a network, unless there is one for each."""
    return np.broadcast_to(np.asarray(value, float).ravel(), model.in_channels).tolist()
