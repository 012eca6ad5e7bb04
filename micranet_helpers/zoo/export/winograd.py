"""Convolve by Winograd's method in an ONNX graph: 4 multiplications for 9.

Runtimes whose convolutions are matrix products, as in WebAssembly, need a third of the time less
for a whole network; others have better ones of their own.

References
----------
Lavin & Gray 2016, doi 10.1109/CVPR.2016.435: F(2×2, 3×3).
"""

from typing import Any

import numpy as np

# The transforms for the rows of a tile (4 pixels), of a kernel (3) and of results (2); their
# Kronecker squares are for all of it. Pixels come in the order in which SpaceToDepth leaves them.
_PIXELS = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_KERNEL = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
_RESULT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
_ORDER = np.arange(16).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).ravel()
TRANSFORMS = {
    "of_pixels": np.float32(np.kron(_PIXELS, _PIXELS)[:, _ORDER]),
    "of_kernel": np.float32(np.kron(_KERNEL, _KERNEL).T),
    "of_result": np.float32(np.kron(_RESULT, _RESULT)),
}


def convolve(op: Any, transforms: list[Any], x: Any, weight: Any, *bias: Any) -> Any:
    """Convolve x (B, I, H, W) with a weight (O, I, 3, 3), with a border of zeros: (B, O, H, W).

    ``transforms`` are `TRANSFORMS`, in the graph.
    """
    of_pixels, of_kernel, of_result = transforms
    sides, (outputs, inputs) = op.Shape(x, start=2), weight.shape[:2]
    even = op.Add(op.Mod(sides, [2, 2]), [1, 1])
    halved = op.SpaceToDepth(op.Pad(x, op.Concat([0, 0, 1, 1, 0, 0], even, axis=0)), blocksize=2)
    # Each tile overlaps the next by half: four shifts of halved pixels make all its 16.
    ends = -1, 2**31 - 1
    tiles = [op.Slice(halved, [down, right], [ends[down], ends[right]], [2, 3])
             for down in (0, 1) for right in (0, 1)]  # fmt: skip
    pixels = op.MatMul(of_pixels, op.Reshape(op.Concat(*tiles, axis=1), [0, 16, -1]))
    kernel = op.Transpose(op.MatMul(op.Reshape(weight, [0, 0, 9]), of_kernel), perm=[2, 0, 1])
    product = op.MatMul(kernel, op.Reshape(pixels, [0, 16, inputs, -1]))
    results = op.MatMul(of_result, op.Reshape(product, [0, 16, -1]))
    shape = op.Concat([0, 4 * outputs], op.Shape(tiles[0], start=2), axis=0)
    whole = op.DepthToSpace(op.Reshape(results, shape), blocksize=2)
    found = op.Slice(whole, [0, 0], sides, [2, 3])
    return op.Add(found, op.Reshape(bias[0], [-1, 1, 1])) if bias else found
