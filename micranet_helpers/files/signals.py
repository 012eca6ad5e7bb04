"""End at once and cleanly when the system or the reader asks for it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a program that ended by SIGTERM, as shells count: 143."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit with the status 143, and let Ctrl-C be KeyboardInterrupt.

    What is open is closed on the way. A handler of the caller's own is kept. pytorch-lightning
    would note a SIGTERM, end with status 0, and turn Ctrl-C into SystemExit.
    """
    ours = (threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)  # fmt: skip
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: Any) -> None:
    raise SystemExit(TERMINATED)
