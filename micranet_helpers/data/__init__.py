"""From files to labelled crops.

- ``dataset``: the layout of a dataset, one HDF5 file; ``crops``: what a network is trained on.
- ``mnist`` (canvases of ``digits``), ``ctc``, ``pvivax``, ``em``, ``actin``: one module a source;
  ``simulated/`` draws what they look like.
- ``own/``: the reader's images and annotations.
- ``fetch/``: what can be downloaded, and how.
"""
