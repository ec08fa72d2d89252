"""Measures of molecules: stability, validity, uniqueness, novelty, histograms and strain.

The package imports the rest of `model.chem` but not `io`. Begin with `metrics`, which names the convention behind each
number; `histograms` compares two sets, `strain` asks a force field.
"""
