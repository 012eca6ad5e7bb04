"""Trained networks in files, ours and the published ones.

- ``hdf5_zoo``: many networks in one HDF5 file; ``older_layout``: a folder for one network.
- ``architectures``: which network a file holds; ``weights``: arrays and settings as stored.
stored.
- ``export/``: for other programs; ``model_card``: publish networks with what is known of them.
"""

from micranet_helpers.zoo.hdf5_zoo import ZooEntry, contents, extract_ilastik, load, save

__all__ = ["ZooEntry", "contents", "extract_ilastik", "load", "save"]
