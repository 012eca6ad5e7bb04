"""Say on which machine, and with which versions, a chapter runs."""

from importlib.metadata import version

import torch

from micranet_helpers.networks.precision import best_device, choose_precision


def describe_machine() -> str:
    """Print versions, device and precision of training in one line; return the device's name."""
    device = best_device()
    print(
        f"torch {torch.__version__}, micranet-helpers {version('micranet-helpers')}, {device}, "
        f"{choose_precision()}"
    )
    return device
