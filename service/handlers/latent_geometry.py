"""Geometry of walks through the latent space: matching of atoms, and paths between latents."""

import numpy as np
from numpy.typing import NDArray

from enflow.service.protocol.requests import LatentArrays, Structure

Array = NDArray[np.float64]

ROUNDS = 20
"""Largest number of alternations of assignment and rotation from one start; each lowers the cost."""
MISMATCH = 4.0
"""Penalty of a pair of atoms of different elements, in squared angstrom: an atom keeps its element if one is near."""


def rotation(moving: Array, fixed: Array) -> Array:
    """Return the proper rotation R (3, 3) that minimises |moving @ R - fixed|.

    W. Kabsch, Acta Cryst. A 32, 922 (1976). Reflections are excluded: they turn a molecule into its mirror image.

    Args:
        moving: centred positions (N, 3), in angstrom.
        fixed: centred positions (N, 3), in angstrom.
    """
    u, _, vt = np.linalg.svd(moving.T @ fixed)
    handed = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return np.asarray(u @ handed @ vt)


def match(moving: Structure, fixed: Structure) -> tuple[NDArray[np.int64], Array]:
    """Return the atom of `moving` for each atom of `fixed` (N,), and the rotation (3, 3) of `moving`.

    The cost is the squared distance plus `MISMATCH` between different elements. The result is the best of several
    starts, from each of which optimal assignment and Kabsch rotation alternate.
    """
    x, y = (each.positions - each.positions.mean(axis=0) for each in (moving, fixed))
    penalty = MISMATCH * (moving.atomic_numbers[:, None] != fixed.atomic_numbers[None, :])
    candidates = [_alternate(x, y, start, penalty) for start in _starts(x, y)]
    _, order, rotated = min(candidates, key=lambda each: each[0])
    return order, rotated


def rmsd(moving: Structure, fixed: Structure) -> float:
    """Return the root mean square distance of matched atoms in the best superposition, in angstrom."""
    order, turn = match(moving, fixed)
    x, y = (each.positions - each.positions.mean(axis=0) for each in (moving, fixed))
    return float(np.sqrt(((x[order] @ turn - y) ** 2).sum(axis=1).mean()))


def aligned(latent: LatentArrays, order: NDArray[np.int64], turn: Array) -> LatentArrays:
    """Return a latent with its atoms reordered and rotated; the flow is equivariant, so its molecule rotates too."""
    return LatentArrays(latent.x[order] @ turn, latent.h[order])


def spherical(start: LatentArrays, end: LatentArrays, fraction: float) -> LatentArrays:
    """Return a point on the path between two latents, within the shell where a Gaussian has its mass.

    The direction follows the great circle, the length changes linearly: K. Shoemake, SIGGRAPH 1985; T. White,
    arXiv:1609.04468.

    Args:
        start: the latent at fraction 0.
        end: the latent at fraction 1.
        fraction: the share of the path, 0 to 1.
    """
    a, b = _flat(start), _flat(end)
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b / (lengths[0] * lengths[1]), -1.0, 1.0))
    if np.sin(angle) < 1e-6:  # equal or opposite directions fix no great circle
        return _shaped((1 - fraction) * a + fraction * b, start)
    directions = np.sin((1 - fraction) * angle) * a / lengths[0], np.sin(fraction * angle) * b / lengths[1]
    length = (1 - fraction) * lengths[0] + fraction * lengths[1]
    return _shaped(length * (directions[0] + directions[1]) / np.sin(angle), start)


def _starts(x: Array, y: Array) -> list[Array]:
    """Return the identity, the four proper alignments of the principal axes, and twelve random rotations."""
    u, v = (np.linalg.svd(each, full_matrices=True)[2].T for each in (x, y))
    flips = [np.diag([a, b, a * b * np.linalg.det(u) * np.linalg.det(v)]) for a in (1.0, -1.0) for b in (1.0, -1.0)]
    random = np.random.default_rng(0)
    turns = [rotation(random.standard_normal((3, 3)), np.eye(3)) for _ in range(12)]
    return [np.eye(3), *(u @ flip @ v.T for flip in flips), *turns]


def _alternate(x: Array, y: Array, turn: Array, penalty: Array) -> tuple[float, NDArray[np.int64], Array]:
    from scipy.optimize import linear_sum_assignment  # 40 MB, which most services never need

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
