"""Train the network of the digits chapters once: all draw equal canvases and name one folder."""

from torch.utils.data import TensorDataset

from micranet_helpers.data import digits
from micranet_helpers.lessons.training import run_folder
from micranet_helpers.networks import MICRANet
from micranet_helpers.train import fit

SIDE = 40
"""Side of a canvas, px."""

MOST_DIGITS = 2
"""Most digits on a canvas; the fewest is 1."""


def digits_network(num_train: int, epochs: int, seed: int = 0) -> MICRANet:
    """Train the classifier of the quick start, or load it if a chapter has trained it.

    The chapters *Quick start* and *Training* write these steps out; with equal settings all share
    one run. It sees ``num_train`` canvases, and a tenth as many for validation; ``seed`` is that of
    the split of the digits, of the canvases and of the network. The network is in evaluation mode,
    on the CPU, and has seen no digit of the test split of this seed.
    """
    train_digits, val_digits, _ = digits.split(digits.load(), seed)
    layout = {"side": SIDE, "num_digits": (1, MOST_DIGITS)}
    train = digits.make_canvases(train_digits, num_train, **layout, seed=seed)
    val = digits.make_canvases(val_digits, num_train // 10, **layout, seed=seed + 1)
    return fit(
        TensorDataset(train.images, train.labels),
        TensorDataset(val.images, val.labels),
        run_folder("digits", SIDE, MOST_DIGITS, num_train, seed),
        epochs,
        batch_size=16,
        learning_rate=2e-3,
        seed=seed,
    )
