"""Recognise a network by the names of its arrays, and build it from their shapes.

Settings are read only where no shape decides, which is the pool of MICRA-Net, and Mask R-CNN:
those published with the U-Net for MNIST contradict its weights.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import h5py
import torch
from torch import Tensor, nn

from micranet_helpers.networks import mask_rcnn
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.networks.unet import FalkUNet, UNet

Arrays = Mapping[str, h5py.Dataset | Tensor]  # by name, in the file or in memory
Shapes = Mapping[str, tuple[int, ...] | None]  # of each array by its name; HDF5 knows None

# Limits of ours: whatever exceeds them is a damaged or hostile file.
MOST = 1000  # channels, classes, filters, folds, and arrays of a network
LEVELS = 10  # of a U-Net
NUMBERS = 10**8  # numbers of all folds of a model together: 400 MB
CROPS = range(32, 4097)  # sides of the crops of a Mask R-CNN, px
TONE = 1e6  # mean and deviation of a Mask R-CNN's images, and 1 / TONE: float32 has no more digits


class Architecture(NamedTuple):
    """Describe one row of `ARCHITECTURES`."""

    name: str  # in messages
    kind: str  # name of its class: the class of torchvision would have to be imported
    sign: str  # name of an array that no other network has
    # Makes the network of some shapes and settings; of odd shapes any, as `assemble` compares them.
    make: Callable[[Shapes, Mapping[str, Any]], nn.Module]
    settings: Callable[[Any], dict[str, Any]]  # those that define a network, as published files do


def assemble(arrays: Arrays, params: Mapping[str, Any], where: str) -> tuple[nn.Module, Arrays]:
    """Build the network of some arrays on the meta device, without reading any number.

    Also returns the arrays by today's names. A ValueError says what is missing, unexpected,
    misshapen, out of range or contradictory; ``where`` the arrays are is for its message.
    """
    architecture = next((each for each in ARCHITECTURES if each.sign in arrays), None)
    if architecture is None:
        known = " or ".join(each.name for each in ARCHITECTURES)
        raise ValueError(
            f"{where} is no {known}, which are all that can be loaded: it holds {len(arrays)} "
            f"arrays, the first are {sorted(arrays)[:3]}."
        )
    arrays = _named_today(arrays)
    shapes = {key: None if x.shape is None else tuple(x.shape) for key, x in arrays.items()}
    with torch.device("meta"):
        model = architecture.make(shapes, params)
    expected = shapes_of(model)
    if expected.keys() != shapes.keys():
        missing, extra = sorted(expected.keys() - shapes), sorted(shapes.keys() - expected)
        raise ValueError(
            f"{where} is no {architecture.name}: missing {missing[:3]}, unexpected {extra[:3]} "
            f"(the first three of {len(missing)} and {len(extra)})."
        )
    for key, shape in expected.items():
        if shapes[key] != shape:
            raise ValueError(f"{where}/{key} has the shape {shapes[key]}, expected is {shape}.")
    return model, arrays


def _named_today(arrays: Arrays) -> Arrays:
    """Rename the arrays of a Mask R-CNN of an older torchvision, whose norms counted no batches.

    Where both names of an array are present, both stay: one too many.
    """
    if _MASK_RCNN not in arrays:
        return arrays
    named = {}
    for name, array in arrays.items():
        today = name
        for pattern, new in _RENAMED:
            today = re.sub(pattern, new, today)
        named[name if today in arrays else today] = array
    if not any(name.endswith(".num_batches_tracked") for name in named):
        norms = [name.removesuffix("running_var") for name in named if name.endswith("running_var")]
        named |= {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}
    return named


def settings(model: nn.Module) -> dict[str, Any]:
    """List the settings that define a network, by the names that published files use.

    ``num_classes`` and ``num_input_images`` (U-Nets: ``in_channels``); MICRANet: ``pool`` with its
    ``share`` or ``sharpness``, unless it is the published one; UNet: ``depth`` and, for 2^f
    filters, ``number_filter`` f; Mask R-CNN, which counts the background: ``min_size`` and
    ``max_size``, the side of its crops, px, and ``image_mean`` and ``image_std``, one number a
    channel. Raises TypeError if it is none of these networks.
    """
    classes = {each.__name__ for each in type(model).__mro__}
    for architecture in ARCHITECTURES:
        if architecture.kind in classes:
            return architecture.settings(model)
    known = ", ".join(architecture.kind for architecture in ARCHITECTURES)
    raise TypeError(f"Only {known} can be written, not {type(model).__name__}.")


def shapes_of(model: nn.Module) -> Shapes:
    """Return the shape of each array of a network by its name; refuse quantised weights."""
    state = model.state_dict()
    if not all(isinstance(value, Tensor) and not value.is_quantized for value in state.values()):
        raise TypeError("Only float weights can be written: take the network before quantisation.")
    return {key: tuple(value.shape) for key, value in state.items()}


def check_numbers(models: Iterable[nn.Module]) -> None:
    """Refuse folds of a model that hold more than `NUMBERS` numbers together."""
    count = sum(math.prod(shape) for model in models for shape in shapes_of(model).values())
    if count > NUMBERS:
        raise ValueError(f"The weights are {count} numbers, at most {NUMBERS} are expected.")


def _micranet(shapes: Shapes, params: Mapping[str, Any]) -> MICRANet:
    pool = {name: params[name] for name in ("pool", "share", "sharpness") if name in params}
    return MICRANet(_side(shapes, "conv1a.weight", 1), _side(shapes, "linear1.weight", 0), **pool)


def _micranet_settings(model: MICRANet) -> dict[str, Any]:
    sizes = {"num_input_images": model.in_channels, "num_classes": model.num_classes}
    return sizes | model.pooling


def _unet(shapes: Shapes, _: Mapping[str, Any]) -> UNet:
    below = re.compile(r"contractingPath\.\d+\.conv\.1\.conv\.0\.weight")
    depth = 1 + sum(bool(below.fullmatch(key)) for key in shapes)
    if depth > LEVELS:
        raise ValueError(f"The U-Net has {depth} levels, at most {LEVELS} are expected.")
    filters, in_channels = (_side(shapes, "firstConvolution.conv.0.weight", i) for i in (0, 1))
    return UNet(in_channels, _side(shapes, "lastConv.weight", 0), depth, filters)


def _falk(shapes: Shapes, _: Mapping[str, Any]) -> FalkUNet:
    filters, in_channels = (_side(shapes, "conv_d0ab.weight", axis) for axis in (0, 1))
    return FalkUNet(in_channels, _side(shapes, "conv_u0dscore.weight", 0), filters)


def _mask_rcnn(shapes: Shapes, params: Mapping[str, Any]) -> nn.Module:
    in_channels, num_classes = _side(shapes, _FIRST, 1), _side(shapes, _MASK_RCNN, 0)
    for key, size in {"num_input_images": in_channels, "num_classes": num_classes}.items():
        if repr(params.get(key)) != repr(size):  # True is 1, too, and so is 1.0
            raise ValueError(f"the weights say {key} = {size}, the settings {params.get(key)!r}.")
    side, largest = params.get("min_size"), params.get("max_size")
    if not (type(side) is type(largest) is int and side == largest and side in CROPS):
        raise ValueError(
            "min_size and max_size must be one whole number, the side of the crops, from "
            f"{CROPS[0]} to {CROPS[-1]}, not {side!r} and {largest!r}."
        )
    mean = _tones(params, "image_mean", in_channels, -TONE)
    std = _tones(params, "image_std", in_channels, 1 / TONE)
    model = mask_rcnn.build(in_channels, num_classes - 1, side)
    model.transform.image_mean, model.transform.image_std = mean, std
    return model


def _tones(params: Mapping[str, Any], key: str, count: int, least: float) -> list[float]:
    values = params.get(key)
    if not (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) in (int, float) and least <= value <= TONE for value in values)
    ):
        raise ValueError(f"{key} must be a list of {count} numbers from {least:g} to {TONE:g}.")
    return [float(value) for value in values]


def _mask_rcnn_settings(model: Any) -> dict[str, Any]:
    shapes, transform = shapes_of(model), model.transform
    return {
        "num_input_images": _side(shapes, _FIRST, 1),
        "num_classes": _side(shapes, _MASK_RCNN, 0),
        "min_size": transform.min_size[0],
        "max_size": transform.max_size,
        "image_mean": list(transform.image_mean),
        "image_std": list(transform.image_std),
    }


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


_FIRST = "backbone.body.conv1.weight"
_MASK_RCNN = "roi_heads.mask_predictor.mask_fcn_logits.weight"  # Faster R-CNN shares all others
_RENAMED = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    *((rf"mask_head\.mask_fcn{n}\.", f"mask_head.{n - 1}.0.") for n in (1, 2, 3, 4)),
)

# All networks that can be loaded and saved; a further one is a further row.
ARCHITECTURES = (
    Architecture("MICRA-Net", "MICRANet", "conv1a.weight", _micranet, _micranet_settings),
    Architecture("U-Net", "UNet", "firstConvolution.conv.0.weight", _unet, _unet_settings),
    Architecture(
        "U-Net of Falk et al.",
        "FalkUNet",
        "conv_d0ab.weight",
        _falk,
        lambda model: {"in_channels": model.in_channels, "num_classes": model.num_classes},
    ),
    Architecture("Mask R-CNN", "MaskRCNN", _MASK_RCNN, _mask_rcnn, _mask_rcnn_settings),
)
