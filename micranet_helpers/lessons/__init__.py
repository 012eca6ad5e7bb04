"""What the chapters share and no lesson is about: plumbing.

- ``machine``: the line of versions; ``workdir``: a folder that outlives a session.
- ``training``: networks that several chapters use are trained once.
- ``command``: the command ``micranet-book``.
"""
