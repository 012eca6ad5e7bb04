"""Baselines: what MICRA-Net is compared with; they learn from masks, boxes or scribbles.

- ``mask_rcnn``: finds objects one by one, trained on numbered objects.
- ``pixels``: a random forest on filters, trained on scribbles, and who draws them.
- ``supervision``: masks made as coarse as those of a hurried annotator, to train on.

The U-Nets are in :mod:`micranet_helpers.networks.unet`.
"""
