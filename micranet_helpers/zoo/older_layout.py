"""Read the older layout, in which the networks for MNIST were published: a folder of two files.

``params.net`` is a pickled ``state_dict``, ``trainer_params.json`` holds the settings. A pickle
can run code when it is opened; here nothing in it is run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from micranet_helpers.files.archives import check_stored
from micranet_helpers.files.hdf5 import explaining
from micranet_helpers.zoo.architectures import NUMBERS, assemble, check_numbers, settings
from micranet_helpers.zoo.hdf5_zoo import ZooEntry
from micranet_helpers.zoo.weights import fill, parse


def load(folder: str | Path) -> ZooEntry:
    """Load a network from a folder that holds ``params.net`` and ``trainer_params.json``.

    The entry has one model and no thresholds. The weights alone decide which network it is and its
    size, as published settings contradict them. Only a Mask R-CNN, none of which was published so,
    is held to its settings, as in a zoo. Raises FileNotFoundError if one of the files is missing;
    ImportError if it is a Mask R-CNN, and torchvision, or its compiled part, is missing; ValueError
    if a file is damaged or holds anything else. Nothing in it is run.
    """
    weights = _limited(Path(folder) / "params.net", 8 * NUMBERS)
    path = _limited(Path(folder) / "trainer_params.json", 10**6)
    with explaining(path, "the settings"):
        params = parse(path.read_bytes(), "the file")
        _check_finite(params)
    with explaining(weights, "the weights"):
        model, arrays = assemble(_unpickled(weights), params, weights.name)
        check_numbers([model])
        fill(model, arrays)
    return ZooEntry([model], {**params, **settings(model)}, None)


def _limited(path: Path, most: int) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}: give the folder that holds params.net and "
            "trainer_params.json."
        )
    if path.stat().st_size > most:
        raise ValueError(f"{path} has more than {most} bytes, which no such file needs.")
    return path


def _check_finite(params: dict[str, Any]) -> None:
    try:
        json.dumps(params, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError("it holds NaN or infinite numbers, or is nested too deep.") from None


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        check_stored(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds, and advises to run the code
        raise ValueError(
            "it is damaged, or holds more than the weights of a network; nothing in it was run."
        ) from None
    if not (isinstance(state, dict) and all(map(_is_plain, state, state.values()))):
        raise ValueError("it holds no state_dict, which is a dict of plain tensors by name.")
    return state


def _is_plain(key: Any, value: Any) -> bool:
    return (
        isinstance(key, str)
        and type(value) in (Tensor, nn.Parameter)
        and not (value.is_nested or value.is_quantized)
        and (value.layout, value.device.type) == (torch.strided, "cpu")
    )
