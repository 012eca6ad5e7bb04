"""From files to labelled crops.

- ``dataset``: one HDF5 file of images and labels; ``crops``: what a network is trained on;
  ``scaling``: the numbers of an image as a network sees them.
- ``mnist`` (canvases of ``digits``), ``ctc``, ``pvivax``, ``em``, ``actin``: one module a dataset;
  ``sources``: what they share; ``simulated/`` draws what they look like.
- ``own/``: the reader's images and annotations.
- ``fetch/``: what can be downloaded, and how.
"""
