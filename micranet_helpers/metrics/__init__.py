"""Measure how good masks, labels and objects are, how sure that is, and what it cost.

- ``masks``: overlap of pixels; ``labels``: yes or no of images.
- ``objects``: numbered objects; ``boxes``: points in annotated boxes.
- ``intervals``: bootstrap over images; ``cost``: seconds and memory (needs the
  extra ``baselines``).
"""

from micranet_helpers.metrics.boxes import Curve, ignored, match_boxes, precision_recall
from micranet_helpers.metrics.intervals import f1_interval, gain_interval
from micranet_helpers.metrics.labels import best_threshold, exact_match, label_accuracy, roc_areas
from micranet_helpers.metrics.masks import dice, pooled_f1
from micranet_helpers.metrics.objects import Matching, holders, match_objects, seg_score, total

__all__ = [
    "Curve", "Matching", "best_threshold", "dice", "exact_match", "f1_interval", "gain_interval",
    "holders", "ignored", "label_accuracy", "match_boxes", "match_objects", "pooled_f1",
    "precision_recall", "roc_areas", "seg_score", "total",
]  # fmt: skip
