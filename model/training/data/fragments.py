"""Random connected parts of molecules, the given atoms of the training of `FragmentFlow`."""

import numpy as np
from numpy.typing import NDArray

from enflow.model.chem.connectivity import joined

MAX_HEAVY = 8
"""The largest number of heavy atoms of a fragment."""

BARE = 0.5
"""The probability that an atom with a bond that is cut loses its hydrogen atoms."""


def random_fragment(
    atomic_numbers: NDArray[np.int64], positions: NDArray[np.floating], rng: np.random.Generator
) -> NDArray[np.bool_]:
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
    bare = cut & (rng.random(len(cut)) < BARE)
    whole: NDArray[np.bool_] = part | (~heavy & bonds[part & ~bare].any(0))
    return part if whole.all() and not part.all() else _without_one(whole, rng)


def _without_one(part: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a part that is not the whole molecule: without a random atom if it is."""
    if part.all():
        part = part.copy()
        part[rng.integers(len(part))] = False
    return part
