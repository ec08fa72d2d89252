"""Random connected parts of molecules, the given atoms of the training of `FragmentFlow`."""

import numpy as np
from numpy.typing import NDArray

BOND_RADII = {1: 0.31, 6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57}
"""Covalent radii, angstrom (Cordero et al. 2008)."""

BOND_FACTOR = 1.15
"""Two atoms are joined when nearer than the sum of their radii times this, as in `chem.bonds`."""

MAX_HEAVY = 8
"""The largest number of heavy atoms of a fragment."""


def joined(atomic_numbers: NDArray[np.int64], positions: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return True for each pair of atoms with a bond, (N, N)."""
    radii = np.array([BOND_RADII[int(number)] for number in atomic_numbers])
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    close: NDArray[np.bool_] = distances < BOND_FACTOR * (radii[:, None] + radii[None])
    np.fill_diagonal(close, False)
    return close


def random_fragment(
    atomic_numbers: NDArray[np.int64], positions: NDArray[np.floating], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return True for the atoms of a random connected part of a molecule, (N,); one atom or more, not all.

    The part has one to eight heavy atoms and grows from a random one along bonds. Its atoms keep their hydrogen atoms,
    except those with a bond that is cut.

    Args:
        atomic_numbers: (N,).
        positions: (N, 3), angstrom.
        rng: source of the choices.

    Raises:
        ValueError: the molecule has one atom, or no heavy atom.
    """
    heavy, bonds = atomic_numbers > 1, joined(atomic_numbers, positions)
    if len(heavy) < 2 or not heavy.any():
        raise ValueError(f"found the atomic numbers {atomic_numbers.tolist()}, expected a heavy atom and another one")
    size = int(rng.integers(1, min(MAX_HEAVY, heavy.sum()) + 1))
    part = np.zeros(len(heavy), bool)
    part[rng.choice(np.flatnonzero(heavy))] = True
    while part.sum() < size:
        edge = np.flatnonzero(bonds[part].any(0) & heavy & ~part)
        if not len(edge):
            break
        part[rng.choice(edge)] = True
    cut = part & (bonds & heavy & ~part).any(1)
    whole: NDArray[np.bool_] = part | (~heavy & bonds[part & ~cut].any(0))
    return part if whole.all() and not part.all() else _without_one(whole, rng)


def _without_one(part: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a part that is not the whole molecule: without a random atom if it is."""
    if part.all():
        part = part.copy()
        part[rng.integers(len(part))] = False
    return part
