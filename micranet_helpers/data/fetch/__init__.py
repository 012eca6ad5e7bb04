"""Download data sets: verified by checksum, resumed after an interruption, from a mirror if wanted.

- ``registry``: what there is, with licence and citation.
- ``download``: whole data sets; ``transfer``: one file; ``cli``: ``micranet-book data``.
"""

from micranet_helpers.data.fetch.download import cached, fetch, folder, remove
from micranet_helpers.data.fetch.registry import citations, items, select, table
from micranet_helpers.data.fetch.transfer import DownloadError

__all__ = [
    "DownloadError", "cached", "citations", "fetch", "folder", "items", "remove", "select", "table",
]  # fmt: skip
