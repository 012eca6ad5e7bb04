"""Find the real images that ship with the package; their README says where they come from."""

from pathlib import Path

NUCLEI = Path(__file__).with_name("nuclei")
"""Folder of ``images``, ``masks`` with a number for each nucleus, and ``labels.csv`` of crops."""
