"""Draw tiny files in the published formats, so that all that reads real data runs everywhere."""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image


def offer(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, found: Mapping[str, list[Path]]
) -> list[tuple[str, str | None]]:
    """Let a module fetch these files of each item; returns what it will have asked for."""
    asked = []

    def fetch(name: str, subset: str | None = None) -> list[Path]:
        asked.append((name, subset))
        return found[name]

    monkeypatch.setattr(module, "fetch", fetch)
    return asked


def picture(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tiff = path.suffix.startswith(".tif")
    tifffile.imwrite(path, pixels) if tiff else Image.fromarray(pixels).save(path)
    return path


def photo(path: Path, height: int = 48, width: int = 64, seed: int = 0) -> Path:
    """Noise in colour."""
    draw = np.random.default_rng(seed)
    return picture(path, draw.integers(0, 256, (height, width, 3), np.uint8))


# --- MNIST -------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim])
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def mnist(folder: Path, images: np.ndarray, classes: np.ndarray, name: str) -> list[Path]:
    """Write a pair of packed files."""
    paths = [folder / f"{name}-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]
    for path, array in zip(paths, (images, classes), strict=True):
        path.write_bytes(gzip.compress(idx(array.astype(np.uint8))))
    return paths


# --- blood smears ------------------------------------------------------------------------------


def marked(kind: str, x: Any, y: Any, w: Any, h: Any) -> dict[str, Any]:
    """A box as IML_Malaria writes it."""
    return {"type": kind, "bbox": {"x": str(x), "y": str(y), "h": str(h), "w": str(w)}}


def annotate(path: Path, *entries: tuple[str, list[dict[str, Any]]]) -> Path:
    text = [{"image_name": name, "objects": objects} for name, objects in entries]
    path.write_text(json.dumps(text))
    return path


def iml_malaria(folder: Path, numbers: Iterable[int]) -> list[Path]:
    """Write photographs with a ring each, as they are fetched: the boxes, then the images."""
    images = [photo(folder / "IML_Malaria" / f"PA{n}.JPG", 16, 24, n) for n in numbers]
    entries = [(image.name, [marked("ring", 2, 4, 8, 6)]) for image in images]
    return [annotate(folder / "annotations.json", *entries), *images]


def bbbc041(folder: Path, training: int, test: int) -> Path:
    """Write fields of one cell each, as the archive unpacks."""
    inside = folder / "malaria"
    kinds = ("red blood cell", "leukocyte", "trophozoite")
    for split, count in (("training", training), ("test", test)):
        entries = []
        for number in range(count):
            name = f"{split}-{number:03}.png"
            photo(inside / "images" / name, 40, 60, number)
            box = {"minimum": {"r": 8, "c": 16}, "maximum": {"r": 20, "c": 32}}
            entries.append({
                "image": {"checksum": "0", "pathname": f"/images/{name}",
                          "shape": {"r": 40, "c": 60, "channels": 3}},
                "objects": [{"bounding_box": box, "category": kinds[number % 3]}],
            })  # fmt: skip
        (inside / f"{split}.json").write_text(json.dumps(entries))
    return folder


# --- cells -------------------------------------------------------------------------------------


def usiigaci(folder: Path, numbers: Mapping[int, bool]) -> list[Path]:
    """Write sets with a cell each; False: a mask without its image."""
    files = []
    for number, with_image in numbers.items():
        pixels = np.zeros((40, 40), np.uint8)
        pixels[5:20, 5:20] = 1
        place = folder / "train" / f"set{number}"
        files.append(picture(place / "instances_ids.png", pixels))
        if with_image:
            files.append(picture(place / "phase.png", pixels + np.uint8(90)))
    return files


def sequence(
    root: Path, name: str, frames: range, place: str, prefix: str = "man_seg"
) -> Path:
    """Write frames of the Cell Tracking Challenge with two cells, and their masks."""
    for number in frames:
        cells = np.zeros((60, 70), np.uint16)
        cells[26:34, 30:36], cells[26:34, 38:46] = 1, 5
        picture(root / name / f"t{number:03}.tif", (100 + 7 * cells + number).astype(np.uint16))
        picture(root / (name + place) / f"{prefix}{number:03}.tif", cells)
    return root


# --- neuropil ----------------------------------------------------------------------------------


def section(folder: Path, number: int, masks: Mapping[str, np.ndarray]) -> Path:
    """Write a grey section of a stack with its masks."""
    for name, mask in masks.items():
        picture(folder / name / f"{number:02}.png", mask)
    shape = next(iter(masks.values())).shape
    return picture(folder / "raw" / f"{number:02}.tif", np.full(shape, 9, np.uint8))


# --- F-actin -----------------------------------------------------------------------------------


def outlined(folder: Path, name: str, *squares: tuple[int, int, int]) -> Path:
    """Write an image of STEDActinFCN with squares of 8 px: number, x and y of the corner."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    lines = [
        f"{kind} ({x}.000000, {y}.000000), ({x + 8}, {y}), ({x + 8}, {y + 8}), ({x}, {y + 8})\r\n"
        for kind, x, y in squares
    ]
    (folder / "data" / f"{name}.polys.txt").write_text("".join(lines))
    return picture(folder / "data" / f"{name}.tiff", np.full((40, 30), 7, np.int16))


def stack(folder: Path, dataset: str, split: str, channels: int) -> Path:
    """Write a stack of TA-GAN whose channel c is c in its upper half, and 0 below."""
    planes = np.zeros((channels, 24, 32), np.uint16)
    planes[:, :12] = np.arange(channels)[:, None, None]
    path = folder / dataset / split / "1.tif"
    path.parent.mkdir(parents=True)
    tifffile.imwrite(path, planes, photometric="minisblack")
    return path


def original_actin(
    folder: Path, splits: Iterable[str], change: Callable[[h5py.Group], Any] = lambda group: None
) -> Path:
    """Write files as of the MICRA-Net paper: float images, padded to a common size."""
    rng = np.random.default_rng(0)
    (folder / "datasets").mkdir()
    for split in splits:
        with h5py.File(folder / "datasets" / f"{split}_01-04-19.hdf5", "w") as file:
            for name in ("Block", "Glu-Gly"):
                group = file.create_group(name)
                group["data"] = rng.random((2, 20, 30))
                group["label"] = rng.integers(0, 5, (2, 3, 20, 30))
                group["label"].attrs["shapes"] = [[20, 30], [15, 25]]
            change(group)
    return folder
