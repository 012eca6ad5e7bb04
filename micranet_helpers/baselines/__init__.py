"""Baselines: what learns from masks instead of image-level labels.

- ``supervision``: masks made as coarse as those of a hurried annotator, to train on.
"""
