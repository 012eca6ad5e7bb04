"""Write the page's arithmetic as small ONNX graphs, by the names of their functions.

onnxruntime runs them in the reader's browser beside the networks. They are the steps of
`micranet_helpers.maps.combination`, `maps.thresholds` and `data.scaling`, and the painting of
pictures. Images are (C, H, W), the eight maps of a class (8, H, W); pictures are (H, W, 4), RGBA.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import onnx
from onnxscript import BOOL, FLOAT, INT32, INT64, UINT8, script
from onnxscript import opset17 as op

from micranet_helpers.plots.colours import SCORES

TABLE = onnx.numpy_helper.from_array(mpl.colormaps[SCORES](np.arange(256), bytes=True))


@script()
def fixed(image: FLOAT[...], offset: FLOAT[...], factor: FLOAT[...], pads: INT64[6]):
    """Scale channels by offset and factor, () or (C,), and mirror the image at its far borders."""
    offset, factor = op.Reshape(offset, [-1, 1, 1]), op.Reshape(factor, [-1, 1, 1])
    return op.Pad((image - offset) * factor, pads, mode="reflect")


@script()
def minmax(image: FLOAT[...], offset: FLOAT[...], factor: FLOAT[...], pads: INT64[6]):
    """Scale each channel from 0 to 1; offset and factor are not used."""
    low, high = op.ReduceMin(image, axes=[1, 2]), op.ReduceMax(image, axes=[1, 2])
    return fixed(image, low, 1.0 / op.Where(high > low, high - low, 1.0), pads)


@script()
def standard(image: FLOAT[...], offset: FLOAT[...], factor: FLOAT[...], pads: INT64[6]):
    """Scale each channel to mean 0 and standard deviation 1; offset and factor are not used."""
    mean = op.ReduceMean(image, axes=[1, 2])
    mean = mean + op.ReduceMean(image - mean, axes=[1, 2])  # what rounding had left
    away = image - mean
    width = op.Sqrt(op.ReduceMean(away * away, axes=[1, 2]))
    varies = op.ReduceMax(image, axes=[1, 2]) > op.ReduceMin(image, axes=[1, 2])
    return fixed(image, mean, 1.0 / op.Where(varies, width, 1.0), pads)


@script()
def sum(maps: FLOAT[...], chosen: BOOL[8]):
    """Add the chosen maps."""
    return op.ReduceSum(op.Compress(maps, chosen, axis=0), [0], keepdims=0)


@script()
def mean(maps: FLOAT[...], chosen: BOOL[8]):
    """Average the chosen maps."""
    return op.ReduceMean(op.Compress(maps, chosen, axis=0), axes=[0], keepdims=0)


@script()
def prod(maps: FLOAT[...], chosen: BOOL[8]):
    """Multiply the chosen maps."""
    return op.ReduceProd(op.Compress(maps, chosen, axis=0), axes=[0], keepdims=0)


@script()
def pca(maps: FLOAT[...], chosen: BOOL[8]):
    """Project on the first principal component: a power of the covariance has its direction."""
    flat = op.Reshape(maps, [8, -1])
    points = op.Compress(flat, chosen, axis=0)
    points = points - op.Slice(points, [0], [1], [1])
    points = points - op.ReduceMean(points, axes=[1], keepdims=1)
    power = op.MatMul(points, op.Transpose(points, perm=[1, 0]))
    for _ in range(40):
        power = power / op.Max(op.ReduceMax(op.Abs(power), keepdims=1), 1e-30)
        power = op.MatMul(power, power)
    # Its columns are multiples of the direction; in the longest, the largest weight is positive.
    lengths = op.ReduceL2(power, axes=[0], keepdims=0)
    longest = op.ArgMax(lengths, axis=0, keepdims=1)
    length = op.Max(op.Gather(lengths, longest), 1e-30)
    direction = op.Gather(power, longest, axis=1) / length
    scores = op.MatMul(op.Transpose(direction, perm=[1, 0]), points)
    reference = op.Slice(flat, [7], [8], [0])
    agreement = op.ReduceSum(scores * (reference - op.ReduceMean(reference, axes=[1])))
    tiny = 1e-6 * op.ReduceL2(scores) * op.ReduceL2(reference)
    scores = scores * op.Where(op.Abs(agreement) > tiny, op.Sign(agreement), 1.0)
    return op.Reshape(scores, op.Shape(maps, start=1))


@script()
def smoothed(score: FLOAT[...], sigma: FLOAT[1]):
    """Smooth by a Gaussian, cut at 4 sigma; beyond the border the pixels at it go on."""
    reach = op.Cast(op.Floor(4.0 * sigma + 0.5), to=INT64.dtype)
    first, end = op.Squeeze(op.Neg(reach)), op.Squeeze(reach + 1)
    at = op.Cast(op.Range(first, end, 1), to=1) / op.Max(sigma, 1e-9)
    weights = op.Exp(-0.5 * at * at)
    weights = weights / op.ReduceSum(weights)
    around = op.Pad(score, op.Concat(reach, reach, reach, reach, axis=0), mode="edge")
    along_rows = op.Conv(op.Unsqueeze(around, [0, 1]), op.Reshape(weights, [1, 1, 1, -1]))
    return op.Squeeze(op.Conv(along_rows, op.Reshape(weights, [1, 1, -1, 1])), [0, 1])


@script()
def histogram(score: FLOAT[...]):
    """Count values in 256 bins between the extremes: counts and centres."""
    low, high = op.ReduceMin(score, keepdims=0), op.ReduceMax(score, keepdims=0)
    width = (high - low) / 256.0
    values = op.Reshape(score, [-1])
    bins = op.Cast((values - low) / op.Max(width, 1.2e-38), to=INT64.dtype)
    ones, empty = op.Expand(1.0, op.Shape(values)), op.Expand(0.0, [256])
    counts = op.ScatterElements(empty, op.Min(bins, 255), ones, axis=0, reduction="add")
    centres = low + width * (op.Range(0.0, 256.0, 1.0) + 0.5)
    return counts, centres


@script()
def otsu(score: FLOAT[...]):
    """Find Otsu's threshold."""
    counts, centres = histogram(score)
    below, above = op.CumSum(counts, 0), op.CumSum(counts, 0, reverse=1)
    of_below = op.Slice(op.CumSum(counts * centres, 0) / below, [0], [-1])
    of_above = op.Slice(op.CumSum(counts * centres, 0, reverse=1) / above, [1], [256])
    apart = of_below - of_above
    between = op.Slice(below, [0], [-1]) * op.Slice(above, [1], [256]) * apart * apart
    return op.Gather(centres, op.ArgMax(between, axis=0, keepdims=0))


@script()
def triangle(score: FLOAT[...]):
    """Find the triangle threshold."""
    counts, centres = histogram(score)
    bins = op.Range(0.0, 256.0, 1.0)
    filled = counts > 0.0
    low = op.ReduceMin(op.Where(filled, bins, 256.0), keepdims=0)
    high = op.ReduceMax(op.Where(filled, bins, 0.0), keepdims=0)
    peak = op.Cast(op.ArgMax(counts, axis=0, keepdims=0), to=1)
    flipped = peak - low < high - peak  # the long tail lies on the left
    counts = op.Where(flipped, op.Slice(counts, [-1], [-257], [0], [-1]), counts)
    low = op.Where(flipped, 255.0 - high, low)
    peak = op.Where(flipped, 255.0 - peak, peak)
    distance = op.ReduceMax(counts, keepdims=0) * (bins - low) - (peak - low) * counts
    distance = op.Where(op.Or(bins < low, bins >= peak), -1e30, distance)
    level = op.ArgMax(distance, axis=0, keepdims=0)
    return op.Gather(centres, op.Where(flipped, 255 - level, level))


@script()
def none(score: FLOAT[...]):
    """Mark nothing."""
    return op.Constant(value_float=np.inf)


@script()
def visible(image: FLOAT[...], bytes: BOOL[1]):
    """Show three channels or the first one, (H, W, C), from 0 to 255: bytes of colours as is."""
    colours = op.Equal(op.Shape(image, start=0, end=1), 3)
    image = op.Slice(image, [0], op.Where(colours, 3, 1), [0])
    low, high = op.ReduceMin(image), op.ReduceMax(image)
    stretched = op.Floor((image - low) * 255.0 / op.Where(high > low, high - low, 1.0))
    return op.Transpose(op.Where(op.And(colours, bytes), image, stretched), perm=[1, 2, 0])


@script()
def heat(maps: FLOAT[...], step: INT64[1]):
    """Paint every so many rows and columns of maps, each from its least to its greatest value."""
    few = op.Slice(maps, [0, 0], [2147483647, 2147483647], [1, 2], op.Concat(step, step, axis=0))
    low, high = op.ReduceMin(maps, axes=[1, 2]), op.ReduceMax(maps, axes=[1, 2])
    index = (few - low) * (255.0 / op.Where(high > low, high - low, 1.0))
    return op.Gather(op.Constant(value=TABLE), op.Cast(index, to=INT32.dtype))


@script()
def overlaid(
    picture: FLOAT[...], labels: INT32[...], above: UINT8[...],
    opacity: FLOAT[1], everywhere: BOOL[1],
):  # fmt: skip
    """Lay a colour or a picture over objects, or over everything, and outline the objects."""
    around = op.Pad(labels, [1, 1, 1, 1], mode="edge")
    rows = op.And(op.Slice(around, [0, 1], [-2, -1], [0, 1]) == labels,
                  op.Slice(around, [2, 1], [2147483647, -1], [0, 1]) == labels)  # fmt: skip
    columns = op.And(op.Slice(around, [1, 0], [-1, -2], [0, 1]) == labels,
                     op.Slice(around, [1, 2], [-1, 2147483647], [0, 1]) == labels)  # fmt: skip
    inside = labels > 0
    weight = op.Where(op.Or(inside, everywhere), opacity, 0.0)
    weight = op.Unsqueeze(op.Where(op.And(inside, op.Not(op.And(rows, columns))), 1.0, weight), [2])
    over = op.Slice(op.Cast(above, to=1), [0], [3], [2])
    mixed = op.Round(picture * (1.0 - weight) + over * weight)
    return op.Cast(op.Pad(mixed, [0, 0, 0, 0, 0, 1], 255.0), to=UINT8.dtype)


STEPS = {
    **{step.name: step for step in (
        fixed, minmax, standard, sum, mean, prod, pca, smoothed, otsu, triangle, none,
        visible, heat, overlaid,
    )},
    "range": fixed,
}  # fmt: skip
"""The graphs by name."""


def write(folder: Path) -> None:
    """Write the graphs, ``NAME.onnx``, into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, step in STEPS.items():
        onnx.save(step.to_model_proto(), folder / f"{name}.onnx")
