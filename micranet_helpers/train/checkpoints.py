"""Read the checkpoints of a run without running code, and tell whose they are."""

from pathlib import Path
from typing import Any

import torch

from micranet_helpers.files.archives import check_stored

DATA = ("training", "validation")  # whose fingerprints a run holds


def read_checkpoint(path: Path, peek: bool = False) -> dict[str, Any]:
    """Read a ``.ckpt`` file onto the CPU, without running any code that it may hold.

    To ``peek`` leaves the weights on the disk until they are used. A FileNotFoundError or
    ValueError says if it is missing, damaged or something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}: train first.")
    try:
        check_stored(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=peek)
        # What every checkpoint of this package has.
        return {**checkpoint, "hyper_parameters": dict(checkpoint["hyper_parameters"])}
    except Exception as error:  # torch raises many kinds for damaged files
        raise ValueError(
            f"{path} is damaged or no checkpoint of this package: delete it and train again."
        ) from error


def epochs_done(folder: Path, settings: dict[str, Any]) -> int:
    """Count the whole epochs of the run in a folder; refuse that of other settings or data.

    Where one of its two checkpoints is missing, the run begins anew: 0.
    """
    paths = [folder / f"{which}.ckpt" for which in ("best", "last")]
    found = [read_checkpoint(path, peek=True) for path in paths if path.exists()]
    for checkpoint in found:
        if other := differences(checkpoint["hyper_parameters"], settings):
            raise ValueError(
                f"{folder} holds another run ({'; '.join(other)}): choose another folder or delete "
                "it."
            )
    return found[-1]["epoch"] + 1 if len(found) == len(paths) else 0


def differences(stored: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Say in which settings, and in which data, a stored run differs."""
    before, now = ({**each, **(each.get("run") or {})} for each in (stored, settings))
    names = [name for name in now if name != "run" and before.get(name) != now[name]]
    return [
        f"other {name} data" if name in DATA else f"{name} = {before.get(name)}" for name in names
        if name not in DATA or name in before  # older runs know nothing of their data
    ]  # fmt: skip


def check_sibling(path: Path, best: dict[str, Any]) -> None:
    """Refuse a checkpoint of the best epoch that is not that of the ``last.ckpt`` beside it."""
    if path.stem != "best" or not (other := path.with_name("last.ckpt")).is_file():
        return
    last = read_checkpoint(other, peek=True)
    ahead = best["epoch"] - last["epoch"]  # 1: stopped between the two
    states = (best if ahead == 1 else last).get("callbacks", {}).values()
    scores = [float(state["best_model_score"]) for state in states if state.get("monitor")]
    other_run = differences(last["hyper_parameters"], best["hyper_parameters"])
    if other_run or ahead > 1 or best.get("score") not in (None, *scores):  # None: an older run
        raise ValueError(
            f"{path} does not belong to the {other.name} beside it: put the right one back, or "
            "delete it and train again."
        )
