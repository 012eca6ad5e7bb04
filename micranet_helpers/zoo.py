"""Read and write the HDF5 files ("zoos") in which MICRA-Net models are published.

A zoo holds architecture groups, a group holds models, a model holds one dataset per entry of
its ``state_dict``; a model trained in folds holds one sub-group per fold. The settings are JSON
text in the attribute ``trainer_params`` of the architecture group. Nothing is ever unpickled,
and no link out of the file is followed, so a zoo from an unknown source cannot run code or show
other files.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from micranet_helpers.files import write_atomically
from micranet_helpers.hdf5 import attribute, member, reading
from micranet_helpers.model import MICRANet

MODEL = "model"
"""Name under which :func:`save` writes the model of a group."""

MOST = 1000
"""Most channels, classes and folds of a zoo; more is taken for a damaged or hostile file."""


@dataclass(frozen=True, eq=False)
class ZooEntry:
    """What :func:`load` returns.

    Attributes
    ----------
    models : list of MICRANet
        The network in evaluation mode, on the CPU; one per fold where the zoo holds folds.
    params : dict
        Settings of the training, at least ``num_input_images`` and ``num_classes``.
    class_thresholds : ndarray of float64, or None
        Probabilities from which on a class counts as present, as stored.
    """

    models: list[MICRANet]
    params: dict[str, Any]
    class_thresholds: NDArray[np.float64] | None


def save(
    path: str | Path,
    group: str,
    models: MICRANet | Sequence[MICRANet],
    params: dict[str, Any],
    class_thresholds: ArrayLike | None = None,
) -> None:
    """Add a model, or the folds of a model, to a zoo file.

    A group of the same name is replaced, the others stay. The file is written anew beside the
    old one and takes its place only when complete: after any failure the old file is as before.

    Parameters
    ----------
    path : str or Path
        The zoo, usually ``*.hdf5``; created where there is none.
    group : str
        Name of the architecture group, e.g. ``"MICRANet"``.
    models : MICRANet or sequence of MICRANet
        The trained network, or one per fold. Weights are stored as float32.
    params : dict
        Settings of the training, stored as JSON. ``num_input_images`` and ``num_classes`` are
        filled in from the models.
    class_thresholds : array-like of float, (num_classes,), optional
        Probabilities from which on a class counts as present.

    Raises
    ------
    TypeError
        If a model is no MICRANet.
    ValueError
        If the input is contradictory or cannot be stored as JSON and finite numbers.
    OSError
        If the file cannot be written, e.g. because the disk is full, or the old one not read.
    """
    path = Path(path).resolve()
    models = [models] if isinstance(models, nn.Module) else list(models)
    attributes = _attributes(models, params, class_thresholds)
    weights = [_weights(model) for model in models]
    if group in ("", ".") or set(group) & {"/", "\0"}:
        raise ValueError(f"Name the group without slashes, e.g. 'MICRANet', not {group!r}.")
    try:
        # In memory first: after a failed write to disk, HDF5 crashes when the program ends.
        with h5py.File(image := io.BytesIO(), "w") as file:
            if path.exists():
                _copy_others(path, file, group)
            _write(file.create_group(group), weights, attributes)
        write_atomically(path, image.getbuffer())
    except (OSError, RuntimeError, KeyError) as error:
        raise OSError(
            f"The zoo {path} could not be written and is as before; "
            f"make sure that the disk has room and the old file is sound ({error})."
        ) from error


def load(path: str | Path, group: str, name: str | None = None) -> ZooEntry:
    """Load a model, or all folds of a model, from a zoo file.

    Parameters
    ----------
    path : str or Path
        The zoo.
    group : str
        Name of the architecture group, e.g. ``"MICRANet"`` or ``"MICRANet-1:5"``.
    name : str, optional
        Which model of the group; by default the last one.

    Returns
    -------
    ZooEntry
        Models, settings (``model_params`` merged into the top level) and thresholds.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or does not hold a complete MICRA-Net there.

    Notes
    -----
    Everything is checked before it is used, but in rare cases the HDF5 library itself hangs on
    damaged text. Take zoos from a source that gives a checksum, and compare it.
    """
    with reading(path, repr(group)) as file:
        return _read(file, group, name)


def _attributes(
    models: list[MICRANet], params: dict[str, Any], class_thresholds: ArrayLike | None
) -> dict[str, Any]:
    for model in models:
        if not isinstance(model, MICRANet):
            raise TypeError(f"A zoo stores MICRANet models, not {type(model).__name__}.")
    sizes = {(model.in_channels, model.num_classes) for model in models}
    if len(sizes) != 1 or len(models) > MOST:
        raise ValueError(f"Give 1 to {MOST} models with the same numbers of channels and classes.")
    (size,) = sizes
    params = {**dict(zip(("num_input_images", "num_classes"), size, strict=True)), **params}
    if _size(_merged(params)) != size:
        raise ValueError(f"The params contradict the models: they have {size} channels, classes.")
    try:
        attributes = {"trainer_params": json.dumps(params, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise ValueError(f"Params must be plain finite numbers, text and lists: {error}.") from None
    if class_thresholds is not None:
        attributes["class_thresholds"] = thresholds = np.asarray(class_thresholds, np.float64)
        if thresholds.shape != size[1:] or not np.isfinite(thresholds).all():
            raise ValueError(f"Give one finite threshold for each of the {size[1]} classes.")
    return attributes


def _weights(model: MICRANet) -> dict[str, NDArray[Any]]:
    weights = {}
    for key, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} holds NaN or infinite numbers: the training diverged.")
        # numpy has no bfloat16, and the published zoos are float32.
        weights[key] = (value.float() if value.is_floating_point() else value).cpu().numpy()
    return weights


def _copy_others(path: Path, file: h5py.File, group: str) -> None:
    with h5py.File(path, "r") as old:
        for name, value in old.attrs.items():
            file.attrs[name] = value
        for name in old:
            if name != group:
                old.copy(member(old, name, h5py.Group | h5py.Dataset), file, name)


def _write(
    group: h5py.Group, weights: list[dict[str, NDArray[Any]]], attributes: dict[str, Any]
) -> None:
    group.attrs.update(attributes)
    model = group.create_group(MODEL, track_order=True)  # else fold-10 comes before fold-2
    for number, fold in enumerate(weights):
        target = model if len(weights) == 1 else model.create_group(f"fold-{number}")
        for key, value in fold.items():
            target.create_dataset(key, data=value)


def _read(file: h5py.File, group: str, name: str | None) -> ZooEntry:
    architecture = member(file, group)
    params = _params(architecture)
    names = list(architecture)
    if not names:
        raise ValueError("the group holds no model.")
    model = member(architecture, names[-1] if name is None else name)
    if len(model) > MOST:
        raise ValueError(f"{model.name} has {len(model)} members, at most {MOST} are expected.")
    members = [member(model, key, h5py.Group | h5py.Dataset) for key in model]
    in_folds = members and all(isinstance(found, h5py.Group) for found in members)
    folds = members if in_folds else [model]
    thresholds = attribute(architecture, "class_thresholds")
    if thresholds is not None:
        thresholds = np.asarray(thresholds, np.float64)
        if not np.isfinite(thresholds).all():
            raise ValueError("its class_thresholds are no finite numbers.")
    return ZooEntry([_model(fold, params) for fold in folds], params, thresholds)


def _params(architecture: h5py.Group) -> dict[str, Any]:
    text = attribute(architecture, "trainer_params")
    if not isinstance(text, str | bytes):
        raise ValueError("the group has no JSON text in its attribute trainer_params.")
    try:
        params = json.loads(text)
    except ValueError as error:
        raise ValueError(f"its attribute trainer_params is no JSON text ({error}).") from None
    if not isinstance(params, dict):
        raise ValueError("its attribute trainer_params holds no JSON object {...}.")
    params = _merged(params)
    _size(params)
    return params


def _merged(params: dict[str, Any]) -> dict[str, Any]:
    nested = params.get("model_params", {})
    if not isinstance(nested, dict):
        raise ValueError("the setting model_params must be a JSON object {...}.")
    return {**{key: value for key, value in params.items() if key != "model_params"}, **nested}


def _size(params: dict[str, Any]) -> tuple[int, int]:
    sizes = params.get("num_input_images"), params.get("num_classes")
    for key, value in zip(("num_input_images", "num_classes"), sizes, strict=True):
        if type(value) is not int or not 1 <= value <= MOST:
            raise ValueError(f"{key} must be a whole number from 1 to {MOST}, not {value!r}.")
    return sizes


def _model(group: h5py.Group, params: dict[str, Any]) -> MICRANet:
    # On the meta device nothing is allocated and no random number is drawn.
    with torch.device("meta"):
        model = MICRANet(*_size(params))
    expected = model.state_dict()
    if expected.keys() != set(group):
        missing, extra = sorted(expected.keys() - set(group)), sorted(set(group) - expected.keys())
        raise ValueError(
            f"{group.name} is no MICRA-Net: missing {missing[:3]}, unexpected {extra[:3]} "
            f"(the first three of {len(missing)} and {len(extra)})."
        )
    state = {key: _tensor(group, key, value) for key, value in expected.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def _tensor(group: h5py.Group, key: str, expected: Tensor) -> Tensor:
    data = member(group, key, h5py.Dataset)
    if data.dtype.kind not in "fiu":
        raise ValueError(f"{data.name} holds {data.dtype} values instead of numbers.")
    # Before anything is read: a small file may declare any size.
    shape = tuple(expected.shape)
    if data.shape != shape:
        raise ValueError(f"{data.name} has the shape {data.shape}, expected is {shape}.")
    if data.chunks and any(c > s for c, s in zip(data.chunks, shape, strict=True)):
        raise ValueError(f"{data.name} declares chunks of {data.chunks}, more than it holds.")
    values = data.astype(str(expected.dtype).removeprefix("torch."))[()]
    if not np.isfinite(values).all():
        raise ValueError(f"{data.name} holds NaN or infinite numbers.")
    return torch.as_tensor(values)
