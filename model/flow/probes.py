"""Probes of an estimated divergence, in groups whose errors partly cancel: of eight, or of fewer where nodes are few.

e^T J e has the error sum over i != j of e_i e_j J_ij. A group of eight probes e_k, k = 0 ... 7, have the signs
(-1)^|k & c_i| e_i. Here c_i is a code of three bits of coordinate i, and |b| counts the bits of b. The mean of the
products of two coordinates over the eight is 0 where their codes differ. So their errors cancel, as far as J is the
same at the eight times (hierarchical probing: Stathopoulos, Laeuchli and Orginos, SIAM J. Sci. Comput. 35, 2013). Each
of the eight alone has independent random signs, so that the estimate is unbiased whatever the codes are.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Generator, Tensor

from enflow.model.flow.canonical_form import QUANTUM
from enflow.model.flow.divergence import rademacher
from enflow.model.flow.estimator_options import PROBE_NODES
from enflow.model.flow.geometry import centre
from enflow.model.flow.ode.stratified_rule import strata_per_block

ISOTROPIC = 0.1
"""The coupling of coordinates across the line between their atoms, relative to those along it."""

NEAREST = 1e-3
"""The distance, angstrom, below which two atoms count as so near, for instance at the same place."""

SWEEPS = 2
"""The passes over the coordinates that choose a bit; more did not separate them better."""


class Probes(NamedTuple):
    """The noise of one estimated divergence: a probe for each of M nodes and a random offset for every two of them."""

    signs: Float[Tensor, "M N D"]
    offsets: Float[Tensor, " K"]


def draw_probes(source: Generator, positions: Float64[np.ndarray, "N 3"], n_features: int, per_node: int) -> Probes:
    """Return the noise of one draw: random signs and times, on the CPU.

    Args:
        source: the generator of the draw.
        positions: the positions of the atoms at t = 1, which choose the codes.
        n_features: features per atom that the velocity moves.
        per_node: probes per node; there are 32 times as many nodes.
    """
    nodes = PROBE_NODES * per_node
    offsets = torch.rand(nodes // 2, generator=source, dtype=torch.float64)
    strata = strata_per_block(nodes // 4)
    bits, blocks = strata.bit_length(), nodes // (4 * strata)
    mask = torch.ones(2 * blocks, len(positions), dtype=torch.bool)
    drawn = rademacher([source] * len(mask), mask, n_features)
    # A block has several strata, a stratum has two pairs of nodes, and each of the two has signs of its own.
    atoms = drawn.shape[1:]
    shared = _characters(separating_codes(positions, bits), n_features, bits).reshape(1, strata, 1, 2, *atoms)
    signs = (drawn.reshape(blocks, 1, 2, 1, *atoms) * shared).reshape(nodes, *atoms)
    every = torch.ones(signs.shape[:2], dtype=torch.bool)
    signs[..., :3] = centre(signs[..., :3], every)  # the trace is that of the subspace of zero centre of mass
    return Probes(signs, offsets)


def separating_codes(positions: Float64[np.ndarray, "N 3"], bits: int) -> Int64[np.ndarray, "N 3"]:
    """Return a code of some bits for each coordinate, different where two coordinates have a strong coupling.

    The model of a coupling is that of springs between the atoms: strong for near atoms, and along the line between
    them. Each bit divides the coordinates of each code in two, a maximal cut by local search. The couplings are
    rounded, so that copies of a structure that are turned have the same codes.
    """
    n_atoms, n_dims = positions.shape
    relative = positions[:, None] - positions[None]
    distances = np.maximum(np.linalg.norm(relative, axis=-1) + np.eye(n_atoms), NEAREST)[..., None, None]
    along = (relative[..., :, None] * relative[..., None, :] / distances**2) ** 2
    couplings = ((along + ISOTROPIC) / distances**2).transpose(0, 2, 1, 3).reshape(n_atoms * n_dims, -1)
    couplings = np.floor(couplings / QUANTUM)
    np.fill_diagonal(couplings, 0.0)
    codes = np.zeros(len(couplings), dtype=np.int64)
    for bit in range(bits):
        same = couplings * (codes[:, None] == codes)
        sides = np.zeros(len(codes))
        for _ in range(SWEEPS):
            for coordinate, row in enumerate(same):
                sides[coordinate] = -1.0 if row @ sides > 0 else 1.0
        codes += (sides > 0).astype(np.int64) << bit
    return codes.reshape(n_atoms, n_dims)


def _characters(codes: Int64[np.ndarray, "N 3"], n_features: int, bits: int) -> Float[Tensor, "Q N D"]:
    """Return the signs (-1)^|k & c| of 2^bits probes; the features of an atom follow the code of its x."""
    numbers = np.arange(1 << bits)
    features = (codes[:, :1] + 1 + np.arange(n_features)) % len(numbers)
    common = numbers[:, None, None] & np.concatenate([codes, features], 1)
    return torch.from_numpy(1.0 - 2.0 * (np.bitwise_count(common) % 2))
