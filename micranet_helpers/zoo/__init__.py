"""Trained networks in files, ours and the published ones.

- ``hdf5_zoo``: many networks in one HDF5 file; ``older_layout``: a folder for one network.
- ``usage``: how a network is to be used; ``shelf``: the networks that ship with the package.
- ``architectures``: which network a file holds; ``weights``: its arrays and settings.
- ``export/``: files for other programs.
"""

from micranet_helpers.zoo.hdf5_zoo import ZooEntry, contents, extract_ilastik, load, save
from micranet_helpers.zoo.shelf import locate, shipped
from micranet_helpers.zoo.usage import Usage

__all__ = [
    "Usage", "ZooEntry", "contents", "extract_ilastik", "load", "locate", "save", "shipped",
]  # fmt: skip
