"""How the equivariant networks move tangents on: their derivatives by hand, for exact traces.

A trace takes a direction per dimension of the molecule, 141 for 18 atoms. Torch's jvp under vmap differentiates every
operation for all of them; by hand, what does not depend on the direction is computed once (the slopes of activations,
what the features of a distance do as it grows), and what is linear in the atoms is taken on atoms. Per direction and
pair one product remains, with the message's second matrix: 3 to 4 times as fast (float32, one thread, 7 to 18 atoms).

Tangents of atoms hold their Q directions behind the atoms: features (B, N, Q, S), positions (B, N, Q, D), vectors
(B, N, D, Q, K).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.functional import silu

from enflow.model.flow.networks.egnn import DISTANCE_EPS, RadialBasis
from enflow.model.flow.networks.inference_ops import product


class Distances(NamedTuple):
    """Of all pairs (B, N, N, ...): x_i - x_j, its length d and direction, features of d and their derivatives by d."""

    relative: Tensor
    d: Tensor
    direction: Tensor
    features: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, x: Tensor, basis: RadialBasis) -> "Distances":
        """Of positions x (B, N, D)."""
        relative = x.unsqueeze(-2) - x.unsqueeze(-3)
        d = torch.sqrt(relative.square().sum(-1) + DISTANCE_EPS)
        features, slopes = jvp(lambda d: basis(d.square() - DISTANCE_EPS, d), (d,), (torch.ones_like(d),))[:2]
        return cls(relative, d, relative / d.unsqueeze(-1), features, slopes)

    def steepness(self, weight: Tensor) -> Tensor:
        """What weight @ features gains per step of x_i - x_j: (B, N, N, D, E)."""
        return self.direction.unsqueeze(-1) * (self.slopes @ weight.mT).unsqueeze(-2)

    def turning(self, pairs: Tensor) -> Tensor:
        """What u = pairs (x_i - x_j) / (d + 1) gains per step of x_i - x_j: (B, N, N, D, D)."""
        share = (pairs / (self.d + 1.0))[..., None, None]
        straight = torch.eye(self.relative.shape[-1], dtype=self.d.dtype, device=self.d.device)
        along = self.direction.unsqueeze(-1) * self.relative.unsqueeze(-2)
        return share * (straight - along / (self.d + 1.0)[..., None, None])


class Messages:
    """m_ij = p_ij g(e) e, where e = silu(W silu(a) + b) and g is the gate, or 1; `before` is a."""

    def __init__(self, message: nn.Linear, gate: nn.Linear | None, before: Tensor, pairs: Tensor) -> None:
        after = message(silu(before))
        e = silu(after)
        self._matrix = message.weight
        self._slopes = silu_slope(before).unsqueeze(-2), silu_slope(after).unsqueeze(-2)
        self.weights = pairs if gate is None else pairs * torch.sigmoid(gate(e).squeeze(-1))
        self.values = self.weights.unsqueeze(-1) * e
        self._gate = None if gate is None else gate.weight[0]
        self._opening = (1.0 - self.weights).unsqueeze(
            -1
        ) * self.values  # what m gains as the gate's logit grows; 0 at p = 0

    def moved(self, before: Tensor) -> Tensor:
        """Tangents of e from those of a, (B, N, N, Q, E), which are overwritten."""
        return product(before.mul_(self._slopes[0]), self._matrix).mul_(self._slopes[1])

    def response(self, e: Tensor, kernel: Tensor) -> Tensor:
        """kernel_ij . dm_ij, (B, N, N, Q), of tangents of e and kernels (B, N, N, E)."""
        along = self.weights.unsqueeze(-1) * kernel
        if self._gate is not None:
            along = along + (self._opening * kernel).sum(-1, keepdim=True) * self._gate
        return (e @ along.unsqueeze(-1)).squeeze(-1)

    def summed(self, e: Tensor, shares: Tensor) -> Tensor:
        """sum_j shares_ij dm_ij, (B, N, C, Q, E), of tangents of e and shares (B, N, N, C)."""
        b, n, _, q, width = e.shape
        total = ((shares * self.weights.unsqueeze(-1)).mT @ e.view(b, n, n, q * width)).view(b, n, -1, q, width)
        if self._gate is None:
            return total
        opened = (e @ self._gate).mT  # (B, N, Q, N)
        opening = shares.unsqueeze(-1) * self._opening.unsqueeze(-2)  # (B, N, N, C, E)
        return total + (opened @ opening.flatten(-2)).view(b, n, q, -1, width).transpose(2, 3)


def silu_slope(values: Tensor) -> Tensor:
    """The derivative of silu."""
    gate = torch.sigmoid(values)
    return gate * (1.0 + values * (1.0 - gate))


def between(receive: Tensor, send: Tensor, shares: Tensor) -> Tensor:
    """sum over C of shares_ij (receive_i + send_j): (B, N, C, Q, E) twice, (B, N, N, C) -> (B, N, N, Q, E)."""
    b, n, _, q, width = receive.shape
    pairs = shares @ receive.flatten(-2)
    pairs += (shares.transpose(1, 2) @ send.flatten(-2)).transpose(1, 2)
    return pairs.view(b, n, n, q, width)


def displaced(pairs: Tensor, moves: Tensor, kernel: Tensor) -> Tensor:
    """pairs_ij + (moves_i - moves_j) kernel_ij: (B, N, N, Q, E), moves (B, N, Q, D), kernel (B, N, N, D, E)."""
    difference = moves.unsqueeze(2) - moves.unsqueeze(1)
    pairs.flatten(0, 2).baddbmm_(difference.flatten(0, 2), kernel.flatten(0, 2))
    return pairs


def drawn(moves: Tensor, kernel: Tensor) -> Tensor:
    """sum_j (moves_i - moves_j) kernel_ij: (B, N, Q, D), (B, N, N, D, C) -> (B, N, Q, C)."""
    b, n, q, d = moves.shape
    others = moves.transpose(1, 2).reshape(b, q, n * d) @ kernel.permute(0, 2, 3, 1, 4).reshape(b, n * d, -1)
    return moves @ kernel.sum(2) - others.view(b, q, n, -1).transpose(1, 2)


def through_norm(norm: nn.Module, s: Tensor) -> Callable[[Tensor], Tensor]:
    """The derivative of a layer norm at s (B, N, S)."""
    if isinstance(norm, nn.Identity):
        return lambda ds: ds
    assert isinstance(norm, nn.LayerNorm), "the networks know no other"
    centred = s - s.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + norm.eps)
    kept = torch.stack([torch.ones_like(s), centred * scale], -1)  # a step in mean or length changes nothing
    gain = (scale * norm.weight).unsqueeze(-2)
    return lambda ds: (ds - (ds @ kept / s.shape[-1]) @ kept.mT).mul_(gain)
