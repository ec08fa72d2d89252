"""Flow matching: the coupling of noise and molecules, and the regression loss of the velocity."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from enflow.model.flow.dynamics import centre_velocity
from enflow.model.flow.geometry import centre, pair_mask, squared_distances
from enflow.model.flow.networks.egnn import DISTANCE_EPS
from enflow.model.flow.velocity import Velocity


@dataclass(frozen=True)
class MatchingConfig:
    """How noise and molecules are coupled, at what times they are looked at, and what counts.

    Attributes:
        transport: rounds of the coupling's optimal transport (see `couple`).
        time_power: times are uniform^(1 / (time_power + 1)), density proportional to t^time_power.
        distance_weight: of the error of pair distances beside the velocity's.
    """

    transport: int = 1
    time_power: float = 1.0
    distance_weight: float = 0.0


@dataclass(frozen=True)
class CoupledPairs:
    """Source points coupled to target points: x0, x1 (B, N, 3); h0, h1, centres (B, N, F); mask (B, N)."""

    x0: Tensor
    x1: Tensor
    h0: Tensor
    h1: Tensor
    centres: Tensor
    mask: Tensor

    def to(self, device: str) -> "CoupledPairs":
        return CoupledPairs(**{name: value.to(device) for name, value in vars(self).items()})


def couple(
    atom_types: NDArray[np.int64],
    positions: NDArray[np.float32],
    corners: NDArray[np.float32],
    sigma: float,
    rng: np.random.Generator,
    rounds: int = 1,
) -> CoupledPairs:
    """Draw noise for molecules of one size and couple it by equivariant optimal transport.

    Per molecule the noise's atoms are assigned to the molecule's by least squared distance over positions and features
    (Hungarian), then the noise is rotated (O(3)) onto the molecule by Kabsch's method. Both leave the noise's
    distribution and an equivariant velocity's target unchanged and shorten the paths (Klein et al. 2023, Song et al.
    2023).

    Args:
        atom_types: (B, N) indices into the vocabulary.
        positions: (B, N, 3) angstrom, centred.
        corners: (K, F) features of each type, without noise.
        sigma: of the noise of the features.
        rounds: how often both are done, each with the other's last answer; 0 couples independently.
    """
    b, n = atom_types.shape
    centres = corners[atom_types]
    h1 = centres + sigma * rng.standard_normal(centres.shape, dtype=np.float32)
    x0 = rng.standard_normal((b, n, 3), dtype=np.float32)
    x0 -= x0.mean(1, keepdims=True)
    h0 = rng.standard_normal(centres.shape, dtype=np.float32)
    for _ in range(rounds):
        source, target = np.concatenate([x0, h0], -1), np.concatenate([positions, h1], -1)
        cost = -target @ source.transpose(0, 2, 1)  # squared distance up to terms that no permutation changes
        order = np.stack([linear_sum_assignment(c)[1] for c in cost])
        x0 = rotate_onto(np.take_along_axis(x0, order[..., None], 1), positions)
        h0 = np.take_along_axis(h0, order[..., None], 1)
    return CoupledPairs(*(torch.from_numpy(a) for a in (x0, positions, h0, h1, centres, np.ones((b, n), bool))))


FAR = np.float32(1e6)
"""Of atoms that must not be assigned to each other, beyond any product of positions."""


def couple_given(
    atom_types: NDArray[np.int64],
    positions: NDArray[np.float32],
    n_types: int,
    rng: np.random.Generator,
    rounds: int = 1,
) -> CoupledPairs:
    """Draw noise for molecules of one size whose types are given, and couple it by equivariant optimal transport.

    As `couple`, but only atoms of one type may take each other's noise: given the types, molecules are exchangeable
    within a type alone. Were all to share, carbon's noise would always be the innermost, and no longer normal.
    """
    b, n = atom_types.shape
    x0 = rng.standard_normal((b, n, 3), dtype=np.float32)
    x0 -= x0.mean(1, keepdims=True)
    foreign = atom_types[:, :, None] != atom_types[:, None, :]
    for _ in range(rounds):
        cost = np.where(foreign, FAR, -positions @ x0.transpose(0, 2, 1))
        order = np.stack([linear_sum_assignment(c)[1] for c in cost])
        x0 = rotate_onto(np.take_along_axis(x0, order[..., None], 1), positions)
    types = np.eye(n_types, dtype=np.float32)[atom_types]
    return CoupledPairs(*(torch.from_numpy(a) for a in (x0, positions, types, types, types, np.ones((b, n), bool))))


def rotate_onto(x: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rotate or reflect centred clouds (B, N, 3) onto their targets with least squared distance (Kabsch)."""
    u, _, vt = np.linalg.svd(x.transpose(0, 2, 1) @ target)
    rotated: NDArray[np.float32] = x @ (u @ vt)
    return rotated


class VelocityErrors(NamedTuple):
    """Squared errors (B,): of the positions' and features' velocity per atom, of distances per pair."""

    x: Tensor
    h: Tensor
    distances: Tensor


CLOSEST = 0.05
"""Of 1 - t: what divides the error of the distances grows no further."""


def flow_matching_loss(velocity: Velocity, pairs: CoupledPairs, t: Tensor, sigma: float | None) -> VelocityErrors:
    """Squared errors of the velocity at times t (B,).

    The target of the positions is x1 - x0 on the linear path. The target of the features is its conditional mean given
    h_t and the atom's type, not the sample h1 - h0 itself: the same minimiser with less variance, since the noise
    within a type's Gaussian, which nobody can predict, is integrated out (at late times it is most of the loss).
    Without a sigma the types are given, and of the features there is nothing to learn.
    Distances are those of the point x_t + (1 - t) v that the velocity aims at, against the molecule's, over 1 - t.
    """
    s = t[:, None, None]
    x_t = torch.lerp(pairs.x0, pairs.x1, s)
    h_t = torch.lerp(pairs.h0, pairs.h1, s)
    dx, dh = velocity(t, x_t, h_t, pairs.mask)
    n = pairs.mask.sum(-1)
    error_x = (dx - centre(pairs.x1 - pairs.x0, pairs.mask)).square().sum((-2, -1)) / n
    error_h = torch.zeros_like(error_x)
    if sigma is not None:
        error_h = (dh - centre_velocity(t, h_t, pairs.centres, sigma)).square().sum((-2, -1)) / n
    missed = (_distances(x_t + (1.0 - s) * dx) - _distances(pairs.x1)) / (1.0 - s).clamp(min=CLOSEST)
    real = pair_mask(pairs.mask)
    error_d = (missed * real).square().sum((-2, -1)) / real.sum((-2, -1)).clamp(min=1)
    return VelocityErrors(error_x, error_h, error_d)


def _distances(x: Tensor) -> Tensor:
    return torch.sqrt(squared_distances(x) + DISTANCE_EPS)
