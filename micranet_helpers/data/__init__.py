"""From files to labelled crops.

- Fetching: ``registry`` (what there is), ``download``, ``transfer`` (one file), ``archives``,
  ``cli``.
- Datasets: ``layout`` (the HDF5 file), ``crops`` (what the network is trained on), ``own``
  (the reader's images) with ``images`` and ``annotations``.
- Sources, one module each: ``mnist`` (canvases of ``digits``), ``ctc``, ``pvivax``, ``em`` and
  ``actin``; what they look like is drawn by ``simulated``.
"""
