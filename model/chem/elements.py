"""Elements: symbols, vocabularies, valences, and the table of bond lengths that defines stability."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Float64, Int8, Integer, Real

from enflow.model import qm9

SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
    "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr "
    "Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()
"""Symbol of the element with atomic number z at `SYMBOLS[z - 1]`."""

ATOMIC_NUMBERS: Mapping[str, int] = MappingProxyType({s: z for z, s in enumerate(SYMBOLS, start=1)})
"""Atomic number of a symbol."""

VALENCES: Mapping[int, int] = MappingProxyType({1: 1, 6: 4, 7: 3, 8: 2, 9: 1})
"""Atomic number -> bonds of the neutral atom; an atom is stable if its bond orders sum to this."""


@dataclass(frozen=True)
class Vocabulary:
    """The elements of a model, in the order of its type channels, and its largest number of atoms."""

    name: str
    atomic_numbers: tuple[int, ...]
    max_atoms: int

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols in the order of the type channels."""
        return tuple(SYMBOLS[z - 1] for z in self.atomic_numbers)

    def __len__(self) -> int:
        return len(self.atomic_numbers)


QM9 = Vocabulary("QM9", qm9.ELEMENTS, qm9.MAX_ATOMS)


@dataclass(frozen=True)
class BondTable:
    """A table of typical bond lengths, which gives the order of a bond by the distance of its atoms.

    A pair at distance d (picometre) is bonded with order 1 if d < single + 10; that bond is double if also
    d < double + 5, and that triple if also d < triple + 3. The margins were tuned by the authors of E-NF so that most
    molecules of QM9 are stable.
    """

    source: str
    lengths: Mapping[int, Mapping[tuple[str, str], int]]
    """Order -> pair of symbols -> length in picometre; each pair once."""
    margins: Mapping[int, int]
    """Order -> picometre by which a bond may be longer than the typical length."""

    @cached_property
    def typical(self) -> Float64[np.ndarray, "order z z"]:
        """The typical length in picometre of a pair with the order; NaN where there is no such bond."""
        length = np.full((max(self.lengths) + 1, len(SYMBOLS) + 1, len(SYMBOLS) + 1), np.nan)
        for order, pairs in self.lengths.items():
            for (a, b), each in pairs.items():
                i, j = ATOMIC_NUMBERS[a], ATOMIC_NUMBERS[b]
                length[order, i, j] = length[order, j, i] = each
        return length

    @cached_property
    def thresholds(self) -> Float64[np.ndarray, "order z z"]:
        """The distance in angstrom below which a pair has at least the order; 0 where there is no such bond."""
        margins = np.array([self.margins.get(order, 0) for order in range(len(self.typical))])
        limit: np.ndarray = np.nan_to_num((self.typical + margins[:, None, None]) / 100)
        return limit

    def fractional_orders(
        self, atomic_numbers: Integer[np.ndarray, " N"], distances: Float[np.ndarray, "N N"]
    ) -> Float[np.ndarray, "N N"]:
        """Return the orders of bonds (N, N), from 1 to 3, interpolated between the typical lengths.

        Args:
            atomic_numbers: (N,).
            distances: (N, N), angstrom; the pairs without a bond have the order of one, too.
        """
        pairs = atomic_numbers[:, None], atomic_numbers[None]
        single, double, triple = (self.typical[order][pairs] / 100 for order in (1, 2, 3))
        above = [(longer - distances) / (longer - shorter) for longer, shorter in ((single, double), (double, triple))]
        found: np.ndarray = 1.0 + sum(np.nan_to_num(each).clip(0, 1) for each in above)
        return found

    def orders(
        self, atomic_numbers: Integer[np.ndarray, "*B N"], positions: Real[np.ndarray, "*B N 3"]
    ) -> Int8[np.ndarray, "*B N N"]:
        """Return bond orders (..., N, N) of atoms (..., N) at positions (..., N, 3) in angstrom; the diagonal is 0."""
        separation = positions[..., :, None, :] - positions[..., None, :, :]
        distance = np.sqrt(np.einsum("...i,...i->...", separation, separation))
        n_atoms = atomic_numbers.shape[-1]
        distance[..., np.arange(n_atoms), np.arange(n_atoms)] = np.inf
        passes = np.isfinite(distance)
        orders = np.zeros(distance.shape, dtype=np.int8)
        for order in sorted(self.lengths):
            limit = self.thresholds[order][atomic_numbers[..., :, None], atomic_numbers[..., None, :]]
            passes &= distance < limit
            orders += passes
        return orders


STABILITY_TABLE = BondTable(
    source="E-NF (Satorras et al. 2021), qm9/analyze.py; the same entries in EDM (Hoogeboom et al. 2022), "
    "qm9/bond_analyze.py",
    lengths={
        1: {
            ("H", "H"): 74, ("H", "C"): 109, ("H", "N"): 101, ("H", "O"): 96, ("H", "F"): 92,
            ("C", "C"): 154, ("C", "N"): 147, ("C", "O"): 143, ("C", "F"): 135,
            ("N", "N"): 145, ("N", "O"): 140, ("N", "F"): 136,
            ("O", "O"): 148, ("O", "F"): 142, ("F", "F"): 142,
        },
        2: {
            ("C", "C"): 134, ("C", "N"): 129, ("C", "O"): 120,
            ("N", "N"): 125, ("N", "O"): 121, ("O", "O"): 121,
        },
        3: {("C", "C"): 120, ("C", "N"): 116, ("C", "O"): 113, ("N", "N"): 110},
    },
    margins={1: 10, 2: 5, 3: 3},
)  # fmt: skip
"""The table behind every published atom and molecule stability on QM9."""
