"""Export trained networks for other programs; all functions need the extra ``export``.

- ``to_safetensors``: the weights, in a format that cannot hold code.
- ``to_onnx``: the computation, which onnxruntime and many programs run without torch.
- ``to_bioimageio``: the same as a bioimage.io model package with its description.

Graphs of MICRANet, UNet and FalkUNet can be written. That of a Mask R-CNN cannot: its boxes
depend on the data. Its weights can.
"""

from micranet_helpers.zoo.export.bioimageio import to_bioimageio
from micranet_helpers.zoo.export.onnx import to_onnx
from micranet_helpers.zoo.export.safetensors import to_safetensors

__all__ = ["to_bioimageio", "to_onnx", "to_safetensors"]
