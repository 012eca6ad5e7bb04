"""Write networks as ONNX graphs, which many programs run without torch and this package."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from micranet_helpers.files.atomic import named, write_atomically
from micranet_helpers.maps.cam import evidence, grad_cam
from micranet_helpers.networks import Network
from micranet_helpers.networks.micranet import STRIDES, MICRANet
from micranet_helpers.networks.unet import UNet
from micranet_helpers.networks.wrapped import unwrapped
from micranet_helpers.zoo.architectures import settings
from micranet_helpers.zoo.export.maps import maps_graph
from micranet_helpers.zoo.export.shared import check_exportable, extra, of_channels
from micranet_helpers.zoo.usage import Usage

OPSET = 18  # version of the operators: the lowest that torch writes, so older programs read it
TOLERANCE = 1e-5  # difference of graph and network, per unit of the output's largest value above 1
OF_MAPS = 1e-2  # mean difference of maps: where rounding tips over a max pool, some pixels differ


def to_onnx(
    path: str | Path, model: Network, classes: Sequence[str] | None = None, *,
    maps: bool | Literal["predicted"] = False, usage: Usage | None = None,
) -> None:  # fmt: skip
    """Write a network as an ONNX graph, checked by onnx and compared with torch in onnxruntime.

    The graph's input ``image`` is float32 (N, C, H, W), as the network sees it, of any N, H and W;
    H and W multiples of 8 (MICRANet), 16 (FalkUNet) or 2^(depth - 1) (UNet). Its outputs are what
    :class:`Outputs` computes; with ``maps``, what
    :func:`~micranet_helpers.zoo.export.maps.maps_graph` does. Its metadata hold ``settings``,
    ``classes`` and ``usage`` (if given), ``offset`` and ``factor`` of each channel (all JSON), and
    ``micranet_helpers`` (the version that wrote it). See https://onnx.ai. Raises TypeError or
    ValueError if the model is another network, e.g. Mask R-CNN, or has no maps, a weight is not
    finite, the file has another suffix, or the names are too few or many; ImportError, RuntimeError
    or OSError if a package of the extra is missing; onnxruntime computes other values than torch;
    the file cannot be written: an old one is then as before.

    Parameters
    ----------
    path : str or Path
        The file, ``*.onnx``; an old one is replaced.
    model : MICRANet, UNet or FalkUNet
        The trained network: read in evaluation mode and float32, and left as it was.
    classes : sequence of str, optional
        Names of the classes.
    maps : bool or "predicted"
        Whether the graph of a MICRANet computes the maps of all layers and the evidence; H and W
        are then at least 16. "predicted" is for browsers: the maps of the predicted classes of one
        image at a time, N = 1, and no evidence.
    usage : Usage, optional
        How the network is to be used; where it says how images are scaled, so do offset and factor.
    """
    path = named(path, ".onnx")
    write_atomically(path, graph(model, classes, maps, usage))


def graph(
    model: Network, classes: Sequence[str] | None, maps: bool | Literal["predicted"] = False,
    usage: Usage | None = None,
) -> bytes:  # fmt: skip
    """Make the content of an ONNX file, see :func:`to_onnx`."""
    onnx, _ = extra("onnx"), extra("onnxscript")
    model = unwrapped(model)
    check_exportable(model, classes)
    if maps and not isinstance(model, MICRANet):
        raise TypeError(f"Only a MICRANet has maps, not a {type(model).__name__}.")
    offset, factor = 0.0, 1.0
    if usage is not None and usage.scaling in ("fixed", "range"):
        offset, factor = usage.scale(np.zeros((1, 1, 1), usage.dtype or np.float32))
    notes = {
        "settings": settings(model),
        "offset": of_channels(model, offset),
        "factor": of_channels(model, factor),
        **({} if classes is None else {"classes": list(classes)}),
        **({} if usage is None else {"usage": asdict(usage)}),
    }
    proto = maps_graph(model, maps == "predicted") if maps else _traced(model)
    _tidy(proto, {key: json.dumps(note) for key, note in notes.items()})
    onnx.checker.check_model(proto, full_check=True)
    data = proto.SerializeToString()
    check_graph(data, model)
    return data


def _traced(model: Network) -> Any:
    """Let torch write the graph of :class:`Outputs`."""
    step = side_step(model)
    height, width = (step * Dim(name) if step > 1 else Dim(name) for name in ("height", "width"))
    program = torch.onnx.export(
        Outputs(model),
        # Numbers of which none is 1 or equal to another: else torch fixes them.
        (torch.zeros(4, model.in_channels, 2 * step, 3 * step),),
        input_names=["image"],
        output_names=["logits", "map_4b"] if isinstance(model, MICRANet) else ["logits"],
        dynamic_shapes=({0: Dim("batch"), 2: height, 3: width},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    for output in proto.graph.output[1:]:  # map_4b: its sides have names of torch
        sides = output.type.tensor_type.shape.dim[2:]
        for dim, name in zip(sides, ("height", "width"), strict=True):
            dim.dim_param = name
    return proto


class Outputs(nn.Module):
    """Compute what the graph of a network computes: a float32 copy of it in evaluation mode.

    For a MICRANet ``logits`` (N, K) and ``map_4b`` (N, K, H / 8, W / 8): the maps of layer 4b as
    :func:`micranet_helpers.maps.cam.grad_cam` computes them with ``normalize=False``, before it
    enlarges them. No gradient is needed, as the weights of a pool sum up to 1: it is the classic
    class-activation map (Zhou et al. 2016, doi 10.1109/CVPR.2016.319). For a U-Net ``logits``
    (N, K, H, W).
    """

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().float()
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute all outputs of a batch, float32, (N, C, H, W)."""
        if not isinstance(self.model, MICRANet):
            return (self.model(image),)
        features, linear = self.model.features(image), self.model.linear1
        maps = F.conv2d(features, linear.weight[:, :, None, None]).relu()
        pixels = features.shape[2] * features.shape[3]
        return self.model.pooled(features), maps / pixels


def side_step(model: Network) -> int:
    """Return what the sides of images must be multiples of, px."""
    if isinstance(model, MICRANet):
        return STRIDES[-1]
    return 2 ** len(model.contractingPath) if isinstance(model, UNet) else 16


def check_graph(data: bytes, model: Network) -> None:
    """Run a graph with onnxruntime on images of two sizes; the outputs must be the network's."""
    runtime = extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # in a container, it complains about others
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    step, draw = side_step(model), torch.Generator().manual_seed(0)
    for number, rows, columns in ((1, 3, 2), (3, 2, 4)):
        size = number, model.in_channels, rows * step, columns * step
        images, every = torch.rand(size, generator=draw), {}
        if "shown" in names:  # every class, and of one image
            images, every = images[:1], {"least": np.full(model.num_classes, -1e30, np.float32)}
        found = session.run(None, {"image": images.numpy(), **every})
        expected = outputs(model, images, "maps" in names)
        expected["shown"] = torch.arange(expected["logits"].shape[1])
        for name, theirs in zip(names, map(torch.from_numpy, found), strict=True):
            differences = (expected[name] - theirs).abs()
            difference = float(differences.float().mean() if name == "maps" else differences.max())
            tolerance = OF_MAPS if name == "maps" else TOLERANCE
            if not difference <= tolerance * max(1, float(expected[name].abs().max())):
                raise RuntimeError(
                    f"The ONNX graph differs from the network by {difference:.1e}, so it is not "
                    f"written: update onnxscript and onnxruntime {runtime.__version__}."
                )


@torch.no_grad()
def outputs(model: Network, images: Tensor, maps: bool) -> dict[str, Tensor]:
    """Compute what a graph must give, by name."""
    network = Outputs(model)
    if not maps:
        return dict(zip(("logits", "map_4b"), network(images), strict=False))
    cams = grad_cam(network.model, images)
    shown = evidence(network.model, images)
    return {"logits": cams.logits, "maps": cams.maps, "evidence": shown}


def _tidy(proto: Any, notes: dict[str, str]) -> None:
    """Remove the exporter's notes, which name folders of this machine; add ours."""
    parts = proto.graph
    for part in (parts, *parts.node, *parts.input, *parts.output, *parts.initializer):
        for field in ("metadata_props", "doc_string"):
            part.ClearField(field)
    del parts.value_info[:]
    for key, value in {**notes, "micranet_helpers": version("micranet-helpers")}.items():
        proto.metadata_props.add(key=key, value=value)
