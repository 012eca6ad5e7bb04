"""Draw: every figure of the book, in one look.

- ``images``: images, masks, maps, detections; ``charts``: scores and histories.
- ``colours``: classes and methods by name; ``sliders``: pictures to move through without Python;
  ``png``: pictures of widgets.
"""

from micranet_helpers.plots.charts import (
    plot_bland_altman,
    plot_budgets,
    plot_counts,
    plot_history,
    plot_matrix,
    plot_methods,
    plot_precision_recall,
)
from micranet_helpers.plots.colours import (
    CLASS_COLOURS,
    SCORES,
    SIGNED,
    WIDTH,
    class_colours,
    method_colour,
    run_colours,
    style,
)
from micranet_helpers.plots.images import (
    busiest,
    cut_out,
    label_titles,
    mark,
    show_detections,
    show_images,
    show_maps,
    show_outlines,
    show_places,
    show_samples,
    show_score,
    show_wrong_detections,
)
from micranet_helpers.plots.sliders import slide

__all__ = [
    "CLASS_COLOURS", "SCORES", "SIGNED", "WIDTH", "busiest", "class_colours", "cut_out",
    "label_titles", "mark", "method_colour", "plot_bland_altman", "plot_budgets", "plot_counts",
    "plot_history", "plot_matrix", "plot_methods", "plot_precision_recall", "run_colours",
    "show_detections", "show_images", "show_maps", "show_outlines", "show_places", "show_samples",
    "show_score", "show_wrong_detections", "slide", "style",
]  # fmt: skip
