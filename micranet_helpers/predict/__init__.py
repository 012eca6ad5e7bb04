"""Masks and objects of all images of a folder.

- ``folder``: plan, run, resume; ``ways``: from an image to masks, and which way answers favour.
- ``objects``: number, measure, write; ``report``: what is seen of the whole run.
"""

from micranet_helpers.predict.folder import predict
from micranet_helpers.predict.ways import WAYS, find, open_zoo

__all__ = ["WAYS", "find", "open_zoo", "predict"]
