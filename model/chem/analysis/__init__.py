"""Measures of molecules: stability, validity, uniqueness, novelty, histograms, structures and strain.

The package imports the rest of `model.chem` but not `io`. Begin with `metrics`, which names the convention behind each
number; `histograms` compares two sets, `structures` their rings, functional groups, bonds and angles; `strain` asks a
force field and `plausibility` PoseBusters.
"""
