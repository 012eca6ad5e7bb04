"""The folder ``MICRANET_WORKDIR``: what a chapter writes there outlives the session.

A session on Colab ends with all its files, except those on a mounted Drive. The set-up cell of each
chapter makes the folder the working folder, if the variable is set. Trained networks (``runs/``),
datasets, results and, unless ``MICRANET_DATA`` says otherwise, downloads then lie there, and a
chapter that is run again goes on after the last whole epoch.
"""

import os
import tempfile
from pathlib import Path


def enter() -> Path:
    """Make ``MICRANET_WORKDIR`` the working folder; calling it again changes nothing.

    A new folder is made, but not the folder above it: on Colab it would lie on the session's own
    disk, and be lost with it, where the Drive was not mounted.

    Returns
    -------
    Path
        The folder, absolute. The variable names it from now on.

    Raises
    ------
    OSError
        If there is no such place, or nothing can be written there.
    """
    folder = Path(os.environ["MICRANET_WORKDIR"]).expanduser().absolute()
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            os.chdir(folder)
    except OSError as error:
        raise OSError(
            error.errno,
            f"MICRANET_WORKDIR names {folder}, where nothing can be written ({error.strerror}): "
            "mount the Drive first, make the folder above it, or name another one",
        ) from error
    os.environ["MICRANET_WORKDIR"] = str(folder)
    return folder
