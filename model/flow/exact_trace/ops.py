"""The Jacobian-vector products of the operations in equivariant networks, for exact traces.

A trace takes one direction per dimension of the molecule, 141 for 18 atoms. Torch's jvp under vmap differentiates every
operation in every direction. Here, factors that do not depend on the direction (derivatives of activations and of
distance features) are computed once, and maps that are linear in the atoms are applied to atoms, not pairs. One matrix
product per direction and pair remains, with the second matrix of a message. This is 3 to 4 times as fast (float32, one
thread, 7 to 18 atoms).

Tangents of atoms have Q directions after the atoms: features (B, N, Q, S), positions (B, N, Q, D), vectors
(B, N, D, Q, K).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from enflow.model.flow.networks.egnn import DISTANCE_EPS, RadialBasis
from enflow.model.flow.networks.inference_ops import linear_map


class Distances(NamedTuple):
    """The distances of all pairs (B, N, N, ...).

    Attributes:
        relative: x_i - x_j.
        d: the length of x_i - x_j.
        direction: the unit vector of x_i - x_j.
        features: the radial features of d.
        slopes: the derivatives of the features by d.
    """

    relative: Tensor
    d: Tensor
    direction: Tensor
    features: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, x: Tensor, basis: RadialBasis) -> "Distances":
        """Return the distances of positions x (B, N, D)."""
        relative = x.unsqueeze(-2) - x.unsqueeze(-3)
        d = torch.sqrt(relative.square().sum(-1) + DISTANCE_EPS)
        features = basis(d.square() - DISTANCE_EPS, d)
        return cls(relative, d, relative / d.unsqueeze(-1), features, basis.slopes(d))

    def feature_jacobian(self, weight: Tensor) -> Tensor:
        """Return the Jacobian of weight @ features by x_i - x_j, (B, N, N, D, E)."""
        return self.direction.unsqueeze(-1) * (self.slopes @ weight.mT).unsqueeze(-2)

    def direction_jacobian(self, pairs: Tensor) -> Tensor:
        """Return the Jacobian of u = pairs (x_i - x_j) / (d + 1) by x_i - x_j, (B, N, N, D, D)."""
        share = (pairs / (self.d + 1.0))[..., None, None]
        identity = torch.eye(self.relative.shape[-1], dtype=self.d.dtype, device=self.d.device)
        along = self.direction.unsqueeze(-1) * self.relative.unsqueeze(-2)
        return share * (identity - along / (self.d + 1.0)[..., None, None])


class Messages:
    """The messages m_ij = p_ij g(e) e, where e = silu(W silu(a) + b) and g is the gate or 1.

    Args:
        message: the linear map W, b.
        gate: the linear map of the gate; None = no gate.
        before: a, (B, N, N, E).
        pairs: the pair weights p, (B, N, N).
    """

    def __init__(self, message: nn.Linear, gate: nn.Linear | None, before: Tensor, pairs: Tensor) -> None:
        after = message(silu(before))
        e = silu(after)
        self._matrix = message.weight
        self._slopes = silu_derivative(before).unsqueeze(-2), silu_derivative(after).unsqueeze(-2)
        self.weights = pairs if gate is None else pairs * torch.sigmoid(gate(e).squeeze(-1))
        self.values = self.weights.unsqueeze(-1) * e
        self._gate = None if gate is None else gate.weight[0]
        # The derivative of m by the logit of the gate; 0 where p is 0.
        self._gate_jacobian = (1.0 - self.weights).unsqueeze(-1) * self.values

    def activation_jvp(self, before: Tensor) -> Tensor:
        """Return the tangents of e, given the tangents of a, (B, N, N, Q, E), which are overwritten."""
        return linear_map(before.mul_(self._slopes[0]), self._matrix).mul_(self._slopes[1])

    def response(self, e: Tensor, kernel: Tensor) -> Tensor:
        """Return kernel_ij . dm_ij, (B, N, N, Q), given the tangents of e and kernels (B, N, N, E)."""
        along = self.weights.unsqueeze(-1) * kernel
        if self._gate is not None:
            along = along + (self._gate_jacobian * kernel).sum(-1, keepdim=True) * self._gate
        return (e @ along.unsqueeze(-1)).squeeze(-1)

    def weighted_sum_jvp(self, e: Tensor, shares: Tensor) -> Tensor:
        """Return sum_j shares_ij dm_ij, (B, N, C, Q, E), given the tangents of e and shares (B, N, N, C)."""
        b, n, _, q, width = e.shape
        total = ((shares * self.weights.unsqueeze(-1)).mT @ e.view(b, n, n, q * width)).view(b, n, -1, q, width)
        if self._gate is None:
            return total
        logits = (e @ self._gate).mT  # (B, N, Q, N)
        jacobian = shares.unsqueeze(-1) * self._gate_jacobian.unsqueeze(-2)  # (B, N, N, C, E)
        return total.add_((logits @ jacobian.flatten(-2)).view(b, n, q, -1, width).transpose(2, 3))


def silu_derivative(values: Tensor) -> Tensor:
    """Return the derivative of silu."""
    gate = torch.sigmoid(values)
    return gate * (1.0 + values * (1.0 - gate))


def pair_sums(receive: Tensor, send: Tensor, shares: Tensor) -> Tensor:
    """Return sum_C shares_ij (receive_i + send_j): (B, N, C, Q, E) twice, (B, N, N, C) -> (B, N, N, Q, E)."""
    b, n, _, q, width = receive.shape
    pairs = shares @ receive.flatten(-2)
    pairs += (shares.transpose(1, 2) @ send.flatten(-2)).transpose(1, 2)
    return pairs.view(b, n, n, q, width)


def add_displacements(pairs: Tensor, moves: Tensor, kernel: Tensor) -> Tensor:
    """Return pairs_ij + (moves_i - moves_j) kernel_ij: (B, N, N, Q, E), moves (B, N, Q, D), kernel (B, N, N, D, E)."""
    difference = moves.unsqueeze(2) - moves.unsqueeze(1)
    pairs.flatten(0, 2).baddbmm_(difference.flatten(0, 2), kernel.flatten(0, 2))
    return pairs


def contract_displacements(moves: Tensor, kernel: Tensor) -> Tensor:
    """Return sum_j (moves_i - moves_j) kernel_ij: (B, N, Q, D), (B, N, N, D, C) -> (B, N, Q, C)."""
    b, n, q, d = moves.shape
    others = moves.transpose(1, 2).reshape(b, q, n * d) @ kernel.permute(0, 2, 3, 1, 4).reshape(b, n * d, -1)
    return moves @ kernel.sum(2) - others.view(b, q, n, -1).transpose(1, 2)


def layer_norm_jvp(norm: nn.Module, s: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the map of tangents by a layer norm at s (B, N, S)."""
    if isinstance(norm, nn.Identity):
        return lambda ds: ds
    assert isinstance(norm, nn.LayerNorm), "the networks have no other norm"
    centred = s - s.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + norm.eps)
    # The output is invariant to the mean and the length of s.
    invariant = torch.stack([torch.ones_like(s), centred * scale], -1)
    gain = (scale * norm.weight).unsqueeze(-2)
    return lambda ds: (ds - (ds @ invariant / s.shape[-1]) @ invariant.mT).mul_(gain)
