"""The geometry of padded batches of atoms: centring, pair distances and pair masks."""

import torch
from torch import Tensor


def centre(x: Tensor, mask: Tensor) -> Tensor:
    """Return positions with zero centre of mass; padding becomes exactly zero.

    Args:
        x: positions (B, N, 3).
        mask: (B, N) bool, True for real atoms.
    """
    m = mask.unsqueeze(-1).to(x.dtype)
    x = x * m
    return (x - x.sum(-2, keepdim=True) / m.sum(-2, keepdim=True).clamp_min(1.0)) * m


def full_mask(x: Tensor) -> Tensor:
    """Return the mask of positions without padding, (B, N, D) -> (B, N)."""
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


def squared_distances(x: Tensor) -> Tensor:
    """Return the squared distances of all ordered pairs, (B, N, 3) -> (B, N, N)."""
    x = x.transpose(-1, -2).contiguous()  # a sum over the first of three axes is several times as fast
    return (x.unsqueeze(-1) - x.unsqueeze(-2)).square().sum(-3)


def pair_mask(mask: Tensor) -> Tensor:
    """Return the mask of ordered pairs of two different real atoms, (B, N) -> (B, N, N)."""
    n = mask.shape[-1]
    return mask.unsqueeze(-1) & mask.unsqueeze(-2) & ~torch.eye(n, dtype=torch.bool, device=mask.device)
