"""Structure files: XYZ, SDF and SMILES are read; XYZ, SDF, JSON, HTML and CSV are written.

A reader checks each record line by line under `text.ReadLimits` and gives a molecule or a `StructureError` with line
and column in its place. The package may import the rest of `model.chem`, but not `analysis`. Begin with `formats.read`
and `formats.write`.
"""
