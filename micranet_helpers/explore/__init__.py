"""The explorer: from a stored network and an image to counted objects, choice by choice.

- ``Session``: what was chosen, and all that follows from it; no widget, no picture.
- ``predict``: its step that shows the maps of a crop, which a pasted recipe calls, too.
- ``save_mask``, ``save_objects``, ``save_rois``, ``save_recipe``: what was found, as files.
- ``show``: a figure of it, for pages without a kernel.

The widgets need the extra ``book`` and are imported by their own name:
``from micranet_helpers.explore.widgets import explore``.
"""

from micranet_helpers.explore.picture import show
from micranet_helpers.explore.saving import (
    recipe,
    save_mask,
    save_objects,
    save_recipe,
    save_rois,
)
from micranet_helpers.explore.session import Choice, Session, predict

__all__ = [
    "Choice", "Session", "predict", "recipe", "save_mask", "save_objects", "save_recipe",
    "save_rois", "show",
]  # fmt: skip
