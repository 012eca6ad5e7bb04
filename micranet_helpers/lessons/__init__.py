"""What the chapters share and no lesson is about: plumbing.

- ``workdir``: a folder that outlives a session; ``command``: the command ``micranet-book``.
"""
