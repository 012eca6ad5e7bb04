"""Read and write files: nothing is lost on the way out, and nothing harmful gets in.

- ``atomic``: write whole files or none.
- ``hdf5``: open HDF5 files from strangers.
- ``images``: read images and masks; ``series``: stacks plane by plane.
- ``tables``: write CSV that is safe to open.
- ``archives``: unpack archives inside one folder.
"""
