"""The coupling of noise with molecules: which atom of the noise flows to which atom, and how the noise is rotated."""

import numpy as np
from numpy.typing import NDArray

FAR = 1e6
"""Cost of an exchange that is not allowed; larger than any product of positions."""


def transport(
    x0: NDArray[np.floating],
    h0: NDArray[np.floating],
    x1: NDArray[np.floating],
    h1: NDArray[np.floating],
    rounds: int = 1,
    foreign: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return noise that is permuted and rotated onto molecules of the same size, as short paths as possible.

    In each round the noise atoms are assigned to the molecule's atoms by least squared distance over positions and
    features (Hungarian algorithm). Then the noise is rotated or reflected onto the molecule (Kabsch algorithm). Both
    operations change neither the distribution of the noise nor the target of an equivariant velocity (Klein et al.
    2023, Song et al. 2023).

    Args:
        x0, h0: positions (B, N, 3) and features (B, N, F) of the noise.
        x1, h1: positions (B, N, 3), centred, and features (B, N, F) of the molecules.
        rounds: number of rounds; 0 leaves the noise as it is.
        foreign: (B, N, N) True where an atom of the molecule (row) may not get an atom of the noise (column).
    """
    for _ in range(rounds):
        order = assignment(np.concatenate([x0, h0], -1), np.concatenate([x1, h1], -1), foreign)
        x0 = rotate_onto(np.take_along_axis(x0, order, 1), x1)
        h0 = np.take_along_axis(h0, order, 1)
    return x0, h0


def assignment(
    noise: NDArray[np.floating], target: NDArray[np.floating], foreign: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Return the order (B, N, 1) of the noise with the least sum of squared distances (Hungarian algorithm).

    Args:
        noise, target: points (B, N, D).
        foreign: (B, N, N) True where a target (row) may not get a point of the noise (column).
    """
    from scipy.optimize import linear_sum_assignment  # 40 MB, which an engine does without

    cost = -target @ noise.transpose(0, 2, 1)  # the squared distance, up to terms that no permutation changes
    if foreign is not None:
        cost = np.where(foreign, cost.dtype.type(FAR), cost)
    return np.stack([linear_sum_assignment(each)[1] for each in cost])[..., None]


def shortest_transport(
    x0: NDArray[np.floating],
    h0: NDArray[np.floating],
    x1: NDArray[np.floating],
    h1: NDArray[np.floating],
    rounds: int,
    rotations: int,
    rng: np.random.Generator,
    foreign: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the shortest of several transports: of the noise itself, and of the noise after random rotations.

    Args:
        x0, h0, x1, h1, rounds, foreign: see `transport`.
        rotations: number of transports; 1 = `transport` alone.
        rng: source of the rotations.
    """
    best = transport(x0, h0, x1, h1, rounds, foreign)
    for _ in range(rotations - 1):
        other = transport(x0 @ random_rotations(len(x0), x0.shape[-1], rng), h0, x1, h1, rounds, foreign)
        shorter = (_squared_length(*other, x1, h1) < _squared_length(*best, x1, h1))[:, None, None]
        best = np.where(shorter, other[0], best[0]), np.where(shorter, other[1], best[1])
    return best


def random_rotations(n: int, n_dims: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw uniform orthogonal matrices (n, D, D), reflections included (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((n, n_dims, n_dims)))
    rotations: NDArray[np.float32] = (q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]).astype(np.float32)
    return rotations


def _squared_length(
    x0: NDArray[np.floating], h0: NDArray[np.floating], x1: NDArray[np.floating], h1: NDArray[np.floating]
) -> NDArray[np.floating]:
    length: NDArray[np.floating] = ((x1 - x0) ** 2).sum((1, 2)) + ((h1 - h0) ** 2).sum((1, 2))
    return length


def transport_around(
    x0: NDArray[np.floating],
    h0: NDArray[np.floating],
    x1: NDArray[np.floating],
    h1: NDArray[np.floating],
    fragment: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return noise around a fragment that is permuted onto the atoms of a molecule, as short paths as possible.

    The fragment fixes the orientation. But all rotations about a single atom leave it in place, and so do the rotations
    about the axis of two atoms and the reflection at the plane of three: these turn the noise as `transport` does.

    Args:
        x0, h0: positions (F, 3) and features (F, K) of the noise.
        x1, h1: positions (F, 3) and features (F, K) of the atoms.
        fragment: (M, 3) positions of the fragment, whose mean is the origin of all positions.
    """
    from scipy.optimize import linear_sum_assignment

    across = np.linalg.svd(fragment)[2][len(fragment) - 1 :]  # directions in which the fragment has no extent
    for turning in (True, True, False) if len(across) else (False,):
        order = linear_sum_assignment(-x1 @ x0.T - h1 @ h0.T)[1]
        x0, h0 = x0[order], h0[order]
        if turning:
            part = x0 @ across.T
            x0 = x0 + (rotate_onto(part[None], (x1 @ across.T)[None])[0] - part) @ across
    return x0, h0


def rotate_onto(x: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rotate or reflect centred points (B, N, D) onto their targets with least squared distance (Kabsch)."""
    u, _, vt = np.linalg.svd(x.transpose(0, 2, 1) @ target)
    rotated: NDArray[np.floating] = x @ (u @ vt)
    return rotated
