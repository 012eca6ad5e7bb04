"""Read and write the files in which MICRA-Net and its baselines are published.

A zoo (HDF5) holds architecture groups, a group holds models, a model one dataset per entry of its
``state_dict``, or one sub-group per fold. The attribute ``trainer_params`` of a group holds the
settings, ``usage`` how the network is to be used, both JSON. A zoo may also hold a project of the
program Ilastik. No code in a file is run and no link out of it followed, so that files from an
unknown source cannot do harm or show other files.
"""

import io
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from micranet_helpers.files.atomic import named, write_atomically
from micranet_helpers.files.hdf5 import (
    attribute,
    kept_elsewhere,
    member,
    opened,
    reading,
    standalone,
    walk,
)
from micranet_helpers.files.lock import alone
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.networks.wrapped import unwrapped
from micranet_helpers.zoo.architectures import MOST, assemble, check_numbers, settings, shapes_of
from micranet_helpers.zoo.shelf import locate
from micranet_helpers.zoo.usage import Usage
from micranet_helpers.zoo.weights import fill, parse, settings_text, taken

MODEL = "model"  # under which `save` writes the model of a group
ILASTIK = "Ilastik"  # how the names of groups begin that hold a project of Ilastik


@dataclass(frozen=True, eq=False)
class ZooEntry:
    """Hold what :func:`load` returns.

    Attributes
    ----------
    models : list of MICRANet, UNet, FalkUNet or torchvision's MaskRCNN
        The network in evaluation mode, on the CPU; one per fold where the zoo holds folds.
    params : dict
        Settings of the training, and those that define the network: see
        :func:`~micranet_helpers.zoo.architectures.settings`.
    class_thresholds : ndarray of float64, or None
        Decision threshold of each class, a probability, as stored.
    usage : Usage, or None
        How the network is to be used, where the zoo says it.
    """

    models: list[nn.Module]
    params: dict[str, Any]
    class_thresholds: NDArray[np.float64] | None
    usage: Usage | None = None

    @property
    def kind(self) -> str:
        """Name of the network, "MICRANet", "UNet", "FalkUNet" or "MaskRCNN"."""
        return type(self.models[0]).__name__


def save(
    path: str | Path,
    group: str,
    models: nn.Module | Sequence[nn.Module],
    params: dict[str, Any],
    class_thresholds: ArrayLike | None = None,
    *,
    usage: Usage | None = None,
    half: bool = False,
) -> None:
    """Add a model, or the folds of a model, to a zoo file.

    A group of the same name is replaced, the others stay. After any failure the old file is as
    before.

    Parameters
    ----------
    path : str or Path
        The zoo, usually ``*.hdf5``; created where there is none.
    group : str
        Name of the architecture group, e.g. ``"MICRANet"``.
    models : MICRANet, UNet, FalkUNet, MaskRCNN or sequence of one of them
        The trained network, or one per fold.
    params : dict
        Settings of the training, stored as JSON. Those that define the network are filled in:
        see :func:`~micranet_helpers.zoo.architectures.settings`.
    class_thresholds : array-like of float, (num_classes,), optional
        Decision threshold of each class, a probability.
    usage : Usage, optional
        How the network is to be used: scale of the images, size of the objects, levels.
    half : bool
        Store the weights of convolutions and linear layers as float16, in half the space; all
        are float32 again when they are loaded.

    Raises
    ------
    TypeError
        If a model is none of these.
    ValueError
        If the input is contradictory or cannot be stored as JSON and finite numbers, or another
        program keeps writing to the zoo.
    OSError
        If the file cannot be written, e.g. because the disk is full, or the old one not read.
    """
    path = Path(path).expanduser().resolve()
    models = [unwrapped(each) for each in ([models] if isinstance(models, nn.Module) else models)]
    sizes = _common_settings(models)
    attributes: dict[str, Any] = {"trainer_params": settings_text(models[0], params)}
    if usage is not None:
        _check_usage(usage, sizes)
        attributes["usage"] = usage.text
    if class_thresholds is not None:
        attributes["class_thresholds"] = thresholds = np.asarray(class_thresholds, np.float64)
        count = sizes["num_classes"]
        if thresholds.shape != (count,) or not np.isfinite(thresholds).all():
            raise ValueError(f"Give one finite threshold for each of the {count} classes.")
    weights = [taken(model, half) for model in models]
    if group in ("", ".") or set(group) & {"/", "\0"}:
        raise ValueError(f"Name the group without slashes, e.g. 'MICRANet', not {group!r}.")
    with alone(path.parent, path.name, wait=60):  # two programs would each drop the other's group
        try:
            image = _with_group(path, group, weights, attributes)
        except (OSError, RuntimeError, KeyError) as error:
            raise OSError(
                f"The zoo {path} could not be written and is as before; "
                f"make sure that the old file is sound ({error})."
            ) from error
        write_atomically(path, image.getbuffer())


def load(path: str | Path, group: str, name: str | None = None) -> ZooEntry:
    """Load a model, or all folds of a model, from a zoo file.

    Parameters
    ----------
    path : str or Path
        The zoo, or ``shipped:NAME``, see :func:`micranet_helpers.zoo.shelf.locate`.
    group : str
        Name of the architecture group, e.g. ``"MICRANet-1:5"`` or ``"UNet"``. Names and shapes
        of the arrays decide which network it holds, not this name.
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
    ImportError
        If the group holds a Mask R-CNN, and torchvision, or its compiled part, is missing.
    ValueError
        If the file is damaged or does not hold a complete network there, or the settings of a
        MICRA-Net or Mask R-CNN contradict its weights. Those of a U-Net are not compared: a
        published one contradicts them.

    Notes
    -----
    The published U-Net for F-actin ends in a sigmoid. Ours has the same weights and returns
    logits: take ``torch.sigmoid`` of them to compare.

    A Mask R-CNN may have the names of any release of torchvision. Its settings must give what no
    weight does: the side of its crops and how it normalises images. The rest is as in
    :func:`micranet_helpers.networks.mask_rcnn.build`.

    In rare cases the HDF5 library itself hangs on damaged text. Take zoos from a source that gives
    a checksum, and compare it.
    """
    with reading(locate(path), repr(group)) as file:
        return _read(file, group, name)


def contents(path: str | Path) -> list[dict[str, Any]]:
    """List the models of a zoo without reading any of their numbers.

    Parameters
    ----------
    path : str or Path
        The zoo, or ``shipped:NAME``, see :func:`micranet_helpers.zoo.shelf.locate`.

    Returns
    -------
    list of dict
        One row a model, fit for ``pandas.DataFrame``:

        - ``group``: the architecture group, e.g. ``"MICRANet-1:5"`` or ``"MaskRCNN-BBOX"``;
        - ``model``: its name in the group; None where the group holds arrays or a project of
          Ilastik instead of models, which is one row;
        - ``folds``: number of networks, 0 without models;
        - ``arrays`` and ``numbers``: how many all folds hold together, at any depth; numbers that
          are not learnt, such as statistics of batch norm, count, too. Texts do not, nor does
          what a link or another file would add;
        - ``in_channels`` (or ``num_input_images``) and ``num_classes``: from the settings, None
          where they are not given;
        - ``class_thresholds``: list of float, None where there are none that can be read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no HDF5 file, is damaged, or holds more than a zoo can.
    """
    with reading(locate(path), "the list of models") as file:
        if len(file) > MOST:
            raise ValueError(f"it has {len(file)} groups, at most {MOST} are expected.")
        rows = []
        for name, found in groupby(walk(file), lambda pair: pair[0].split("/")[0]):
            (_, group), *inside = found
            if isinstance(group, h5py.Group):
                known = _known(group)
                rows += [{"group": name, **row, **known} for row in _rows(name, inside)]
        return rows


def extract_ilastik(
    zoo_path: str | Path, out: str | Path, group: str | None = None, overwrite: bool = False
) -> None:
    """Write the project of Ilastik in a zoo to a file that the program opens.

    All that the group holds, and its attributes, move to the top level of a new file. Soft links
    within the group are adapted.

    Parameters
    ----------
    zoo_path : str or Path
        The zoo.
    out : str or Path
        The project, ``*.ilp``.
    group : str, optional
        Group of the project, e.g. ``"Ilastik-FS"``; by default the only one whose name begins
        with :data:`ILASTIK`.
    overwrite : bool
        Whether an old project of this name may be replaced.

    Raises
    ------
    FileNotFoundError
        If there is no such zoo.
    FileExistsError
        If ``out`` exists and may not be replaced.
    ValueError
        If ``out`` has another suffix, the zoo is damaged, holds no such group, or the group has
        links or data outside itself.
    OSError
        If the project cannot be written; then nothing of it is left.
    """
    out = named(out, ".ilp", overwrite)
    with reading(zoo_path, "the Ilastik project") as zoo:
        names = [name for name in zoo if name.startswith(ILASTIK)] if group is None else [group]
        if len(names) != 1:
            raise ValueError(
                f"it has {len(names)} groups whose names begin with {ILASTIK}: give the name of "
                f"one, out of {', '.join(zoo) or 'none'}."
            )
        image = standalone(member(zoo, names[0]))
    write_atomically(out, image.getbuffer())


def _check_usage(usage: Usage, sizes: dict[str, Any]) -> None:
    channels = sizes.get("in_channels", sizes.get("num_input_images"))
    found = {*map(len, (usage.channels, usage.offset, usage.factor))} - {0, 1, channels}
    # Mask R-CNN counts the background as a class.
    background = "num_input_images" in sizes and "image_mean" in sizes
    if found or len(usage.classes) != sizes["num_classes"] - background:
        raise ValueError(
            f"The usage names {len(usage.classes)} classes, or the scale of other channels, but "
            f"the network has {channels} channels and {sizes['num_classes']} classes."
        )


def _common_settings(models: list[nn.Module]) -> dict[str, Any]:
    found = [(settings(model), shapes_of(model)) for model in models]
    if not 1 <= len(models) <= MOST or any(each != found[0] for each in found):
        raise ValueError(
            f"The folds of a model must be 1 to {MOST} networks of one kind with the same numbers "
            "of channels and classes and the same settings."
        )
    check_numbers(models)
    return found[0][0]


def _with_group(
    path: Path, group: str, weights: list[dict[str, Tensor]], attributes: dict[str, Any]
) -> io.BytesIO:
    """Copy a zoo, if there is one, and write one of its groups anew.

    In memory: after a failed write to disk, HDF5 crashes when the program ends.
    """
    with h5py.File(image := io.BytesIO(), "w") as file:
        if path.exists():
            with opened(path) as old:
                file.attrs.update(old.attrs)
                for name in old:
                    if name != group:
                        old.copy(member(old, name, h5py.Group | h5py.Dataset), file, name)
        architecture = file.create_group(group)
        architecture.attrs.update(attributes)
        # In the order of writing, else fold-10 comes before fold-2.
        model = architecture.create_group(MODEL, track_order=True)
        for number, fold in enumerate(weights):
            target = model if len(weights) == 1 else model.create_group(f"fold-{number}")
            for key, value in fold.items():
                target.create_dataset(key, data=value.numpy())
    return image


def _read(file: h5py.File, group: str, name: str | None) -> ZooEntry:
    architecture = member(file, group)
    params = _params(architecture)
    names = list(architecture)
    if not names:
        raise ValueError("the group holds no model.")
    model = member(architecture, names[-1] if name is None else name)
    folds = []
    for each in _folds(model):
        arrays = {key: member(each, key, h5py.Dataset) for key in list(each)[: MOST + 1]}
        folds.append(assemble(arrays, params, each.name))  # nothing is read yet
    models = [model for model, _ in folds]
    sizes = _common_settings(models)
    declared = {key: params.get(key) for key in sizes}
    if isinstance(models[0], MICRANet) and repr(declared) != repr(sizes):  # 1 is True, and 1.0
        raise ValueError(f"its trainer_params say {declared} and contradict its weights, {sizes}.")
    for model, arrays in folds:
        fill(model, arrays)
    usage = attribute(architecture, "usage")
    if usage is not None:
        usage = Usage.of_text(usage)
        _check_usage(usage, sizes)
    return ZooEntry(models, {**params, **sizes}, _thresholds(architecture), usage)


def _folds(model: h5py.Group) -> list[h5py.Group]:
    if len(model) > MOST:
        raise ValueError(f"{model.name} has {len(model)} members, at most {MOST} are expected.")
    members = [member(model, key, h5py.Group | h5py.Dataset) for key in model]
    in_folds = members and all(isinstance(found, h5py.Group) for found in members)
    return members if in_folds else [model]


def _thresholds(architecture: h5py.Group) -> NDArray[np.float64] | None:
    thresholds = attribute(architecture, "class_thresholds")
    if thresholds is None:
        return None
    thresholds = np.asarray(thresholds, np.float64)
    if not np.isfinite(thresholds).all():
        raise ValueError("its class_thresholds are no finite numbers.")
    return thresholds


def _params(architecture: h5py.Group) -> dict[str, Any]:
    text = attribute(architecture, "trainer_params")
    if not isinstance(text, str):
        raise ValueError("the group has no JSON text in its attribute trainer_params.")
    return parse(text, "its attribute trainer_params")


def _rows(name: str, inside: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    top = [item for place, item in inside if place.count("/") == 1]
    if name.startswith(ILASTIK) or any(isinstance(item, h5py.Dataset) for item in top):
        return [{"model": None, "folds": 0, **_counts(item for _, item in inside)}]
    rows = []
    for model, found in groupby(inside, lambda pair: pair[0].split("/")[1]):
        (_, group), *below = found
        if isinstance(group, h5py.Group):
            direct = [item for place, item in below if place.count("/") == 2]
            in_folds = direct and all(isinstance(item, h5py.Group) for item in direct)
            folds = len(direct) if in_folds else 1
            rows.append({"model": model, "folds": folds, **_counts(item for _, item in below)})
    return rows


def _counts(items: Iterable[Any]) -> dict[str, int]:
    arrays = [item for item in items if isinstance(item, h5py.Dataset) and not kept_elsewhere(item)]
    return {"arrays": len(arrays), "numbers": sum(map(_count, arrays))}


def _count(data: h5py.Dataset) -> int:
    # Not data.dtype: numpy has no name for some types.
    numeric = data.id.get_type().get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
    return math.prod(data.shape) if numeric and data.shape is not None else 0


def _known(group: h5py.Group) -> dict[str, Any]:
    params, thresholds = {}, None
    with suppress(ValueError, TypeError):
        params = _params(group)
    with suppress(ValueError, TypeError):
        thresholds = _thresholds(group)
    sizes = params.get("num_input_images", params.get("in_channels")), params.get("num_classes")
    in_channels, num_classes = (size if type(size) is int else None for size in sizes)
    return {
        "in_channels": in_channels,
        "num_classes": num_classes,
        "class_thresholds": None if thresholds is None else thresholds.ravel().tolist(),
    }
