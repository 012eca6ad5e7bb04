"""Fetch files of npm packages, pinned by hash, into the folder of downloads."""

import os
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

import pooch

from micranet_helpers.data.fetch.download import folder


class Package(NamedTuple):
    """One version of a package: SHA-256 of its archive, and files by the names that we give."""

    name: str
    version: str
    sha256: str
    files: dict[str, str]


RUNTIME = (
    Package(
        "onnxruntime-web", "1.30.0",
        "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
        {"ort.wasm.bundle.min.mjs": "dist/ort.wasm.bundle.min.mjs",
         "ort-wasm-simd-threaded.wasm": "dist/ort-wasm-simd-threaded.wasm"},
    ),
    Package(
        "geotiff", "3.0.5",
        "9b3628c4fd2357cddef76a511fc4df3c054ad3a2a9393a0d79797a052f888355",
        {"geotiff.js": "dist-browser/geotiff.js", "geotiff-LICENSE.txt": "LICENSE"},
    ),
)  # fmt: skip
"""What the page `try` runs: networks (MIT) and the decoding of TIFF (MIT)."""


def registry() -> str:
    """Find the address of the npm registry: the environment's, the user's or the public one."""
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if os.environ.get(name):
            return os.environ[name].rstrip("/")
    settings = Path.home() / ".npmrc"
    text = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    found = re.search(r"^registry\s*=\s*(\S+)", text, re.MULTILINE)
    return (found[1] if found else "https://registry.npmjs.org").rstrip("/")


def fetch(package: Package, target: Path) -> None:
    """Put the files of a package into a folder, from the downloads or the registry.

    Raises OSError if the registry cannot be reached, ValueError if the archive is another one.
    """
    archive = f"{package.name}-{package.version}.tgz"
    path = pooch.retrieve(
        f"{registry()}/{package.name}/-/{archive}", package.sha256, archive, folder() / "npm"
    )
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path) as packed:
        for name, member in package.files.items():
            (target / name).write_bytes(packed.extractfile(f"package/{member}").read())
