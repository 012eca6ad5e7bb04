"""Tell which network some arrays belong to, and build it, from their names and shapes alone.

The settings beside published weights are not asked: those of the U-Net for MNIST contradict it.
What every file format asks of a network stands here, too: its numbers and its settings.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from micranet_helpers.model import MICRANet
from micranet_helpers.unet import FalkUNet, UNet

Network = MICRANet | UNet | FalkUNet
"""What a file of weights may hold."""

Shapes = Mapping[str, tuple[int, ...] | None]
"""Shape of each array by its name, None for an array without a shape."""

MOST = 1000
"""Most channels, classes, filters, folds, and arrays of a network; more is taken for damage."""

LEVELS = 10
"""Most levels of a U-Net, for the same reason."""

NUMBERS = 10**8
"""Most numbers of all folds of a model together, for the same reason: 400 MB."""


class Architecture(NamedTuple):
    """One row of :data:`ARCHITECTURES`.

    Attributes
    ----------
    name : str
        As messages call the network.
    kind : type
        Its class.
    sign : str
        Name of an array that no other network has.
    make : callable
        Makes the network that fits the :data:`Shapes`. Of missing or odd shapes it makes any:
        :func:`build` compares them.
    settings : callable
        Gives the settings that tell the size of a network, by their names in published files.
    """

    name: str
    kind: type[nn.Module]
    sign: str
    make: Callable[[Shapes], Network]
    settings: Callable[[Any], dict[str, int]]


def recognise(names: Collection[str], where: str) -> Architecture:
    """Tell a network from the names of its arrays.

    Parameters
    ----------
    names : collection of str
        Names of all arrays.
    where : str
        Where they are, for the message.

    Returns
    -------
    Architecture
        Its row of the table.

    Raises
    ------
    ValueError
        If no network of the table has such arrays.
    """
    for architecture in ARCHITECTURES:
        if architecture.sign in names:
            return architecture
    known = " or ".join(architecture.name for architecture in ARCHITECTURES)
    raise ValueError(
        f"{where} is no {known}, which are all that can be loaded: it holds {len(names)} arrays, "
        f"the first are {sorted(names)[:3]}."
    )


def build(architecture: Architecture, shapes: Shapes, where: str) -> Network:
    """Build the network that has arrays of these names and shapes, without any numbers.

    Parameters
    ----------
    architecture : Architecture
        What :func:`recognise` returned.
    shapes : mapping of str to tuple of int
        The arrays.
    where : str
        Where they are, for the message.

    Returns
    -------
    MICRANet, UNet or FalkUNet
        On the meta device: nothing is allocated and no random number is drawn.

    Raises
    ------
    ValueError
        If arrays are missing, too many or misshapen.
    """
    with torch.device("meta"):
        model = architecture.make(shapes)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if expected.keys() != shapes.keys():
        missing, extra = sorted(expected.keys() - shapes), sorted(shapes.keys() - expected)
        raise ValueError(
            f"{where} is no {architecture.name}: missing {missing[:3]}, unexpected {extra[:3]} "
            f"(the first three of {len(missing)} and {len(extra)})."
        )
    for key, shape in expected.items():
        if shapes[key] != shape:
            raise ValueError(f"{where}/{key} has the shape {shapes[key]}, expected is {shape}.")
    return model


def settings(model: Network) -> dict[str, int]:
    """List the settings that tell the size of a network.

    Parameters
    ----------
    model : MICRANet, UNet or FalkUNet
        The network.

    Returns
    -------
    dict of str to int
        ``num_input_images`` and ``num_classes`` of a MICRANet; ``in_channels`` and
        ``num_classes`` of a FalkUNet; these, ``depth`` and ``number_filter`` of a UNet. There,
        number_filter f means 2^f filters; it is left out where the filters are no power of 2, a
        decision of ours.
    """
    [architecture] = (row for row in ARCHITECTURES if isinstance(model, row.kind))
    return architecture.settings(model)


def check_numbers(models: Iterable[nn.Module]) -> None:
    """Raise one clear sentence if networks are too large to be true.

    Parameters
    ----------
    models : iterable of Module
        All folds of a model; the meta device is enough.

    Raises
    ------
    ValueError
        If they hold more than :data:`NUMBERS` numbers.
    """
    count = sum(value.numel() for model in models for value in model.state_dict().values())
    if count > NUMBERS:
        raise ValueError(f"The weights are {count} numbers, at most {NUMBERS} are expected.")


def check_storable(model: Any) -> None:
    """Raise one clear sentence if a network could not be loaded again, or would be of no use.

    Parameters
    ----------
    model : MICRANet, UNet or FalkUNet
        The network.

    Raises
    ------
    TypeError
        If it is another one, such as Mask R-CNN.
    ValueError
        If its arrays are not those of such a network, too large to be true, or hold NaN or
        infinity.
    """
    if not isinstance(model, Network):
        raise TypeError(
            f"Only MICRANet, UNet and FalkUNet can be written, not {type(model).__name__}."
        )
    check_numbers([model])
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    build(recognise(shapes, "The model"), shapes, "The model")
    for key, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} holds NaN or infinite numbers: the training diverged.")


def weights(model: Network) -> dict[str, Tensor]:
    """Take the numbers of a network, to store them.

    Parameters
    ----------
    model : MICRANet, UNet or FalkUNet
        The network, on any device.

    Returns
    -------
    dict of str to Tensor
        Its ``state_dict`` on the CPU; whatever is no whole number is float32, as published.
    """
    stored = {}
    for key, value in model.state_dict().items():
        value = value.float() if value.is_floating_point() else value
        stored[key] = value.cpu().contiguous()
    return stored


def fill(model: Network, arrays: Iterable[tuple[str, Tensor]]) -> None:
    """Give its numbers to a network that :func:`build` made.

    Parameters
    ----------
    model : MICRANet, UNet or FalkUNet
        The network, on the meta device; afterwards on the CPU and in evaluation mode.
    arrays : iterable of (str, Tensor)
        Name and numbers of each array, one at a time, of the shapes that :func:`build` got.

    Raises
    ------
    ValueError
        If an array holds NaN, infinity, or something else than real numbers.
    """
    expected, state = model.state_dict(), {}
    for key, value in arrays:
        if value.dtype.is_complex or value.dtype == torch.bool:
            raise ValueError(f"{key} holds {value.dtype} values instead of numbers.")
        # A copy: in a file, arrays may share their numbers, with each other or within one.
        state[key] = value.detach().to(
            expected[key].dtype, copy=True, memory_format=torch.contiguous_format
        )
        if not state[key].isfinite().all():
            raise ValueError(f"{key} holds NaN or infinite numbers.")
    model.load_state_dict(state, assign=True)
    model.eval()


def merged(params: Mapping[str, Any]) -> dict[str, Any]:
    """Move the settings of ``model_params``, where published files have them, to the top level.

    Parameters
    ----------
    params : mapping
        Settings of a training.

    Returns
    -------
    dict
        All of them, without ``model_params``.

    Raises
    ------
    ValueError
        If ``model_params`` is no mapping.
    """
    nested = params.get("model_params", {})
    if not isinstance(nested, dict):
        raise ValueError("the setting model_params must be a JSON object {...}.")
    return {**{key: value for key, value in params.items() if key != "model_params"}, **nested}


def settings_text(model: Network, params: Mapping[str, Any]) -> str:
    """Write the settings of a network and of its training as JSON.

    Parameters
    ----------
    model : MICRANet, UNet or FalkUNet
        The network; :func:`settings` tells its size.
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
    sizes = settings(model)
    params = {**sizes, **params}
    if any(repr(merged(params)[key]) != repr(size) for key, size in sizes.items()):
        raise ValueError(f"The params contradict the models, which have {sizes}.")
    try:
        return json.dumps(params, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Params must be plain finite numbers, text and lists: {error}.") from None


def _micranet(shapes: Shapes) -> MICRANet:
    return MICRANet(_side(shapes, "conv1a.weight", 1), _side(shapes, "linear1.weight", 0))


def _unet(shapes: Shapes) -> UNet:
    below = re.compile(r"contractingPath\.\d+\.conv\.1\.conv\.0\.weight")
    depth = 1 + sum(bool(below.fullmatch(key)) for key in shapes)
    if depth > LEVELS:
        raise ValueError(f"The U-Net has {depth} levels, at most {LEVELS} are expected.")
    filters, in_channels = (_side(shapes, "firstConvolution.conv.0.weight", i) for i in (0, 1))
    return UNet(in_channels, _side(shapes, "lastConv.weight", 0), depth, filters)


def _falk(shapes: Shapes) -> FalkUNet:
    filters, in_channels = (_side(shapes, "conv_d0ab.weight", axis) for axis in (0, 1))
    return FalkUNet(in_channels, _side(shapes, "conv_u0dscore.weight", 0), filters)


def _side(shapes: Shapes, key: str, axis: int) -> int:
    shape = shapes.get(key) or ()
    side = shape[axis] if axis < len(shape) else 1
    if not 1 <= side <= MOST:
        raise ValueError(f"{key} has the shape {shape}, sizes from 1 to {MOST} are expected.")
    return side


def _unet_settings(model: UNet) -> dict[str, int]:
    sizes = {"in_channels": model.in_channels, "num_classes": model.num_classes}
    sizes["depth"] = len(model.contractingPath) + 1
    filters = model.lastConv.in_channels
    if filters.bit_count() == 1:
        sizes["number_filter"] = filters.bit_length() - 1
    return sizes


ARCHITECTURES = (
    Architecture(
        "MICRA-Net",
        MICRANet,
        "conv1a.weight",
        _micranet,
        lambda model: {"num_input_images": model.in_channels, "num_classes": model.num_classes},
    ),
    Architecture("U-Net", UNet, "firstConvolution.conv.0.weight", _unet, _unet_settings),
    Architecture(
        "U-Net of Falk et al.",
        FalkUNet,
        "conv_d0ab.weight",
        _falk,
        lambda model: {"in_channels": model.in_channels, "num_classes": model.num_classes},
    ),
)
"""All networks that can be loaded and saved; a further one is a further row."""
