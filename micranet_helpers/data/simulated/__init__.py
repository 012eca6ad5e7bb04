"""Simulated images: what each data set looks like, drawn from random numbers."""
