"""The prior of the atoms around a fragment: a Gaussian in front of the open bonds of the fragment."""

import math

import numpy as np
from numpy.typing import NDArray

from enflow.model.chem.connectivity import joined, open_valences

REACH = 1.2
"""Distance in angstrom between an atom with an open bond and the place in front of it, for one neighbour."""

RADIUS = 2.0
"""Distance in angstrom between a single atom and the mean of the others."""

Positions = NDArray[np.floating]


def front(atomic_numbers: NDArray[np.int64], positions: Positions) -> Positions:
    """Return the place in front of the open bonds of a fragment, relative to its mean position, (3,).

    It is the mean over atoms j, weighted by the valence that each lacks, of x_j + REACH sum over k of (x_j - x_k) /
    |x_j - x_k|, for the neighbours k of the atom. If no atom lacks any, it is the mean position of the fragment.

    Args:
        atomic_numbers: (M,).
        positions: (M, 3), angstrom.
    """
    x, bonds = positions - positions.mean(0), joined(atomic_numbers, positions)
    apart = x[:, None] - x[None]
    away = apart / np.where(bonds, np.linalg.norm(apart, axis=-1), np.inf)[..., None]
    weights = open_valences(atomic_numbers, positions, bonds).astype(x.dtype)
    total = weights.sum()
    place: Positions = weights @ (x + REACH * away.sum(1)) / (total if total > 0 else 1.0)
    return place


def noise_around(noise: Positions, atomic_numbers: NDArray[np.int64], positions: Positions) -> Positions:
    """Return the other atoms at t = 0, relative to the mean position of the fragment, (F, 3).

    A single atom has no direction: the others lie at the distance RADIUS in a random one.

    Args:
        noise: (F + 1, 3) standard normal; the last row has the direction.
        atomic_numbers: (M,) of the fragment.
        positions: (M, 3) of the fragment, angstrom.
    """
    alone = len(positions) == 1
    middle = RADIUS * noise[-1] / np.linalg.norm(noise[-1]) if alone else front(atomic_numbers, positions)
    moved: Positions = noise[:-1] + middle.astype(noise.dtype)
    return moved


def log_density(x: Positions, atomic_numbers: NDArray[np.int64], positions: Positions) -> float:
    """Return the logarithm of the density of `noise_around`, nats.

    Around a single atom it is that of a Gaussian, averaged over the directions u of its mean: with k = RADIUS |sum x_i|

        log p(x) = sum over i of log N(x_i; 0, 1)  -  F RADIUS^2 / 2  +  log (sinh k / k)

    Args:
        x: (F, 3) positions of the other atoms, relative to the mean position of the fragment.
        atomic_numbers: (M,) of the fragment.
        positions: (M, 3) of the fragment, angstrom.
    """
    constant = 1.5 * len(x) * math.log(2.0 * math.pi)
    if len(positions) > 1:
        return float(-0.5 * np.square(x - front(atomic_numbers, positions)).sum() - constant)
    k = max(RADIUS * float(np.linalg.norm(x.sum(0))), 1e-9)
    mean = k + math.log(-math.expm1(-2.0 * k) / (2.0 * k))
    return float(-0.5 * np.square(x).sum() - constant - 0.5 * len(x) * RADIUS**2 + mean)
