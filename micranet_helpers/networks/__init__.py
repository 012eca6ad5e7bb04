"""The networks.

- ``micranet``: the classifier; its maps become masks.
- ``unet``, ``mask_rcnn``: the baselines, and the student of self-training.
- ``precision``: the device and the arithmetic; ``wrapped``: what others put around a network.
"""

from micranet_helpers.networks.micranet import LAYERS, STRIDES, WIDTHS, MICRANet
from micranet_helpers.networks.unet import FalkUNet, UNet

Network = MICRANet | UNet | FalkUNet
"""What :func:`micranet_helpers.train.run.fit` trains. A file of weights may also hold a Mask R-CNN,
a class of torchvision, which is optional and so not named in the code."""

NETWORKS = {network.__name__: network for network in (MICRANet, UNet, FalkUNet)}
"""The same by name."""

__all__ = ["LAYERS", "NETWORKS", "STRIDES", "WIDTHS", "FalkUNet", "MICRANet", "Network", "UNet"]
