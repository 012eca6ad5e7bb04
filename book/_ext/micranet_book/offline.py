"""Sphinx extension: what pages need lies beside them, so that they can be read without a network.

The scripts of widgets are taken from npm packages, pinned by version and checksum, while the pages
are made. Without npm, or without a network for it, the pages load them from the web; the build
says so in one line. Math is served locally by the Python package ``sphinx-mathjax-offline``. The
badge on top of the chapters, which GitHub shows from Colab's address, is a picture of our own.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Sphinx belongs to the extra `book`
    from sphinx.application import Sphinx
    from sphinx.config import Config

BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
"""Address in the chapters; the pages show ``book/images/open-in-colab.svg`` in its place."""

SECONDS = 60
"""Time that npm may take for one package."""

# html-manager looks for its fonts relative to the page, in one of two folders. Licences go with
# what they are about: package.json names the one of html-manager (BSD 3-clause), require.js has its
# own in its head.
_MANAGER = "extra/@jupyter-widgets/html-manager"
_PACKAGES = {
    "requirejs@2.3.8": (
        "7/cTSLOdYkNBNJcDMWf+luFvMriVm7eYxp4BcFCsAX0wF421Vyce5SXP17c+Jd5otXKGNehIonFlyQXSowL6Mw==",
        {"package/require.js": ["static"]},
    ),
    "@jupyter-widgets/html-manager@1.0.15": (
        "5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA==",
        {
            "package/dist/embed-amd.js": ["static"],
            "package/dist/*.woff2": [f"{_MANAGER}/dist", "extra/@jupyter-widgets"],
            "package/dist/*.LICENSE.txt": [f"{_MANAGER}/dist"],
            "package/package.json": [_MANAGER],
        },
    ),
}


def fetch_scripts(folder: Path) -> None:
    """Put ``require.js``, ``embed-amd.js`` and what they load into a folder.

    Parameters
    ----------
    folder : Path
        Gets ``static/`` with the scripts, and ``extra/`` with what must lie beside the pages.

    Raises
    ------
    OSError
        If npm is missing or cannot get a package.
    ValueError
        If a package is not the one that is pinned here.
    """
    for package, (sha512, wanted) in _PACKAGES.items():
        with TemporaryDirectory() as place:
            archive = _pack(package, Path(place))
            if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()) != sha512.encode():
                raise ValueError(
                    f"The npm package {package} is not the one that the book was tested with: "
                    "run `npm cache clean --force`, and ask your administrator who changed it."
                )
            _unpack(archive, wanted, folder)


def _pack(package: str, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    command = [npm, "pack", package, "--prefer-offline", "--ignore-scripts", "--fetch-retries=1"]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=SECONDS)
        [archive] = folder.glob("*.tgz")
    except (subprocess.SubprocessError, ValueError):
        raise OSError(f"npm could not get {package}") from None
    return archive


def _unpack(archive: Path, wanted: dict[str, list[str]], folder: Path) -> None:
    with tarfile.open(archive) as members:
        for member in filter(tarfile.TarInfo.isreg, members):
            for pattern, places in wanted.items():
                for place in places if fnmatch(member.name, pattern) else ():
                    (folder / place).mkdir(parents=True, exist_ok=True)
                    target = folder / place / PurePosixPath(member.name).name
                    target.write_bytes(members.extractfile(member).read())


def _serve(app: "Sphinx", config: "Config") -> None:
    from sphinx.errors import ExtensionError
    from sphinx.util import logging

    folder = Path(app.doctreedir) / "offline"
    try:
        fetch_scripts(folder)
    except OSError as error:
        text = "Widgets need a network: the pages load their scripts from the web, as %s."
        logging.getLogger(__name__).info(text, error, color="yellow")
        return
    except ValueError as error:
        raise ExtensionError(str(error)) from error
    config.html_static_path.append(str(folder / "static"))
    config.html_extra_path.append(str(folder / "extra"))
    # require.js must be the first: without it embed-amd.js ends with "define is not defined".
    config.nb_ipywidgets_js = {"require.js": {}, "embed-amd.js": {}}


def _replace_badge(app: "Sphinx", name: str, source: list[str]) -> None:
    source[0] = source[0].replace(BADGE, "/images/open-in-colab.svg")


def setup(app: "Sphinx") -> dict[str, Any]:
    """Register with Sphinx; ``extra_extensions`` of ``book/_config.yml`` names this module.

    Parameters
    ----------
    app : Sphinx
        The application.

    Returns
    -------
    dict
        Sphinx may read and write pages in parallel.
    """
    app.connect("config-inited", _serve, priority=400)  # before Sphinx looks at the folders
    app.connect("source-read", _replace_badge)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
