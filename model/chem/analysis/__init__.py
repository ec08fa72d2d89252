"""Measures of molecules: stability, validity, uniqueness, novelty, histograms, structures and strain.

The package may import the rest of `model.chem`, but not `io`, and `model.card` for the file of InChIKeys. Begin with
`metrics`, which names the convention behind each number; `histograms` compares two sets, `structures` their rings,
functional groups, bonds and angles; `strain` asks a force field and `plausibility` PoseBusters.
"""
