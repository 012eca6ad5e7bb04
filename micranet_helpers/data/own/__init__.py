"""The reader's own images: what is in a folder, and a dataset made of it.

- ``images``: survey a folder, report what was found, build a dataset.
- ``annotations``: read tables, masks, boxes, polygons and ROIs; ``crops_table``: labels of crops.
- ``answers``: read yes and no about images and boxes.
"""

from micranet_helpers.data.own.images import Facts, Survey, build, check_split, report, survey

__all__ = ["Facts", "Survey", "build", "check_split", "report", "survey"]
