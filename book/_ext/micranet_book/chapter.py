"""Execute one chapter, in a process of its own that ends with the one that started it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from micranet_book import faults, record
from micranet_helpers.files.spread import KEEP

# papermill is imported where it is used: a reader without it gets the runner's sentence.


@dataclass(frozen=True)
class Job:
    """A chapter, where it goes, and how it is to be executed."""

    source: str
    output: str
    tree: str
    digest: str
    values: dict[str, Any]
    minutes: float  # for a cell
    threads: int


def start(job: Job) -> subprocess.Popen:
    """Start a process that executes a chapter; it stops when its ``stdin`` is closed."""
    code = "from micranet_book.chapter import main; main()"
    command = [sys.executable, "-c", code, json.dumps(asdict(job))]
    # In a session of its own: the terminal's Ctrl-C reaches the runner only, which stops all once.
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def main() -> None:
    """Execute the chapter that the command line describes, and record how it ended."""
    end_with_parent()
    with contextlib.suppress(KeyboardInterrupt):
        _run(Job(**json.loads(sys.argv[1])))


def end_with_parent() -> None:
    """Stop this process as Ctrl-C does as soon as the parent closes ``stdin``, or is gone."""
    # Where a script runs in the background, Ctrl-C is ignored, and its processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


def _run(job: Job) -> None:
    tree, output, name = Path(job.tree), Path(job.output), Path(job.source).stem
    begin = time.perf_counter()
    os.environ.update(kernel_environment(job.threads))  # papermill hands them on
    fault = faults.find(output, *_execute(job, record.work_folder(tree, name)))
    if fault is None:
        took = round(time.perf_counter() - begin, 1)
        record.end(tree, name, job.digest, output, took)
    else:
        faults.show(output, *fault)
        record.fail(tree, name, job.digest, *fault)


def _execute(job: Job, folder: Path) -> tuple[str, str]:
    """Execute a notebook; return how it failed, and what was said about that, or two empty texts.

    The limit is on each cell: a chapter that makes progress may take as long as it needs.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError

    bar = {"desc": Path(job.source).stem, "leave": False}
    try:
        papermill.execute_notebook(
            literal(job.source), literal(job.output), job.values, kernel_name="python3", cwd=folder,
            progress_bar=bar if sys.stderr.isatty() else False, start_timeout=120,
            iopub_timeout=60, execution_timeout=max(round(60 * job.minutes), 1),
            store_widget_state=False,  # megabytes of pictures that no page shows
            # No notes that sockets are not encrypted, and that it was interrupted to end it.
            extra_arguments=["--log-level=CRITICAL"],
        )  # fmt: skip
    except CellTimeoutError:
        return f"made no progress for {job.minutes:g} minutes and was stopped", ""
    except Exception as error:  # whatever ends a chapter, the others go on
        return "failed", str(error)
    return "", ""


def literal(path: str | Path) -> str:
    """Write a path so that papermill takes no braces in it for parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def kernel_environment(threads: int | None = None) -> dict[str, str]:
    """Return ``os.environ`` with what suits a kernel; what the user has set is kept.

    - A progress bar is of no use in a saved page.
    - By default glibc gives the memory of each large tensor back to the system as soon as it is
      freed; the next tensor is then mapped and zeroed again, page by page, which made up half of
      the CPU time of a forward pass. Systems without glibc do not read these variables.
    - While torch's threads wait for each other they keep their cores busy by default. Beside
      another busy process that makes training several times slower (see the measurements).
    - Chapters that are executed side by side share the cores: ``threads`` for each.
    """
    quiet = {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    share = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    return {"OMP_WAIT_POLICY": "PASSIVE", **quiet, **KEEP, **share, **os.environ}
