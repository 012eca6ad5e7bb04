"""Write weights as safetensors: arrays by name and a text, and nothing that could be run."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from micranet_helpers.files.atomic import named, write_atomically
from micranet_helpers.networks.wrapped import unwrapped
from micranet_helpers.zoo.architectures import check_numbers
from micranet_helpers.zoo.export.shared import extra
from micranet_helpers.zoo.weights import settings_text, taken


def to_safetensors(path: str | Path, model: nn.Module, params: Mapping[str, Any]) -> None:
    """Write the weights of a network by the names of its ``state_dict``.

    The file's metadata hold ``settings`` (JSON), ``micranet_helpers`` (the version that wrote it)
    and ``format`` ("pt", which other readers ask for).

    Parameters
    ----------
    path : str or Path
        The file, ``*.safetensors``; an old one is replaced.
    model : MICRANet, UNet, FalkUNet or torchvision's MaskRCNN
        The trained network. Weights are stored as float32.
    params : mapping
        Settings of the training. Those that define the network are filled in: see
        :func:`~micranet_helpers.zoo.architectures.settings`.

    Raises
    ------
    ImportError
        If the package safetensors is missing.
    TypeError
        If the model is another network.
    ValueError
        If the file has another suffix, a weight is not finite, or the params are no JSON or
        contradict the model.
    OSError
        If the file cannot be written; then an old one is as before.

    References
    ----------
    https://huggingface.co/docs/safetensors
    """
    save = extra("safetensors.torch").save
    path, model = named(path, ".safetensors"), unwrapped(model)
    settings = settings_text(model, params)
    check_numbers([model])
    notes = {"format": "pt", "settings": settings, "micranet_helpers": version("micranet-helpers")}
    write_atomically(path, save(taken(model), notes))
