"""From a trained classifier to masks and objects.

- ``cam``: maps of eight layers, and evidence; ``combination``: maps into one, by PCA.
- ``thresholds``: a score into a mask; ``detect``: a score or a mask into points and objects;
  ``outlines``: objects into lines and ROIs.
- ``segmentation``: the whole way, for images of any size (``tiles``); ``recipes``: the way of each
  dataset.
- ``selftraining``: masks for a second network, made of labels and evidence.
"""

from micranet_helpers.maps.cam import Cams, evidence, grad_cam
from micranet_helpers.maps.combination import combine, gaussian, pca
from micranet_helpers.maps.segmentation import Recipe, crop_by_crop, from_maps, predicted, segment
from micranet_helpers.maps.thresholds import otsu, percentile, triangle
from micranet_helpers.networks.micranet import LAYERS, STRIDES

__all__ = [
    "LAYERS", "STRIDES", "Cams", "Recipe", "combine", "crop_by_crop", "evidence", "from_maps",
    "gaussian", "grad_cam", "otsu", "pca", "percentile", "predicted", "segment", "triangle",
]  # fmt: skip
