"""Write a MICRANet with its maps and evidence as an ONNX graph, operator by operator.

The gradient is written out as in :mod:`micranet_helpers.maps.cam`, so the graph is a plain forward
computation. torch's exporter would take minutes, and writes files that older programs cannot read.
Operators of version 17 in a file of version 8 run in onnxruntime from 1.13 on (deepImageJ's
newest; QuPath's is newer) and onnxruntime-web 1.30: maps differ from grad_cam's by some 1e-6, and
by up to 1e-3 where rounding decides which pixel a max pool takes.

The graph for browsers explains only the classes that it predicts, all in one way back, and
convolves by :mod:`~micranet_helpers.zoo.export.winograd`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights

from micranet_helpers.maps.cam import BELOW
from micranet_helpers.networks.micranet import LAYERS, STRIDES, MICRANet
from micranet_helpers.zoo.export import winograd
from micranet_helpers.zoo.export.shared import extra

OPSET, IR_VERSION = 17, 8  # versions of the operators and of the file
FLOAT, INT64, DOUBLE = 1, 7, 11  # as ONNX numbers types
FAR = 2**31 - 1  # an end that is none
POOLED = tuple(layer for layer in range(1, len(LAYERS)) if STRIDES[layer] != STRIDES[layer - 1])

Op = Any  # onnxscript's OpBuilder: its methods add operators to the graph
Value = Any  # an output of an operator
Group = Any  # numbers of classes whose gradients are computed together: a list, or a Value
Shares = Callable[[Group], Value]


@torch.no_grad()
def maps_graph(model: MICRANet, predicted: bool = False) -> Any:
    """Make the graph, an ``onnx.ModelProto``, of any batch and size from 16 px on.

    Its outputs, of ``image`` (B, C, H, W), are ``logits`` (B, K) and ``maps`` (B, K, 8, H, W),
    those of :func:`micranet_helpers.maps.cam.grad_cam`, and ``evidence`` (B, K, H, W), that of
    :func:`micranet_helpers.maps.cam.evidence`.

    With ``predicted`` it is the one for browsers, of one image (1, C, H, W). A second input is
    ``least`` (K,), above which logits predict a class; outputs are ``logits`` (1, K), ``shown``,
    int64 (N,), the predicted classes by number, and ``maps`` (1, N, 8, H, W).
    """
    script = extra("onnxscript")
    ir = script.ir
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="maps")
    build = script.GraphBuilder(graph)

    def stored(arrays: dict[str, Any]) -> list[Value]:
        return [build.initializer(ir.tensor(each, name=name)) for name, each in arrays.items()]

    weights = [stored(arrays) for arrays in _arrays(model)]
    op, sides, classes = build.op, ["height", "width"], model.num_classes
    image = build.input("image", ir.DataType.FLOAT, ["batch", model.in_channels, *sides])
    convolve = partial(_conv, op)
    if predicted:
        convolve = partial(winograd.convolve, op, stored(winograd.TRANSFORMS))
    activations = _forward(op, image, weights, convolve)
    logits, shares = _pool(op, model, activations[-1], weights[-1])
    outputs = {"logits": (logits, ["batch", classes])}
    groups, shape = [[cls] for cls in range(classes)], ["batch", classes]
    if predicted:
        above = op.Greater(logits, build.input("least", ir.DataType.FLOAT, [classes]))
        shown = op.Reshape(op.Slice(op.NonZero(above), [1], [2], [0]), [-1])
        outputs["shown"], shape = (shown, ["shown"]), [1, "shown"]
        count = op.Shape(shown)  # without any, another stands in: no batch is empty
        groups = [op.Slice(op.Concat(shown, [0], axis=0), [0], op.Max(count, [1]))]
    maps = _maps(op, activations, shares, weights, groups, convolve)
    maps = op.Slice(maps, [0], count, [1]) if predicted else maps
    outputs["maps"] = maps, [*shape, len(LAYERS), *sides]
    if not predicted:
        outputs["evidence"] = _evidence(op, image, weights), [*shape, *sides]
    for name, (value, shape) in outputs.items():
        value.shape = ir.Shape(shape)
        build.add_output(value, name)
    return ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))


def _arrays(model: MICRANet) -> list[dict[str, Any]]:
    """Fold each batch norm into its convolution; the linear layer becomes a 1×1 convolution."""
    arrays = []
    for layer in LAYERS:
        conv, norm = model.get_submodule(f"conv{layer}"), model.get_submodule(f"bnorm{layer}")
        moments = norm.running_mean, norm.running_var, norm.eps
        fused = fuse_conv_bn_weights(conv.weight, conv.bias, *moments, norm.weight, norm.bias)
        arrays.append(dict(zip((f"weight{layer}", f"bias{layer}"), fused, strict=True)))
    linear = model.linear1
    arrays.append({"linear": linear.weight[:, :, None, None], "linear_bias": linear.bias})
    return [{name: a.float().cpu().numpy() for name, a in each.items()} for each in arrays]


def _conv(op: Op, x: Value, weight: Value, *bias: Value) -> Value:
    return op.Conv(x, weight, *bias, pads=[1] * 4)


def _forward(
    op: Op, x: Value, weights: list, convolve: Callable[..., Value],
    layers: range = range(len(LAYERS)),
) -> list[Value]:  # fmt: skip
    """Compute the activations of each layer, after the ReLU."""
    activations = []
    for layer in layers:
        x = _pooled(op, x) if layer in POOLED else x
        x = op.Relu(convolve(x, *weights[layer]))
        activations.append(x)
    return activations


def _pooled(op: Op, x: Value) -> Value:
    return op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2])


def _pool(op: Op, model: MICRANet, top: Value, linear: list[Value]) -> tuple[Value, Shares]:
    """Compute logits and, for a group of classes, the shares of the pixels of 4b in its gradient.

    A share times the weight of the linear layer is the gradient: (B·N, 256, h, w).
    """
    active = _flag(op, op.Greater(top, 0.0))
    if model.pool == "channel":
        logits = op.Flatten(op.Conv(op.GlobalMaxPool(top), *linear))
        peaks = op.Mul(_peak(op, top), active)
        return logits, lambda group: peaks
    each = op.Conv(top, *linear)
    flat, pixels = op.Reshape(each, [0, 0, -1]), _pixels(op, top)
    if model.pool == "top":
        logits, shares = _highest(op, flat, pixels, model.share)
    else:
        scaled = op.Mul(flat, model.sharpness)
        log_mean = op.Sub(op.ReduceLogSumExp(scaled, axes=[2], keepdims=0), op.Log(pixels))
        logits, shares = op.Div(log_mean, model.sharpness), op.Softmax(scaled, axis=2)
    shares = op.Reshape(shares, op.Shape(each))
    shape = op.Concat([-1, 1], op.Shape(top, start=2), axis=0)

    def of_group(group: Group) -> Value:
        return op.Mul(op.Reshape(op.Gather(shares, group, axis=1), shape), active)

    return logits, of_group


def _highest(op: Op, flat: Value, pixels: Value, share: float) -> tuple[Value, Value]:
    """Average a share of the pixels, rounded up, the highest ones."""
    exact = op.Mul(op.Cast(pixels, to=DOUBLE), share)  # as Python counts
    whole = op.Cast(exact, to=INT64)
    rest = op.Greater(exact, op.Cast(whole, to=DOUBLE))  # older programs round no doubles
    count = op.Add(whole, op.Cast(rest, to=INT64))
    values, places = op.TopK(flat, op.Reshape(count, [1]), axis=2, _outputs=2)
    equal = op.Expand(op.Reciprocal(op.Cast(count, to=FLOAT)), op.Shape(places))
    shares = op.ScatterElements(op.ConstantOfShape(op.Shape(flat)), places, equal, axis=2)
    return op.ReduceMean(values, axes=[2], keepdims=0), shares


def _maps(
    op: Op, activations: list[Value], shares: Shares, weights: list, groups: list[Group],
    convolve: Callable[..., Value],
) -> Value:  # fmt: skip
    """Weight the channels of each layer by their mean gradients, a group of classes at a time."""
    layers = range(1, len(LAYERS))
    passed = {layer: _passed(op, layer, activations[layer - 1]) for layer in layers}
    turned = {layer: _turned(op, weights[layer][0]) for layer in layers}
    alphas, last = [], []
    for group in groups:
        slopes = op.Gather(weights[-1][0], group)  # (N, 256, 1, 1)
        alphas.append(_alphas(op, op.Mul(shares(group), slopes), passed, turned, convolve))
        last.append(op.Conv(activations[-1], slopes))
    pairs = zip(zip(*alphas, strict=True), activations, strict=False)
    cams = [_weighted(op, of_layer, activation) for of_layer, activation in pairs]
    # The mean gradient of 4b is known, as the shares sum up to 1.
    cams.append(op.Relu(op.Div(op.Concat(*last, axis=1), _pixels(op, activations[-1]))))
    scaled = [_scaled(op, cam, stride) for cam, stride in zip(cams, STRIDES, strict=True)]
    return op.Concat(*[op.Unsqueeze(cam, [2]) for cam in scaled], axis=2)


def _weighted(op: Op, alphas: Sequence[Value], activation: Value) -> Value:
    """Sum channels (B, C, h, w) with weights (B·N, C, 1, 1) of groups, whose B or N is 1."""
    sizes = op.Shape(activation, end=1), [-1], op.Shape(activation, start=1, end=2)
    shape = op.Concat(*sizes, axis=0)
    stacked = op.Concat(*[op.Reshape(alpha, shape) for alpha in alphas], axis=1)
    return op.Einsum(stacked, activation, equation="bkc,bchw->bkhw")


def _alphas(
    op: Op, grad: Value, passed: dict, turned: dict, convolve: Callable[..., Value]
) -> list[Value]:
    """Go back from the gradient at 4b, before its ReLU: means of 1a to 4a, (B·N, C, 1, 1)."""
    alphas = []
    for layer in range(len(LAYERS) - 1, 1, -1):
        # From before the ReLU of this layer to before the ReLU of the layer below.
        grad = convolve(grad, turned[layer])
        alphas.append(op.GlobalAveragePool(grad))
        if layer in POOLED:
            grad = op.Mul(op.Concat(*[grad] * 4, axis=1), passed[layer])
            grad = op.DepthToSpace(grad, blocksize=2)
        else:
            grad = op.Mul(grad, passed[layer])
    # Of 1a only the mean is needed: a position of the kernel sees the gradient without the row
    # and the column that its shift pushes over the border.
    sums = _without_ends(op, _without_ends(op, grad, 2), 3)  # (B·N, 32, 3, 3)
    alphas.append(op.Div(op.Conv(sums, turned[1]), _pixels(op, grad)))
    return alphas[::-1]


def _without_ends(op: Op, x: Value, axis: int) -> Value:
    """Sum an axis without its last, with all, and without its first."""
    total = op.ReduceSum(x, [axis])
    first, last = op.Slice(x, [0], [1], [axis]), op.Slice(x, [-1], [FAR], [axis])
    return op.Concat(op.Sub(total, last), total, op.Sub(total, first), axis=axis)


def _turned(op: Op, weight: Value) -> Value:
    """Turn the weight of a convolution into that of its transposed one, (in, out, 3, 3)."""
    backwards = op.Slice(weight, [-1, -1], [-FAR, -FAR], [2, 3], [-1, -1])
    return op.Transpose(backwards, perm=[1, 0, 2, 3])


def _passed(op: Op, layer: int, below: Value) -> Value:
    """Mark by 1.0, else 0.0, what reaches a layer: above 0 and, if pooled, first of the highest.

    Before a max pool the four pixels of each window become channels, (B, 4·C, h, w).
    """
    if layer not in POOLED:
        return _flag(op, op.Greater(below, 0.0))
    highest, marks = _pooled(op, below), []
    free = _flag(op, op.Greater(highest, 0.0))
    for corner in ([0, 0], [0, 1], [1, 0], [1, 1]):
        pixels = op.Slice(below, corner, [FAR, FAR], [2, 3], [2, 2])
        marks.append(op.Mul(free, _flag(op, op.Equal(pixels, highest))))
        free = op.Sub(free, marks[-1])
    return op.Concat(*marks, axis=1)


def _peak(op: Op, top: Value) -> Value:
    """Mark the pixel that the global max pool takes of each channel, the first of the highest."""
    flat = op.Reshape(top, [0, 0, -1])
    highest = _flag(op, op.Equal(flat, op.ReduceMax(flat, axes=[2])))
    first = op.Mul(highest, _flag(op, op.Equal(op.CumSum(highest, 2), 1.0)))
    return op.Reshape(first, op.Shape(top))


def _flag(op: Op, x: Value) -> Value:
    return op.Cast(x, to=FLOAT)


def _pixels(op: Op, x: Value) -> Value:
    return op.Cast(op.ReduceProd(op.Shape(x, start=2), keepdims=0), to=FLOAT)


def _scaled(op: Op, cam: Value, stride: int) -> Value:
    """Scale to [0, 1], a constant map to 0, and enlarge to the image."""
    low, high = op.ReduceMin(cam, axes=[2, 3]), op.ReduceMax(cam, axes=[2, 3])
    span = op.Sub(high, low)
    varies = op.Greater(span, op.Mul(op.Max(op.Abs(high), op.Abs(low)), 1e-5))
    cam = op.Where(varies, op.Div(op.Sub(cam, low), op.Add(span, 1e-12)), 0.0)
    return _enlarged(op, cam, stride)


def _enlarged(op: Op, x: Value, stride: int) -> Value:
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return op.Resize(x, None, [1.0, 1.0, float(stride), float(stride)], mode="nearest", **how)


def _evidence(op: Op, image: Value, weights: list) -> Value:
    """Average the logits of the positions that cover a pixel, 4 px apart."""
    around = op.Pad(image, [0, 0, 4, 4, 0, 0, 12, 12], mode="reflect")
    convolve, first = partial(_conv, op), len(BELOW)
    below = _forward(op, around, weights, convolve, range(first))[-1]
    parts = []
    for down in (0, 1):
        for right in (0, 1):
            part = op.Slice(below, [down, right], [down - 2, right - 2], [2, 3])
            top = _forward(op, part, weights, convolve, range(first, len(LAYERS)))[-1]
            fine = _enlarged(op, op.Conv(top, *weights[-1]), STRIDES[-1])
            starts = [4 - 4 * down, 4 - 4 * right]
            parts.append(op.Slice(fine, starts, [start - 8 for start in starts], [2, 3]))
    return op.Mean(*parts)
