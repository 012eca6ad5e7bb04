"""Make the book of its chapters: for those who have a clone.

- ``runner``: execute chapters, build pages; ``status``: what a run took, with which versions.
- ``offline``, ``pages``: Sphinx extensions.
"""
