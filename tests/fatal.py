"""What workers do that die of it, in a module that is imported at once."""

import os
import signal
from pathlib import Path


def fail_once(folder: Path, number: int) -> int:
    """Square a number; the first time that it is odd, the whole process ends."""
    try:
        (folder / str(number)).touch(exist_ok=False)
    except FileExistsError:
        return number**2
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def always_fatal(number: int) -> None:
    """End the whole process."""
    os.kill(os.getpid(), signal.SIGKILL)
