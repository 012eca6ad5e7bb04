"""Train a network on labels of images or pixels.

- ``run``: a run in a folder: begin it, go on, load what it has learnt.
- ``learner``: loss, optimiser and schedule; ``checkpoints``: files that survive a kill.
"""

from micranet_helpers.train.run import (
    advance,
    check_data,
    check_numbers,
    fit,
    history,
    load,
    logits_of,
    restore,
)

__all__ = [
    "advance", "check_data", "check_numbers", "fit", "history", "load", "logits_of", "restore",
]  # fmt: skip
