"""Chemistry of single molecules: elements, bonds, formulas, file formats, metrics and drawings.

The package is the home of RDKit. Of `enflow.model` it imports `errors`, `qm9` and, for the folder of the weights,
`card`; it imports no torch and nothing of the flow, so that the service can run it in processes of its own. Begin with
`molecule.Molecule`; `bonds.infer_bonds` finds its bonds, `io.formats` reads and writes it, `analysis.metrics` measures
sets of molecules.
"""
