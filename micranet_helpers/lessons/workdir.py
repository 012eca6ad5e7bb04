"""Work in the folder ``MICRANET_WORKDIR``, whose files outlive the session.

When a session on Colab ends, all files are lost except those on a mounted Drive. If the variable is
set, the set-up cell of each chapter works in that folder: trained networks (``runs/``), datasets,
results and, unless ``MICRANET_DATA`` names another folder, downloads are kept there, and a chapter
that is run again continues after the last complete epoch.
"""

import os
import tempfile
from pathlib import Path


def enter() -> Path:
    """Change to ``MICRANET_WORKDIR`` and return it, absolute; a second call changes nothing.

    A new folder is made, but not its parent: if the Drive is not mounted, that would be on the
    session's own disk, and lost with it. Raises OSError if nothing can be written there.
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
