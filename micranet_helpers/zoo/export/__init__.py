"""Trained networks for other programs; they need the extra ``export``.

- ``to_safetensors``, ``from_safetensors``: the weights, in a format that cannot hold code.
- ``to_onnx``: the computation, which onnxruntime and many programs run without torch.
- ``to_bioimageio``: the same with all that a bioimage.io model package tells.

Graphs of MICRANet, UNet and FalkUNet can be written. That of a Mask R-CNN cannot: its boxes
depend on the data, so it is torchvision's to export; its weights can.
"""

from micranet_helpers.zoo.export.bioimageio import to_bioimageio
from micranet_helpers.zoo.export.onnx import to_onnx
from micranet_helpers.zoo.export.safetensors import from_safetensors, to_safetensors

__all__ = ["from_safetensors", "to_bioimageio", "to_onnx", "to_safetensors"]
