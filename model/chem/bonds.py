"""Bonds: the molecular graph of a geometry, or the reason why none was found."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from enflow.model.chem.bond_orders import STATES, assign_orders, charge_cost
from enflow.model.chem.connectivity import COVALENT_FACTOR
from enflow.model.chem.elements import STABILITY_TABLE, VALENCES
from enflow.model.chem.molecule import Molecule

OTHER_FACTORS = (1.3, 1.05)
"""Further factors, for generated geometries with long bonds or atoms that are too near."""

MAX_ITERATIONS = 1_000
"""Iterations of RDKit's search for bond orders, which has no limit of its own."""


@dataclass(frozen=True)
class Bonds:
    """The bonds of a molecule, or the reason why none were found. Plain data: it can leave a worker process."""

    status: Literal["ok", "failed", "omitted"]
    """ok: RDKit sanitizes it, every atom has its valence, there are no radicals; omitted: they were not asked for."""
    rdkit: str
    """Version of RDKit."""
    method: str | None = None
    """The method that found the bonds."""
    reason: str | None = None
    """The reason why no bonds were found."""
    pairs: tuple[tuple[int, int, int], ...] = ()
    """First atom, second atom (from 0), order 1 to 3; aromatic rings in a Kekulé form."""
    charges: tuple[int, ...] = ()
    """Formal charge of each atom."""
    fragments: int = 0
    """Number of connected pieces."""
    smiles: str | None = None
    """Canonical, isomeric, without hydrogen atoms."""

    @property
    def valid(self) -> bool | None:
        """True where bonds were found; None where they were not asked for."""
        return None if self.status == "omitted" else self.status == "ok"

    @property
    def outcome(self) -> str:
        """The method that found the bonds, else the status: the one word of XYZ and CSV."""
        return self.method or self.status

    @property
    def charge(self) -> int:
        """Total charge."""
        return sum(self.charges)

    @property
    def whole(self) -> bool:
        """True if bonds were found and connect all atoms."""
        return self.status == "ok" and self.fragments == 1


def infer_bonds(molecule: Molecule, charge: int = 0) -> Bonds:
    """Infer bonds and formal charges of a molecule from its geometry alone.

    RDKit's DetermineBonds finds them almost always. Where its result is missing, charged or in pieces, an exact search
    for bond orders and other ways of joining the atoms are tried too. The result in one piece with the lowest cost of
    charges wins; the earlier of two equal ones.

    Args:
        molecule: all atoms, hydrogen included.
        charge: total charge.

    Returns:
        The bonds; `status` is "failed" and `reason` is set where none give every atom a closed shell.
    """
    search = _BondSearch(molecule, charge)
    with rdBase.BlockLogs():
        for max_cost in (0.0, math.inf):  # most molecules have bonds without charges, and that search is short
            found = []
            for candidate in search.candidates(max_cost):
                found.append(candidate)
                if candidate.rank == (False, 0.0):
                    return _to_bonds(candidate)
        if not found:
            return Bonds("failed", rdBase.rdkitVersion, reason=_reason(molecule, charge))
        return _to_bonds(min(found, key=lambda candidate: candidate.rank))  # the first of equal ones


def to_mol(molecule: Molecule, bonds: Bonds) -> Chem.Mol:
    """Return the RDKit molecule of inferred bonds with its conformer; bare atoms where no bonds were found."""
    mol = _bonded(molecule, bonds.pairs, bonds.charges)
    if bonds.status == "ok":
        Chem.SanitizeMol(mol)
        Chem.AssignStereochemistryFrom3D(mol)
    else:
        mol.UpdatePropertyCache(strict=False)
    return mol.GetMol()


class _Candidate(NamedTuple):
    """A valid molecule, and the method that found its bonds."""

    method: str
    mol: Chem.RWMol

    @property
    def rank(self) -> tuple[bool, float]:
        """The order of preference: whole molecules first, then the cost of charges."""
        return len(Chem.GetMolFrags(self.mol)) > 1, _charge_cost(self.mol)


class _BondSearch:
    """The search for the bonds of a molecule, which repeats nothing: ways of joining the atoms often agree."""

    def __init__(self, molecule: Molecule, charge: int) -> None:
        self._molecule, self._charge, self._atoms = molecule, charge, _bonded(molecule)
        self._connected = cache(self._connect)
        self._determined = cache(self._determine)
        self._searched = cache(self._search)

    def candidates(self, max_cost: float) -> Iterator[_Candidate]:
        """Yield valid molecules, those of the most trusted method first.

        Args:
            max_cost: the largest cost of charges in the search for bond orders.
        """
        radii = f"covalent radii x {COVALENT_FACTOR:g}"
        yield from self._candidate(f"DetermineBonds, {radii}", self._determined(COVALENT_FACTOR))
        pairs, by_table = self._connected(COVALENT_FACTOR), _joined_by_table(self._molecule)
        yield from self._candidate(f"bond-order search, {radii}", self._searched(pairs, max_cost))
        if set(by_table) != set(pairs):
            yield from self._candidate("bond-order search, distance table", self._searched(by_table, max_cost))
        known = {frozenset(pairs)}
        for factor in OTHER_FACTORS:
            if (joined := frozenset(self._connected(factor))) not in known:
                known.add(joined)
                method = f"DetermineBonds, covalent radii x {factor:g}"
                yield from self._candidate(method, self._determined(factor))

    def _candidate(self, method: str, mol: Chem.RWMol | None) -> Iterator[_Candidate]:
        if mol:
            yield _Candidate(method, mol)

    def _connect(self, factor: float) -> tuple[tuple[int, int], ...]:
        mol = Chem.RWMol(self._atoms)
        rdDetermineBonds.DetermineConnectivity(mol, useVdw=True, covFactor=factor)
        return tuple((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in _bonds(mol))

    def _determine(self, factor: float) -> Chem.RWMol | None:
        mol = Chem.RWMol(self._atoms)
        try:
            rdDetermineBonds.DetermineBonds(
                mol,
                charge=self._charge,
                useVdw=True,
                covFactor=factor,
                maxIterations=MAX_ITERATIONS,
                embedChiral=False,
            )
        except (ValueError, RuntimeError):  # no valence fits; the charge does not; too many iterations
            return None
        return mol if _is_valid(mol) else None

    def _search(self, pairs: tuple[tuple[int, int], ...], max_cost: float) -> Chem.RWMol | None:
        i, j = np.array(pairs, dtype=int).reshape(-1, 2).T
        distances = np.linalg.norm(self._molecule.positions[i] - self._molecule.positions[j], axis=1).tolist()
        numbers = self._molecule.atomic_numbers.tolist()
        found = assign_orders(numbers, pairs, distances, self._charge, max_cost)
        if found is None:
            return None
        bonds = tuple((*pair, order) for pair, order in zip(pairs, found.orders, strict=True))
        mol = _bonded(self._molecule, bonds, found.charges)
        return mol if _is_valid(mol) else None


def _joined_by_table(molecule: Molecule) -> tuple[tuple[int, int], ...]:
    orders = STABILITY_TABLE.orders(molecule.atomic_numbers, molecule.positions)
    return tuple((i, j) for i, j in np.argwhere(np.triu(orders)).tolist())


def _bonded(
    molecule: Molecule, pairs: tuple[tuple[int, int, int], ...] = (), charges: tuple[int, ...] = ()
) -> Chem.RWMol:
    mol = Chem.RWMol()
    for z in molecule.atomic_numbers.tolist():
        atom = Chem.Atom(z)
        atom.SetNoImplicit(True)  # every hydrogen is an atom: a missing bond is a radical, never an implicit hydrogen
        mol.AddAtom(atom)
    for i, j, order in pairs:
        mol.AddBond(i, j, Chem.BondType.values[order])
    for index, charge in enumerate(charges):
        if charge:
            mol.GetAtomWithIdx(index).SetFormalCharge(charge)
    conformer = Chem.Conformer(molecule.n_atoms)
    conformer.SetPositions(np.array(molecule.positions))
    mol.AddConformer(conformer)
    return mol


def _is_valid(mol: Chem.RWMol) -> bool:
    """Sanitize the molecule; return True if that succeeds and leaves no radical and no impossible charge.

    An interrupted DetermineBonds reports success with single bonds only; they leave radicals, which are found here.
    """
    if Chem.SanitizeMol(mol, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
        return False
    return not any(atom.GetNumRadicalElectrons() or not _has_possible_charge(atom) for atom in _atoms(mol))


def _has_possible_charge(atom: Chem.Atom) -> bool:
    """Return True if an element can have the charge. RDKit accepts methane in pieces as [C-4] and four [H+]."""
    states = STATES.get(atom.GetAtomicNum())
    return states is None or any(state.charge == atom.GetFormalCharge() for state in states)


def _atoms(mol: Chem.RWMol) -> list[Chem.Atom]:
    return [mol.GetAtomWithIdx(i) for i in range(mol.GetNumAtoms())]  # four times as fast as mol.GetAtoms()


def _bonds(mol: Chem.RWMol) -> list[Chem.Bond]:
    return [mol.GetBondWithIdx(i) for i in range(mol.GetNumBonds())]


def _charge_cost(mol: Chem.RWMol) -> float:
    charged = (atom for atom in _atoms(mol) if atom.GetFormalCharge())
    return math.fsum(charge_cost(atom.GetAtomicNum(), atom.GetFormalCharge()) for atom in charged)


def _to_bonds(found: _Candidate) -> Bonds:
    mol = found.mol
    Chem.AssignStereochemistryFrom3D(mol)
    smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
    fragments = len(Chem.GetMolFrags(mol))
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return Bonds(
        "ok",
        rdBase.rdkitVersion,
        method=found.method,
        pairs=tuple((b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in _bonds(mol)),
        charges=tuple(atom.GetFormalCharge() for atom in _atoms(mol)),
        fragments=fragments,
        smiles=smiles,
    )


def _reason(molecule: Molecule, charge: int) -> str:
    orders = STABILITY_TABLE.orders(molecule.atomic_numbers, molecule.positions).sum(axis=1).tolist()
    wrong = [
        f"{symbol}{i} {found} of {VALENCES[z]}"
        for i, (symbol, z, found) in enumerate(
            zip(molecule.symbols, molecule.atomic_numbers.tolist(), orders, strict=True), start=1
        )
        if z in VALENCES and found != VALENCES[z]
    ]
    listed = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    by_distance = f"; by distance, bonds at {listed}" if wrong else ""
    return f"no bonds give every atom a closed shell at total charge {charge}{by_distance}"
