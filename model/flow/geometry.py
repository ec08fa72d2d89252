"""Geometry of padded clouds of atoms: centring, pair distances, masks."""

import torch
from torch import Tensor


def centre(x: Tensor, mask: Tensor) -> Tensor:
    """Project positions onto the subspace of zero centre of mass; padding rows become exactly zero.

    Args:
        x: positions (B, N, 3).
        mask: (B, N) bool, True = real atom.
    """
    m = mask.unsqueeze(-1).to(x.dtype)
    x = x * m
    return (x - x.sum(-2, keepdim=True) / m.sum(-2, keepdim=True).clamp_min(1.0)) * m


def squared_distances(x: Tensor) -> Tensor:
    """Squared distances of all ordered pairs: (B, N, 3) -> (B, N, N)."""
    x = x.transpose(-1, -2).contiguous()  # a sum over three planes is several times as fast as one over triples
    return (x.unsqueeze(-1) - x.unsqueeze(-2)).square().sum(-3)


def pair_mask(mask: Tensor) -> Tensor:
    """True for ordered pairs of two different real atoms: (B, N) -> (B, N, N)."""
    n = mask.shape[-1]
    return mask.unsqueeze(-1) & mask.unsqueeze(-2) & ~torch.eye(n, dtype=torch.bool, device=mask.device)
