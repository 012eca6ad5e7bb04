"""Turn the arrays and settings of a file into a network, and back.

What a file declares is checked before any number is read: a small file may declare any size.
"""

import json
from collections.abc import Mapping
from typing import Any

import h5py
import torch
from torch import Tensor, nn

from micranet_helpers.zoo.architectures import Arrays, assemble, settings


def parse(text: str | bytes, what: str) -> dict[str, Any]:
    """Read settings from a JSON object; those in ``model_params`` move to the top level."""
    try:
        params = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no JSON text ({error}).") from None
    if not isinstance(params, dict):
        raise ValueError(f"{what} holds no JSON object {{...}}.")
    return merged(params)


def merged(params: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the settings in ``model_params``, where some files keep them, into the top level."""
    nested = params.get("model_params", {})
    if not isinstance(nested, Mapping):
        raise ValueError("the setting model_params must be a JSON object {...}.")
    return {**{key: value for key, value in params.items() if key != "model_params"}, **nested}


def settings_text(model: nn.Module, params: Mapping[str, Any]) -> str:
    """Write the settings of a network and of its training as one JSON object.

    A ValueError says if they contradict each other or are not plain finite numbers, text and lists.
    """
    own = settings(model)
    params = {**own, **params}
    if any(repr(merged(params)[key]) != repr(value) for key, value in own.items()):
        raise ValueError(f"The params contradict the models, which have {own}.")
    try:
        return json.dumps(params, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Params must be plain finite numbers, text and lists: {error}.") from None


def taken(model: nn.Module, half: bool = False) -> dict[str, Tensor]:
    """Return the state dict as finite CPU tensors, float32 unless they are whole numbers.

    With ``half``, kernels and matrices are float16; vectors, which need the precision and hardly
    any space, are not. A ValueError says if a number is not finite or the network could not be
    loaded again.
    """
    assemble(model.state_dict(), settings(model), "The model")
    stored = {}
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value = value.half() if half and value.ndim > 1 else value.float()
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} holds NaN or infinite numbers: the training diverged.")
        stored[key] = value.cpu().contiguous()
    return stored


def fill(model: nn.Module, arrays: Arrays) -> None:
    """Give a network copies of its numbers, which must be finite; it is then in evaluation mode."""
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
