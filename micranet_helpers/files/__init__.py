"""Read and write files: nothing is lost on the way out, and nothing harmful gets in.

- ``atomic``: write whole files or none; ``provenance``: what stood behind them.
- ``hdf5``: open HDF5 files from strangers.
- ``images``: read images and masks; ``series``: stacks plane by plane; ``microscopes``: ND2, LIF,
  CZI.
- ``tables``: write CSV that is safe to open.
- ``archives``: unpack archives inside one folder.
- ``lock``: one writer at a time; ``signals``: end cleanly when asked to.
"""
