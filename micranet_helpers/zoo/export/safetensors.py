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
    """Write the weights of a network, as float32, by the names of its ``state_dict``.

    The file's metadata hold ``settings`` (JSON: ``params`` of the training, and those that define
    the network), ``micranet_helpers`` (the version that wrote it) and ``format`` ("pt", which other
    readers ask for). See https://huggingface.co/docs/safetensors.

    Raises ImportError if the package safetensors is missing; TypeError if the model is no MICRANet,
    UNet, FalkUNet or torchvision's MaskRCNN; ValueError if the file's name does not end in
    ``.safetensors``, a weight is not finite, or the params are no JSON or contradict the model;
    OSError if the file cannot be written: an old one, which is replaced, is then as before.
    """
    save = extra("safetensors.torch").save
    path, model = named(path, ".safetensors"), unwrapped(model)
    settings = settings_text(model, params)
    check_numbers([model])
    notes = {"format": "pt", "settings": settings, "micranet_helpers": version("micranet-helpers")}
    write_atomically(path, save(taken(model), notes))
