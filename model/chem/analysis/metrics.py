"""Quality of a set of molecules: stability, validity, uniqueness, novelty; each convention is named."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int8, Int64, Num
from rdkit import Chem, rdBase

from enflow.model.chem.analysis.histograms import equal_sizes
from enflow.model.chem.elements import STABILITY_TABLE, SYMBOLS, VALENCES, BondTable
from enflow.model.chem.molecule import Molecule

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Share:
    """A count and its total; the share of an empty set is NaN."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> Interval:
        """Wilson's score interval (1927), which stays within 0 and 1 and keeps its level at small counts.

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
        """
        if not self.total:
            return Interval(0.0, 1.0)
        n, p, zz = self.total, self.value, Z_95**2
        centre, spread = p + zz / (2 * n), Z_95 * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
        low, high = ((centre + side * spread) / (1 + zz / n) for side in (-1, 1))
        return Interval(max(0.0, low), min(1.0, high))  # the bounds are 0 and 1 up to rounding


def bootstrap(
    counts: Num[np.ndarray, " M"], totals: Num[np.ndarray, " M"], seed: int = 0, draws: int = 1_000
) -> Interval:
    """Return the interval of sum(counts) / sum(totals) by drawing molecules, not atoms, with replacement.

    Args:
        counts: count per molecule, such as its stable atoms.
        totals: total per molecule, such as its atoms.
        seed: seed of the resampling.
        draws: number of resamples.
    """
    rng = np.random.default_rng(seed)
    ratios = np.empty(draws)
    for draw in range(draws):
        chosen = rng.integers(len(counts), size=len(counts))
        ratios[draw] = counts[chosen].sum() / totals[chosen].sum()
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Stability:
    """Stability by the distance table (E-NF, EDM).

    An atom is stable if its bond orders sum to its valence; a molecule is stable if all its atoms are.
    """

    stable_atoms: Int64[np.ndarray, " M"]
    """Number of stable atoms of each molecule."""
    n_atoms: Int64[np.ndarray, " M"]
    """Number of atoms of each molecule."""

    @property
    def stable(self) -> Bool[np.ndarray, " M"]:
        """True for each molecule that is stable."""
        return self.stable_atoms >= self.n_atoms

    @property
    def atom_stability(self) -> float:
        """Share of stable atoms among all atoms."""
        return float(self.stable_atoms.sum() / self.n_atoms.sum())

    @property
    def molecules(self) -> Share:
        """Stable molecules among all, with an interval."""
        return Share(int(self.stable.sum()), len(self.stable))

    @property
    def atoms_interval(self) -> Interval:
        """Bootstrapped interval of the atom stability; the atoms of one molecule are not independent."""
        return bootstrap(self.stable_atoms, self.n_atoms)


def stability(molecules: Sequence[Molecule], table: BondTable = STABILITY_TABLE) -> Stability:
    """Return atom and molecule stability by the distance table.

    Raises:
        ValueError: there is no molecule.
    """
    _require_some(molecules)
    valences = _valences()
    stable_atoms = np.zeros(len(molecules), dtype=np.int64)
    for rows, numbers, positions in equal_sizes(molecules):
        bonds = table.orders(numbers, positions).sum(axis=-1)
        stable_atoms[rows] = (bonds == valences[numbers]).sum(axis=-1)
    return Stability(stable_atoms, np.array([m.n_atoms for m in molecules]))


Convention = Literal["EDM", "E-NF"]


@dataclass(frozen=True)
class Validity:
    """Validity of molecules with bonds by the distance table, and the SMILES of the valid ones.

    EDM (Hoogeboom et al. 2022): validity among all molecules; a molecule counts as its largest fragment; novelty among
    the unique ones. E-NF (Satorras et al. 2021): validity among the stable molecules; a molecule counts as a whole;
    novelty among the valid ones.
    """

    convention: Convention
    considered: int
    """Number of molecules in the denominator of validity."""
    smiles: tuple[str, ...]
    """SMILES of the valid molecules in order; canonical, with hydrogen atoms."""
    whole: int
    """Number of valid molecules in one piece."""

    @property
    def validity(self) -> Share:
        """Valid molecules among the considered ones."""
        return Share(len(self.smiles), self.considered)

    @property
    def uniqueness(self) -> Share:
        """Distinct SMILES among the valid molecules."""
        return Share(len(set(self.smiles)), len(self.smiles))

    def novelty(self, training: Collection[str]) -> Share:
        """Return the share that is not among the training molecules, which are given as SMILES by `table_smiles`."""
        among = set(self.smiles) if self.convention == "EDM" else self.smiles
        return Share(sum(smiles not in training for smiles in among), len(among))


def validity(molecules: Sequence[Molecule], convention: Convention) -> Validity:
    """Return the validity by the distance table: bonds by the table, sanitized by RDKit.

    RDKit may add implicit hydrogen atoms, so that an atom with too few bonds passes.

    Raises:
        ValueError: there is no molecule.
    """
    _require_some(molecules)
    considered = list(molecules)
    if convention == "E-NF":
        considered = [m for m, stable in zip(molecules, stability(molecules).stable, strict=True) if stable]
    smiles, whole = [], 0
    for pieces in _table_pieces(considered):
        if pieces:
            largest = max(pieces, key=lambda piece: piece.GetNumAtoms())
            smiles.append(Chem.MolToSmiles(largest if convention == "EDM" else _joined(pieces)))
            whole += len(pieces) == 1
    return Validity(convention, len(considered), tuple(smiles), whole)


def table_smiles(molecules: Sequence[Molecule]) -> set[str]:
    """Return the SMILES of the valid molecules by the distance table, as `Validity.novelty` takes them."""
    return {Chem.MolToSmiles(_joined(pieces)) for pieces in _table_pieces(molecules) if pieces}


def _require_some(molecules: Sequence[object]) -> None:
    if not molecules:
        raise ValueError("found no molecules, expected at least one: a share of nothing is undefined")


def _valences() -> Int64[np.ndarray, " z"]:
    valences = np.full(len(SYMBOLS) + 1, -1)  # an element without a valence is never stable
    valences[list(VALENCES)] = list(VALENCES.values())
    return valences


def _table_pieces(molecules: Sequence[Molecule]) -> Iterator[tuple[Chem.Mol, ...]]:
    """Yield the fragments of each molecule by the distance table; none where RDKit cannot sanitize it."""
    with rdBase.BlockLogs():
        for molecule in molecules:
            orders = STABILITY_TABLE.orders(molecule.atomic_numbers, molecule.positions)
            mol = _bonded(molecule, orders)
            valid = Chem.SanitizeMol(mol, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE
            yield Chem.GetMolFrags(mol, asMols=True) if valid else ()


def _bonded(molecule: Molecule, orders: Int8[np.ndarray, "N N"]) -> Chem.RWMol:
    mol = Chem.RWMol()
    for z in molecule.atomic_numbers.tolist():
        mol.AddAtom(Chem.Atom(z))
    for i, j in np.argwhere(np.triu(orders)).tolist():
        mol.AddBond(i, j, Chem.BondType.values[int(orders[i, j])])
    return mol


def _joined(pieces: tuple[Chem.Mol, ...]) -> Chem.Mol:
    whole, *others = pieces
    for piece in others:
        whole = Chem.CombineMols(whole, piece)
    return whole
