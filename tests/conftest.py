"""Small seeded networks and images, and the mirror of real data, that test modules share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is imported: its threads are not to keep the cores busy while they wait.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
from servers import serve_folder
from torch import Tensor, nn

from micranet_helpers.networks.micranet import MICRANet

# Where a script runs the tests in its background, Ctrl-C is ignored, and processes of tests inherit
# that: those that are interrupted on purpose would never end.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Chapters that tests run work where the tests look, not in a folder of the one who runs them.
os.environ.pop("MICRANET_WORKDIR", None)

# The same examples in every run: a change is judged by its own effect.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def random_model(
    in_channels: int = 1, num_classes: int = 3, seed: int = 0, **options: Any
) -> MICRANet:
    """Network in eval mode whose every number, batch-norm statistics included, is drawn."""
    draw = torch.Generator().manual_seed(seed)
    model = MICRANet(in_channels, num_classes, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            spread = (2 / module.weight[0].numel()) ** 0.5
            nn.init.normal_(module.weight, 0, spread, generator=draw)
            nn.init.normal_(module.bias, 0, 0.1, generator=draw)
        elif isinstance(module, nn.BatchNorm2d):
            for centred in (module.bias, module.running_mean):
                nn.init.normal_(centred, 0, 0.2, generator=draw)
            for positive in (module.weight, module.running_var):
                nn.init.uniform_(positive, 0.5, 1.5, generator=draw)
    return model


POOLS = [{"pool": "channel"}, {"pool": "top", "share": 0.3}, {"pool": "lse", "sharpness": 2.0}]
every_pool = pytest.mark.parametrize("pool", POOLS, ids=["channel", "top", "lse"])


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def model() -> MICRANet:
    """One grey channel, three classes."""
    return random_model()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums are rounded alike in this process and in others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture(scope="session")
def mirror() -> Path:
    """Folder with copies of public files under ``<host>/<path>``, beside the project."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "mirror"
    if not folder.is_dir():
        reason = f"real data are missing: {folder} does not exist"
        # GitHub's machines have none: the licences do not let everybody pass the files on.
        strict = os.environ.get("MICRANET_STRICT") and not os.environ.get("GITHUB_ACTIONS")
        pytest.fail(reason) if strict else pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def mirror_url(mirror: Path) -> Iterator[str]:
    """Address of a loopback server of the mirror, for ``MICRANET_MIRROR``."""
    with serve_folder(mirror) as url:
        yield url
