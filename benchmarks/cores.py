"""The cores that the page offers as fragments, with geometries by RDKit: service/web/src/cores.json.

python -m benchmarks.cores
"""

import json
from pathlib import Path

from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.io.formats import write
from enflow.model.chem.io.smiles import read_smiles
from enflow.model.chem.io.text import ReadLimits
from enflow.model.chem.molecule import Molecule

CORES = {
    "cyclopropane": "C1CC1",
    "cyclobutane": "C1CCC1",
    "cyclopentane": "C1CCCC1",
    "oxirane": "C1CO1",
    "oxetane": "C1COC1",
    "azetidine": "C1CNC1",
    "pyrrolidine": "C1CCNC1",
    "tetrahydrofuran": "C1CCOC1",
    "furan": "c1ccoc1",
    "pyrrole": "c1cc[nH]c1",
    "imidazole": "c1c[nH]cn1",
    "pyrazole": "c1cn[nH]c1",
    "oxazole": "c1cocn1",
    "benzene": "c1ccccc1",
    "pyridine": "c1ccncc1",
    "formamide": "NC=O",
    "acetonitrile": "CC#N",
    "methanol": "CO",
}
PLACE = Path(__file__).parents[1] / "service" / "web" / "src" / "cores.json"


def core(name: str) -> str:
    """Return the SDF of a core, with all its hydrogen atoms."""
    (molecule,) = read_smiles(f"{CORES[name]} {name}", ReadLimits())
    assert isinstance(molecule, Molecule), molecule
    return write([molecule], [infer_bonds(molecule)], "sdf")


if __name__ == "__main__":
    PLACE.write_text(json.dumps({name: core(name) for name in CORES}, indent=2) + "\n")
