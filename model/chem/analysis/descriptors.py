"""Descriptors: the properties by which chemists filter and rank molecules, computed by RDKit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from rdkit import Chem, RDConfig, rdBase
from rdkit.Chem import QED, Descriptors, rdMolDescriptors

from enflow.model.chem.analysis.novelty import inchikey, is_novel
from enflow.model.chem.analysis.strain import strain
from enflow.model.chem.bonds import Bonds, to_mol
from enflow.model.chem.molecule import Molecule

Bounds = tuple[float | None, float | None]
"""The least and the largest value of a property; None = no bound."""


@dataclass(frozen=True)
class MoleculeDescriptors:
    """The descriptors of a molecule. Plain data: it can leave a worker process.

    Attributes:
        inchikey: the standard InChIKey; None where InChI cannot name the molecule.
        weight: average molecular weight, g/mol.
        heavy_atoms: number of atoms other than hydrogen.
        logp: octanol-water partition coefficient by Wildman and Crippen (1999).
        tpsa: topological polar surface area by Ertl (2000), square angstrom.
        qed: quantitative estimate of drug-likeness by Bickerton (2012), 0 to 1.
        rings: number of rings (SSSR).
        rotatable_bonds: number of rotatable bonds, by RDKit's strict definition: without those of amides and esters.
        donors: number of donors of hydrogen bonds.
        acceptors: number of acceptors of hydrogen bonds.
        sa_score: synthetic accessibility by Ertl and Schuffenhauer (2009), 1 (easy) to 10.
        strain: energy above the nearest minimum of MMFF94s, kcal/mol; None where it has no parameters.
        connected: True where the bonds join all atoms.
        novel: True where QM9 has no molecule of this connectivity; None where its InChIKeys are missing.
    """

    inchikey: str | None
    weight: float
    heavy_atoms: int
    logp: float
    tpsa: float
    qed: float
    rings: int
    rotatable_bonds: int
    donors: int
    acceptors: int
    sa_score: float
    strain: float | None
    connected: bool
    novel: bool | None

    def as_dict(self) -> dict[str, Any]:
        """Return the descriptors by name."""
        return asdict(self)


DECIMALS = 4
"""Decimals of a descriptor, also where it is compared with bounds."""

FLAGS = ("connected", "novel")
"""The names of the descriptors that are true or false."""

NUMBERS = tuple(field.name for field in fields(MoleculeDescriptors) if field.name not in ("inchikey", *FLAGS))
"""The names of the descriptors that are numbers."""


def describe(molecule: Molecule, bonds: Bonds) -> MoleculeDescriptors | None:
    """Return the descriptors of a molecule with its bonds; None where no bonds were found."""
    if bonds.status != "ok":
        return None
    with rdBase.BlockLogs():
        mol, key = Chem.RemoveHs(to_mol(molecule, bonds), _every_hydrogen()), inchikey(molecule, bonds)
        energy = strain(molecule, bonds, "MMFF94s")
        return MoleculeDescriptors(
            inchikey=key,
            weight=round(Descriptors.MolWt(mol), DECIMALS),  # type: ignore[attr-defined]
            heavy_atoms=mol.GetNumHeavyAtoms(),
            logp=round(rdMolDescriptors.CalcCrippenDescriptors(mol)[0], DECIMALS),
            tpsa=round(rdMolDescriptors.CalcTPSA(mol), DECIMALS),
            qed=round(QED.qed(mol), DECIMALS),  # type: ignore[no-untyped-call]
            rings=rdMolDescriptors.CalcNumRings(mol),
            rotatable_bonds=rdMolDescriptors.CalcNumRotatableBonds(mol),
            donors=rdMolDescriptors.CalcNumHBD(mol),
            acceptors=rdMolDescriptors.CalcNumHBA(mol),
            sa_score=round(_sascorer().calculateScore(mol), DECIMALS),
            strain=None if energy is None else round(energy, DECIMALS) + 0.0,  # no minus zero
            connected=bonds.fragments == 1,
            novel=None if key is None else is_novel(key),
        )


def outside(found: MoleculeDescriptors, where: Mapping[str, Bounds | bool]) -> str | None:
    """Return the reason why descriptors are outside of bounds; None where they are inside.

    Args:
        found: the descriptors.
        where: the bounds by the name of the descriptor; for those of `FLAGS` the wanted value.
    """
    for name, wanted in where.items():
        value = getattr(found, name)
        if value is None:
            return f"{name} not known"
        if isinstance(wanted, bool):
            if value != wanted:
                return f"{name} is not {str(wanted).lower()}"
            continue
        low, high = wanted
        if low is not None and value < low:
            return f"{name} below {low:g}"
        if high is not None and value > high:
            return f"{name} above {high:g}"
    return None


def _every_hydrogen() -> Any:
    """Return the parameters with which RDKit removes also the hydrogens that define the stereochemistry of N=C bonds.

    The fragments of the SA score and the patterns of QED are those of molecules without hydrogen atoms.
    """
    parameters: Any = Chem.RemoveHsParameters()
    parameters.removeDefiningBondStereo = True
    return parameters


@cache
def _sascorer() -> Any:
    """Return the module of the SA score, which RDKit ships among its contributions, outside of its package."""
    file = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = spec_from_file_location("sascorer", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
