"""Record what stood behind a file of results: machine, versions, commit, date."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "micranet_helpers", "scikit-image")  # their versions are stored


def provenance() -> dict[str, Any]:
    """Record the machine, the versions, the date and the commit behind what is computed here.

    The commit is that of this package's checkout, with "+changes" if files differ from it; None
    without one.
    """
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = next(iter(named), model)
    return f"{model}, {os.cpu_count()} cores"


def _commit() -> str | None:
    root = Path(__file__).parents[2]
    # An installed package may lie in a checkout of something else.
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*",
               "--dirty=+changes"]  # fmt: skip
    quiet = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=quiet)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
