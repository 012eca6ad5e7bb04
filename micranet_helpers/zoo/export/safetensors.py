"""Weights as safetensors: arrays by name and a text, and nothing that could be run."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from micranet_helpers.files.atomic import named, put
from micranet_helpers.zoo.architectures import NUMBERS, check_numbers
from micranet_helpers.zoo.export.shared import extra
from micranet_helpers.zoo.weights import assemble, fill, parse, settings_text, taken

HEADER = 10**6
"""Most bytes of names, shapes and settings in a file; more is taken for damage."""

NUMERIC = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8")
"""Kinds of numbers that are read, as the format names them."""


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
        Settings of the training. Those that tell the size of the network are filled in: see
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
    path = named(path, ".safetensors")
    settings = settings_text(model, params)
    check_numbers([model])
    metadata = {
        "format": "pt", "settings": settings, "micranet_helpers": version("micranet-helpers")
    }  # fmt: skip
    put(path, save(taken(model), metadata))


def from_safetensors(path: str | Path) -> nn.Module:
    """Load a network from its weights.

    Parameters
    ----------
    path : str or Path
        The file, ``*.safetensors``. Names and shapes of the arrays tell which network it holds;
        of the metadata, only a Mask R-CNN needs the settings.

    Returns
    -------
    MICRANet, UNet, FalkUNet or torchvision's MaskRCNN
        In evaluation mode, on the CPU.

    Raises
    ------
    ImportError
        If the package safetensors is missing.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file has another suffix, is damaged or of another format, or holds anything else
        than all finite weights of such a network. Nothing in it is run, and no array is read
        before all shapes are known to fit.
    """
    path = named(path, ".safetensors")
    library = extra("safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: check its name.")
    try:
        _check_size(path)
        with library.safe_open(path, framework="pt") as file:
            return _network(file)
    except ValueError as error:
        raise ValueError(f"Cannot load the weights from {path}: {error}") from error
    except library.SafetensorError as error:
        raise ValueError(
            f"Cannot load the weights from {path}: it is no safetensors file or is damaged, "
            f"download or make it again ({error})."
        ) from error


def _check_size(path: Path) -> None:
    """Before anything is parsed; other formats show here, as their first bytes are no length."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if path.stat().st_size > 8 * NUMBERS + HEADER or length > HEADER:
        raise ValueError(
            "it is no safetensors file, or declares more than a network needs: "
            "download or make it again."
        )


def _network(file: Any) -> nn.Module:
    slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118, not a dict
    for key, part in slices.items():
        if part.get_dtype() not in NUMERIC:
            raise ValueError(f"{key} holds {part.get_dtype()} values instead of numbers.")
    shapes = {key: torch.empty(part.get_shape(), device="meta") for key, part in slices.items()}
    # Of other networks, the settings are not asked: other programs write none, or their own.
    needed = any(key.startswith("roi_heads.") for key in shapes)
    settings = (file.metadata() or {}).get("settings", "{}") if needed else "{}"
    model, _ = assemble(shapes, parse(settings, "its text of settings"), "The file")
    check_numbers([model])
    fill(model, {key: file.get_tensor(key) for key in shapes})
    return model
