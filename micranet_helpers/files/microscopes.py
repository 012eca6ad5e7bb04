"""Open ND2, LIF and CZI by nd2, liffile and czifile, the extra ``microscopes``; and OME-Zarr.

All are small and under BSD licences. bioio with the same formats needs 80 packages, and its reader
of CZI is under the GPL.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

READERS = {".nd2": ("nd2", "ND2File"), ".lif": ("liffile", "LifFile"),
           ".czi": ("czifile", "CziFile"),
           ".zarr": ("micranet_helpers.files.large", "ome_zarr")}  # fmt: skip


@contextmanager
def images_in(path: str | Path) -> Iterator[list[Any]]:
    """Open the images of a file: each has ``sizes`` by axis, ``dtype`` and ``asarray()``.

    Raises ModuleNotFoundError, or what the reader raises.
    """
    module, kind = READERS[Path(path).suffix.lower()]
    with getattr(import_module(module), kind)(path) as file:
        several = file.images if module == "liffile" else getattr(file, "scenes", {}).values()
        yield [*several] or [file]


def width_um(image: Any) -> float | None:
    """Tell the side of a pixel, µm, or None."""
    if hasattr(image, "voxel_size"):  # of nd2, which says 1 where it does not know
        return None if (size := image.voxel_size().x) == 1 else size
    metres = image.coords.get("X", ())
    return float(metres[1] - metres[0]) * 1e6 if len(metres) > 1 else None
