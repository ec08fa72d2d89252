"""A canonical form of a structure: the same for every order of its atoms, position, orientation and mirror image.

The noise of a likelihood is seeded by this form and assigned in its order, so that a structure has one score.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from enflow.model.chem.molecule import Molecule

QUANTUM = 1e-3 * np.sqrt(2.0)
"""Angstrom; distances are rounded to this. It is irrational, so that no decimal number of a file lies on a boundary."""

APART = 0.05
"""Angstrom; an atom nearer than this to a line or plane does not define a direction off it."""


class CanonicalForm(NamedTuple):
    """A structure in canonical order and orientation."""

    molecule: Molecule
    order: Int64[np.ndarray, " N"]
    """The index in the given structure of each atom."""
    key: str
    """A text that seeds the structure's noise."""


def canonical_form(molecule: Molecule, orient: bool = True) -> CanonicalForm:
    """Return the canonical form of a structure.

    The first atom is the one with the smallest invariants (element, sums over distances). Each next one has the
    smallest invariants and distances to those before it. Symmetry-equivalent atoms may swap, which changes nothing.

    Args:
        molecule: the structure, angstrom.
        orient: turn, mirror and centre the positions as well; for densities that are E(3) invariant.

    Returns:
        The form; two forms of one structure agree up to rounding.
    """
    x = molecule.positions - molecule.positions.mean(0)
    numbers = molecule.atomic_numbers
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
    invariants = np.stack([distances.sum(1), distances**2 @ numbers, (numbers / (1.0 + distances)).sum(1)], 1)
    order = _order(numbers, _rounded(invariants), _rounded(distances))
    key = f"{molecule.formula}:{_rounded(numbers @ invariants).tolist()}"
    positions = x[order] @ _frame(x[order]) if orient else molecule.positions[order]
    return CanonicalForm(Molecule(numbers[order], positions), order, key)


def _order(
    numbers: Int64[np.ndarray, " N"], invariants: Int64[np.ndarray, "N K"], distances: Int64[np.ndarray, "N N"]
) -> Int64[np.ndarray, " N"]:
    labels = [(int(z), *row) for z, row in zip(numbers, invariants.tolist(), strict=True)]
    remaining, order = set(range(len(numbers))), list[int]()
    spacing = distances.tolist()
    while remaining:
        chosen = min(remaining, key=lambda atom: (labels[atom], [spacing[atom][other] for other in order]))
        remaining.remove(chosen)
        order.append(chosen)
    return np.array(order, dtype=np.int64)


def _frame(x: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, "3 3"]:
    """Return an orthogonal basis, as columns, that the first atoms off the centre, a line and a plane define."""
    axes: list[Float64[np.ndarray, " 3"]] = []
    for _ in range(3):
        # The unit vectors stand in where all atoms lie in the span of the axes found so far.
        for direction in (*x, *np.eye(3)):
            rest = direction - sum((axis * (axis @ direction) for axis in axes), np.zeros(3))
            length = np.linalg.norm(rest)
            if length > APART:
                axes.append(rest / length)
                break
    return np.stack(axes, 1)


def _rounded(values: Float64[np.ndarray, "*S"]) -> Int64[np.ndarray, "*S"]:
    rounded: Int64[np.ndarray, "*S"] = np.floor(values / QUANTUM).astype(np.int64)
    return rounded
