"""Geometry of walks through the latent space: which atom becomes which, the way between, noise around."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from enflow.service.protocol.requests import LatentArrays, Structure

Array = NDArray[np.float64]

ROUNDS = 20
"""Alternations of assignment and rotation from one start; each lowers the cost, and a handful is enough."""
MISMATCH = 4.0
"""Squared angstrom added for a pair of atoms of different elements: a carbon should become a carbon if one is near."""


def rotation(moving: Array, fixed: Array) -> Array:
    """The proper rotation R (3, 3) that brings `moving` (N, 3) nearest to `fixed` (N, 3) as moving @ R.

    W. Kabsch, Acta Cryst. A 32, 922 (1976). No reflection: a molecule would become its mirror image.
    """
    u, _, vt = np.linalg.svd(moving.T @ fixed)
    handed = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return np.asarray(u @ handed @ vt)


def match(moving: Structure, fixed: Structure) -> tuple[NDArray[np.int64], Array]:
    """Which atom of `moving` (N,) stands for each atom of `fixed`, and the rotation (3, 3) that goes with it.

    The best over several starts of alternating optimal assignment and Kabsch rotation, on squared distance plus
    `MISMATCH` between elements.
    """
    x, y = (each.positions - each.positions.mean(axis=0) for each in (moving, fixed))
    penalty = MISMATCH * (moving.atomic_numbers[:, None] != fixed.atomic_numbers[None, :])
    candidates = [_alternate(x, y, start, penalty) for start in _starts(x, y)]
    _, order, turn = min(candidates, key=lambda each: each[0])
    return order, turn


def rmsd(moving: Structure, fixed: Structure) -> float:
    """Root mean square distance of matched atoms in angstrom, best superposition."""
    order, turn = match(moving, fixed)
    x, y = (each.positions - each.positions.mean(axis=0) for each in (moving, fixed))
    return float(np.sqrt(((x[order] @ turn - y) ** 2).sum(axis=1).mean()))


def aligned(latent: LatentArrays, order: NDArray[np.int64], turn: Array) -> LatentArrays:
    """A latent with its atoms reordered and turned; the flow is equivariant, so its molecule turns alike."""
    return LatentArrays(latent.x[order] @ turn, latent.h[order])


def spherical(start: LatentArrays, end: LatentArrays, fraction: float) -> LatentArrays:
    """A point on the way from one latent to another, through the shell where a Gaussian has its mass.

    Direction by great circle, length linearly: K. Shoemake, SIGGRAPH 1985; T. White, arXiv:1609.04468.
    """
    a, b = _flat(start), _flat(end)
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b / (lengths[0] * lengths[1]), -1.0, 1.0))
    if np.sin(angle) < 1e-6:  # the same direction, or exactly opposite ones: no great circle, or too many
        return _shaped((1 - fraction) * a + fraction * b, start)
    directions = np.sin((1 - fraction) * angle) * a / lengths[0], np.sin(fraction * angle) * b / lengths[1]
    length = (1 - fraction) * lengths[0] + fraction * lengths[1]
    return _shaped(length * (directions[0] + directions[1]) / np.sin(angle), start)


def perturbed(latent: LatentArrays, scale: float, noise: LatentArrays) -> LatentArrays:
    """A latent near another: sqrt(1 - scale^2) z + scale noise, which leaves a Gaussian a Gaussian."""
    keep = np.sqrt(1 - scale**2)
    return LatentArrays(keep * latent.x + scale * noise.x, keep * latent.h + scale * noise.h)


def fresh(n_atoms: int, n_features: int, seed: int, index: int) -> LatentArrays:
    """A draw from the base: zero-mean positions (N, 3), features (N, F); (seed, index) fixes it."""
    random = np.random.default_rng([seed, index])
    x = random.standard_normal((n_atoms, 3))
    return LatentArrays(x - x.mean(axis=0), random.standard_normal((n_atoms, n_features)))


def _starts(x: Array, y: Array) -> list[Array]:
    """As they stand; the principal axes on each other in the four proper ways; twelve turns at random."""
    u, v = (np.linalg.svd(each, full_matrices=True)[2].T for each in (x, y))
    flips = [np.diag([a, b, a * b * np.linalg.det(u) * np.linalg.det(v)]) for a in (1.0, -1.0) for b in (1.0, -1.0)]
    random = np.random.default_rng(0)
    turns = [rotation(random.standard_normal((3, 3)), np.eye(3)) for _ in range(12)]
    return [np.eye(3), *(u @ flip @ v.T for flip in flips), *turns]


def _alternate(x: Array, y: Array, turn: Array, penalty: Array) -> tuple[float, NDArray[np.int64], Array]:
    order = np.arange(len(x))
    for _ in range(ROUNDS):
        cost = ((x @ turn)[:, None] - y[None, :]) ** 2
        rows, columns = linear_sum_assignment(cost.sum(axis=-1) + penalty)
        found = rows[np.argsort(columns)]
        turn = rotation(x[found], y)
        if np.array_equal(found, order):
            break
        order = found
    squared = ((x[order] @ turn - y) ** 2).sum()
    return float(squared + penalty[order, np.arange(len(y))].sum()), order, turn


def _flat(latent: LatentArrays) -> Array:
    return np.concatenate([latent.x.ravel(), latent.h.ravel()])


def _shaped(flat: Array, like: LatentArrays) -> LatentArrays:
    return LatentArrays(flat[: like.x.size].reshape(like.x.shape), flat[like.x.size :].reshape(like.h.shape))
