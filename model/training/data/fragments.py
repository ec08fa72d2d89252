"""Random connected parts of molecules, the given atoms of the training of `FragmentFlow`."""

import numpy as np
from numpy.typing import NDArray

from enflow.model.chem.connectivity import joined

MAX_HEAVY = 8
"""The largest number of heavy atoms of a fragment."""

BARE = 0.5
"""The probability that an atom with a bond that is cut loses its hydrogen atoms."""

TWO = 0.5
"""The probability that two parts are given, where a molecule has two without a bond between them."""

Flags = NDArray[np.bool_]


def random_fragments(
    atomic_numbers: NDArray[np.int64], positions: NDArray[np.floating], rng: np.random.Generator
) -> Flags:
    """Return True for the atoms of one random part of a molecule, or of two without a bond between them, (N,).

    The first part is that of `random_fragment`. The second one grows among the heavy atoms that are neither in the
    first one nor bonded to it. Arguments and errors are those of `random_fragment`.
    """
    heavy, bonds = _checked(atomic_numbers, positions)
    first = _grown(heavy, bonds, rng)
    apart = heavy & ~first & ~bonds[first].any(0)
    if rng.random() >= TWO or not apart.any():
        return _without_one(_with_hydrogens(first, heavy, bonds, rng), rng)
    second = _grown(apart, bonds, rng)
    return _with_hydrogens(first, heavy, bonds, rng) | _with_hydrogens(second, heavy, bonds, rng)


def random_fragment(
    atomic_numbers: NDArray[np.int64], positions: NDArray[np.floating], rng: np.random.Generator
) -> Flags:
    """Return True for the atoms of a random connected part of a molecule, (N,); one atom or more, not all.

    The part has one to eight heavy atoms and grows from a random one along bonds. Its atoms keep their hydrogen atoms,
    except half of those with a bond that is cut: a fragment grows in the place of one hydrogen atom, or of all.

    Args:
        atomic_numbers: (N,).
        positions: (N, 3), angstrom.
        rng: source of the choices.

    Raises:
        ValueError: the molecule has one atom, or no heavy atom.
    """
    heavy, bonds = _checked(atomic_numbers, positions)
    return _without_one(_with_hydrogens(_grown(heavy, bonds, rng), heavy, bonds, rng), rng)


def _checked(atomic_numbers: NDArray[np.int64], positions: NDArray[np.floating]) -> tuple[Flags, Flags]:
    """Return the flags of the heavy atoms, (N,), and of the bonds, (N, N)."""
    heavy = atomic_numbers > 1
    if len(heavy) < 2 or not heavy.any():
        raise ValueError(f"found the atomic numbers {atomic_numbers.tolist()}, expected a heavy atom and another one")
    return heavy, joined(atomic_numbers, positions)


def _grown(among: Flags, bonds: Flags, rng: np.random.Generator) -> Flags:
    """Return a connected part of random size that grows from a random atom, both of the given ones."""
    size = int(rng.integers(1, min(MAX_HEAVY, among.sum()) + 1))
    part = np.zeros(len(among), bool)
    part[rng.choice(np.flatnonzero(among))] = True
    while part.sum() < size:
        edge = np.flatnonzero(bonds[part].any(0) & among & ~part)
        if not len(edge):
            break
        part[rng.choice(edge)] = True
    return part


def _with_hydrogens(part: Flags, heavy: Flags, bonds: Flags, rng: np.random.Generator) -> Flags:
    """Return a part with its hydrogen atoms, except those of some atoms with a bond that is cut."""
    cut = part & (bonds & heavy & ~part).any(1)
    bare = cut & (rng.random(len(cut)) < BARE)
    whole: Flags = part | (~heavy & bonds[part & ~bare].any(0))
    return part if whole.all() and not part.all() else whole


def _without_one(part: Flags, rng: np.random.Generator) -> Flags:
    """Return a part that is not the whole molecule: without a random atom if it is."""
    if part.all():
        part = part.copy()
        part[rng.integers(len(part))] = False
    return part
