"""Flow matching: the coupling of noise with molecules, and the regression loss of the velocity."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor

from enflow.model.config import STRICT, config_errors
from enflow.model.flow.coupling import shortest_transport
from enflow.model.flow.dynamics import centre_velocity
from enflow.model.flow.geometry import centre, pair_mask, squared_distances
from enflow.model.flow.networks.egnn import DISTANCE_EPS
from enflow.model.flow.velocity import Velocity


@config_errors
@config_dataclass(frozen=True, config=STRICT)
class MatchingConfig:
    """Settings of flow matching.

    Attributes:
        transport: rounds of optimal transport that couple noise with a molecule (see `couple`).
        rotations: orientations of the noise from which transport begins; the shortest path is taken.
        time_power: density of the times is proportional to t^time_power.
        late_share: share of the times that have another density, for which log(1 - t) is uniform in `LATE_TIMES`. The
            bound of a diffusion model weighs squared errors by t / (1 - t) (Kingma et al. 2021).
        distance_weight: weight of the error of pair distances, relative to that of the velocity.
    """

    transport: NonNegativeInt = 1
    rotations: PositiveInt = 1
    time_power: NonNegativeFloat = 1.0
    late_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    distance_weight: NonNegativeFloat = 0.0


LATE_TIMES = 0.9, 0.999
"""The first and the last of the times that `late_share` adds."""


def draw_times(n: int, matching: MatchingConfig, rng: np.random.Generator) -> Tensor:
    """Draw n times with the density of the configuration, float32 (n,)."""
    t = rng.random(n, dtype=np.float32) ** (1.0 / (matching.time_power + 1.0))
    if matching.late_share:
        longest, shortest = np.log1p(-np.array(LATE_TIMES))
        late = -np.expm1(rng.uniform(shortest, longest, n)).astype(np.float32)
        t = np.where(rng.random(n) < matching.late_share, late, t)
    return torch.from_numpy(t)


def even_times(n: int, quarter: int) -> Tensor:
    """Return n times (n,), evenly spaced in a quarter of the time, 0 to 3."""
    return (torch.arange(n) + 0.5) / n * 0.25 + 0.25 * quarter


@dataclass(frozen=True)
class CoupledPairs:
    """Noise x0, h0 coupled to molecules x1, h1.

    Attributes:
        x0, x1: (B, N, 3) angstrom, centred.
        h0, h1: (B, N, F) features.
        centres: (B, N, F) noiseless features of each atom's type.
        mask: (B, N).
    """

    x0: Tensor
    x1: Tensor
    h0: Tensor
    h1: Tensor
    centres: Tensor
    mask: Tensor

    def to(self, device: str) -> "CoupledPairs":
        """Return the pairs on another device."""
        return CoupledPairs(**{name: value.to(device) for name, value in vars(self).items()})


def couple(
    atom_types: NDArray[np.int64],
    positions: NDArray[np.float32],
    corners: NDArray[np.float32],
    sigma: float,
    rng: np.random.Generator,
    rounds: int = 1,
    rotations: int = 1,
) -> CoupledPairs:
    """Draw noise for molecules of one size and couple it by equivariant optimal transport.

    See `coupling.shortest_transport`. It shortens the paths and does not change the target of an equivariant velocity.

    Args:
        atom_types: (B, N) indices into the vocabulary.
        positions: (B, N, 3) angstrom, centred.
        corners: (K, F) noiseless features of each type.
        sigma: standard deviation of the noise that is added to the features.
        rng: source of the noise.
        rounds: number of rounds; each assigns, then rotates. 0 = independent noise.
        rotations: orientations of the noise from which the rounds begin; the shortest path is taken.
    """
    b, n = atom_types.shape
    centres = corners[atom_types]
    h1 = centres + sigma * rng.standard_normal(centres.shape, dtype=np.float32)
    x0 = rng.standard_normal((b, n, 3), dtype=np.float32)
    x0 -= x0.mean(1, keepdims=True)
    h0 = rng.standard_normal(centres.shape, dtype=np.float32)
    x0, h0 = shortest_transport(x0, h0, positions, h1, rounds, rotations, rng)
    return CoupledPairs(*(torch.from_numpy(a) for a in (x0, positions, h0, h1, centres, np.ones((b, n), bool))))


def couple_given(
    atom_types: NDArray[np.int64],
    positions: NDArray[np.float32],
    n_types: int,
    rng: np.random.Generator,
    rounds: int = 1,
    rotations: int = 1,
) -> CoupledPairs:
    """Draw noise for molecules of one size with given types, and couple it by equivariant optimal transport.

    The method is that of `couple`, except that noise is only exchanged between atoms of one type: given the types, the
    distribution is invariant under permutations within a type alone. With free exchange carbon atoms would always get
    the innermost noise, which then is not normal.

    Args:
        atom_types: (B, N) indices into the vocabulary.
        positions: (B, N, 3) angstrom, centred.
        n_types: size of the vocabulary.
        rng: source of the noise.
        rounds: number of rounds; each assigns, then rotates. 0 = independent noise.
        rotations: orientations of the noise from which the rounds begin; the shortest path is taken.
    """
    b, n = atom_types.shape
    x0 = rng.standard_normal((b, n, 3), dtype=np.float32)
    x0 -= x0.mean(1, keepdims=True)
    none = np.empty((b, n, 0), np.float32)
    foreign = atom_types[:, :, None] != atom_types[:, None, :]
    x0, _ = shortest_transport(x0, none, positions, none, rounds, rotations, rng, foreign)
    types = np.eye(n_types, dtype=np.float32)[atom_types]
    return CoupledPairs(*(torch.from_numpy(a) for a in (x0, positions, types, types, types, np.ones((b, n), bool))))


class VelocityErrors(NamedTuple):
    """Squared errors (B,) of the velocity of positions and of features, per atom, and of distances, per pair."""

    x: Tensor
    h: Tensor
    distances: Tensor


CLOSEST = 0.05
"""Least value of 1 - t by which the error of the distances is divided."""


def flow_matching_loss(velocity: Velocity, pairs: CoupledPairs, t: Tensor, sigma: float | None) -> VelocityErrors:
    """Return the squared errors of the velocity at times t.

    The target of the positions is x1 - x0. The target of the features is the mean of h1 - h0 given h_t and the type of
    the atom: it has the same minimiser as h1 - h0 and less variance, because the noise around the centre of a type,
    which cannot be predicted, is integrated out. The distances are those of the predicted end point x_t + (1 - t) v;
    their error is divided by 1 - t.

    Args:
        velocity: the velocity (t, x, h, mask) -> (dx, dh).
        pairs: coupled noise and molecules.
        t: (B,) times.
        sigma: standard deviation of the features' noise; None = the types are given and the features have no loss.
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
