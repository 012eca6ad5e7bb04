"""Networks as the arrays and the settings that a file holds, and back.

What a file declares is checked before any number is read: a small one may declare any size.
"""

import json
from collections.abc import Mapping
from typing import Any

import h5py
import torch
from torch import Tensor, nn

from micranet_helpers.zoo.architectures import build, named_today, recognise, settings

Arrays = Mapping[str, h5py.Dataset | Tensor]
"""Arrays of a file by name, in the file or in memory."""


def parse(text: str | bytes, what: str) -> dict[str, Any]:
    """Read the settings of a network.

    Parameters
    ----------
    text : str or bytes
        A JSON object.
    what : str
        What it is, for the message.

    Returns
    -------
    dict
        The settings, those in ``model_params`` merged into the top level.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    try:
        params = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no JSON text ({error}).") from None
    if not isinstance(params, dict):
        raise ValueError(f"{what} holds no JSON object {{...}}.")
    return merged(params)


def merged(params: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the settings in ``model_params`` into the top level, as some files have them there.

    Parameters
    ----------
    params : mapping
        Settings.

    Returns
    -------
    dict
        A new one.

    Raises
    ------
    ValueError
        If ``model_params`` holds no settings.
    """
    nested = params.get("model_params", {})
    if not isinstance(nested, Mapping):
        raise ValueError("the setting model_params must be a JSON object {...}.")
    return {**{key: value for key, value in params.items() if key != "model_params"}, **nested}


def settings_text(model: nn.Module, params: Mapping[str, Any]) -> str:
    """Write the settings of a network and of its training as JSON.

    Parameters
    ----------
    model : nn.Module
        The network; :func:`~micranet_helpers.zoo.architectures.settings` tells what makes it.
    params : mapping
        Settings of the training.

    Returns
    -------
    str
        A JSON object with both.

    Raises
    ------
    ValueError
        If they contradict each other, or are no plain finite numbers, text and lists.
    """
    own = settings(model)
    params = {**own, **params}
    if any(repr(merged(params)[key]) != repr(value) for key, value in own.items()):
        raise ValueError(f"The params contradict the models, which have {own}.")
    try:
        return json.dumps(params, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Params must be plain finite numbers, text and lists: {error}.") from None


def assemble(arrays: Arrays, params: Mapping[str, Any], where: str) -> tuple[nn.Module, Arrays]:
    """Build the network of some arrays, without reading any of their numbers.

    Parameters
    ----------
    arrays : mapping
        What the file holds.
    params : mapping
        Settings, of which only those of a Mask R-CNN are read.
    where : str
        Where the arrays are, for the message.

    Returns
    -------
    model : nn.Module
        On the meta device.
    arrays : mapping
        Its arrays, by today's names, for :func:`fill`.

    Raises
    ------
    ImportError
        If it is a Mask R-CNN, and torchvision, or its compiled part, is missing.
    ValueError
        If they are no network that this package knows.
    """
    architecture, arrays = recognise(arrays, where), named_today(arrays)
    shapes = {key: value.shape for key, value in arrays.items()}
    shapes = {key: None if shape is None else tuple(shape) for key, shape in shapes.items()}
    return build(architecture, shapes, params, where), arrays


def taken(model: nn.Module) -> dict[str, Tensor]:
    """Take the numbers of a network, to store them.

    Parameters
    ----------
    model : nn.Module
        The network, on any device.

    Returns
    -------
    dict of str to Tensor
        Its ``state_dict`` on the CPU; whatever is no whole number is float32, as published.

    Raises
    ------
    ValueError
        If it holds NaN or infinity, or no network could be made of it.
    """
    assemble(model.state_dict(), settings(model), "The model")
    stored = {}
    for key, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} holds NaN or infinite numbers: the training diverged.")
        value = value.float() if value.is_floating_point() else value
        stored[key] = value.cpu().contiguous()
    return stored


def fill(model: nn.Module, arrays: Arrays) -> None:
    """Give the numbers to a network, which then is on the CPU and in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        On the meta device.
    arrays : mapping
        Those that :func:`assemble` returned with it. They are copied.

    Raises
    ------
    ValueError
        If they hold anything but finite numbers.
    """
    state = {}
    for key, expected in model.state_dict().items():
        read = _tensor if isinstance(arrays[key], Tensor) else _dataset
        state[key] = read(arrays[key], key, expected.dtype)
        if not state[key].isfinite().all():
            raise ValueError(f"{key} holds NaN or infinite numbers.")
    model.load_state_dict(state, assign=True)
    model.eval()


def _dataset(data: h5py.Dataset, key: str, dtype: torch.dtype) -> Tensor:
    if data.dtype.kind not in "fiu":
        raise ValueError(f"{key} holds {data.dtype} values instead of numbers.")
    if data.chunks and any(c > s for c, s in zip(data.chunks, data.shape, strict=True)):
        raise ValueError(f"{key} declares chunks of {data.chunks}, more than it holds.")
    return torch.as_tensor(data.astype(str(dtype).removeprefix("torch."))[()])


def _tensor(value: Tensor, key: str, dtype: torch.dtype) -> Tensor:
    if value.dtype.is_complex or value.dtype == torch.bool:
        raise ValueError(f"{key} holds {value.dtype} values instead of numbers.")
    # A copy: in a file, arrays may share their numbers, with each other or within one.
    return value.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
