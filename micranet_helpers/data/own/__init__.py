"""The reader's own images: what is in a folder, and a dataset made of it.

- ``read_table``, ``read_crops``, ``read_boxes``, ``read_masks``, ``read_coco``, ``read_labelme``,
  ``read_geojson``, ``read_rois``: read labels of all usual kinds.
- ``survey``, ``report``: look at images and labels, and say what was found.
- ``build``, ``check_split``: make a dataset, and check it.
- ``read_answers``: read yes and no about images and boxes.
- ``NUCLEI``: a small folder of real images.
"""

from micranet_helpers.data.own.annotations import Annotations
from micranet_helpers.data.own.answers import read_answers
from micranet_helpers.data.own.building import build, check_split
from micranet_helpers.data.own.coco import read_coco
from micranet_helpers.data.own.crops_table import read_crops
from micranet_helpers.data.own.masks import read_masks
from micranet_helpers.data.own.outlines import read_geojson, read_labelme
from micranet_helpers.data.own.rois import read_rois
from micranet_helpers.data.own.sample import NUCLEI
from micranet_helpers.data.own.survey import Facts, Survey, report, survey
from micranet_helpers.data.own.tables import read_boxes, read_table

__all__ = [
    "NUCLEI", "Annotations", "Facts", "Survey", "build", "check_split", "read_answers",
    "read_boxes", "read_coco", "read_crops", "read_geojson", "read_labelme", "read_masks",
    "read_rois", "read_table", "report", "survey",
]  # fmt: skip
