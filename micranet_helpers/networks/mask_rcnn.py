"""Mask R-CNN, the network: torchvision's, for images of any number of channels.

He et al. 2017, doi 10.1109/ICCV.2017.322. torchvision is optional: install the extra
``baselines``. Training and prediction are in :mod:`micranet_helpers.lessons.baselines.mask_rcnn`.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# Boxes of a crop that are looked at in training. Ours: of torchvision's 2000 only 512 are used,
# and a step took twice as long.
PROPOSALS = 200


def build(in_channels: int, num_classes: int, crop: int) -> nn.Module:
    """Make a Mask R-CNN of a ResNet-50 and a feature pyramid: random weights, training mode.

    Parameters are named as in torchvision, and so in the published checkpoints. The background is
    one more of ``num_classes`` kinds of objects inside: torchvision's class 0. ``crop`` is the side
    of the crops it is trained on and of the tiles it sees, px, at least 32; best a multiple of 32.
    Nothing is rescaled, where torchvision's default would enlarge to 800 px. Images are taken as
    they are, as those of this package are normalised already (ours;
    :func:`micranet_helpers.zoo.hdf5_zoo.load` sets ``model.transform.image_mean`` and ``image_std``
    to those of the file). Batch norm learns, as torchvision has it for random weights; in 2021 it
    did not. On a GPU, leave ``torch.use_deterministic_algorithms`` off: torchvision would use a
    slow ``roi_align`` that takes tens of GB. Raises ImportError if torchvision, or its compiled
    part, is missing; ValueError if there is no channel or no class, or the crop is smaller than 32
    px.
    """
    library = torchvision()
    if min(in_channels, num_classes) < 1 or crop < 32:
        raise ValueError(
            "Mask R-CNN needs at least one channel, one class and crops of 32 px, not "
            f"in_channels={in_channels}, num_classes={num_classes}, crop={crop}."
        )
    model = library.models.detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=num_classes + 1,
        min_size=crop,
        max_size=crop,
        image_mean=[0.0] * in_channels,
        image_std=[1.0] * in_channels,
        rpn_post_nms_top_n_train=PROPOSALS,
    )
    model.backbone.body.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    model.in_channels = in_channels
    for head in (model.rpn.head, model.roi_heads.box_predictor):
        head.register_forward_hook(_in_float32)
    return model


def torchvision() -> ModuleType:
    """Import torchvision with its compiled part; without, ``roi_align`` takes more than 22 GB."""
    try:
        import torchvision

        if not all(hasattr(torch.ops.torchvision, name) for name in ("nms", "roi_align")):
            raise ImportError("its compiled operators did not load")
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"Mask R-CNN needs torchvision and torch of one build ({error}): install both "
            "together, pip install --force-reinstall torch 'micranet-helpers[baselines]'."
        ) from error
    return torchvision


def _in_float32(module: nn.Module, inputs: Any, outputs: Sequence) -> tuple:
    """Keep boxes exact under autocast: near 200 px, bfloat16 knows whole pixels only."""
    return tuple(
        each.float() if isinstance(each, Tensor) else [level.float() for level in each]
        for each in outputs
    )
