"""QM9, the data set of the bundled weights: the elements and the sizes of its molecules."""

ELEMENTS = (1, 6, 7, 8, 9)
"""Atomic numbers."""

MAX_ATOMS = 29
"""Number of atoms of the largest molecule."""
