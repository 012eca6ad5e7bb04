"""Train a network on labels of images or pixels.

- ``run``: a run in a folder: begin it, go on, load what it has learnt.
- ``trainer``: epochs that survive a kill; ``learner``: loss, optimiser and schedule;
  ``checkpoints``: what a run has left.
"""

from micranet_helpers.train.run import (
    check_data,
    check_numbers,
    fit,
    history,
    load,
    logits_of,
    restore,
)

__all__ = [
    "check_data", "check_numbers", "fit", "history", "load", "logits_of", "restore",
]  # fmt: skip
