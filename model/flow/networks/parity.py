"""What each atom is likely to be, given that a molecule has an even number of electrons.

A network that classifies atoms one by one finds it hard to make all of them fit together: of an odd number of odd atoms
(H, N, F) no closed-shell molecule can be made, and that is a parity over all atoms. It can be had exactly. Where the
classes of the others are independent, their number of odd ones is even with log odds

    2 artanh prod_j tanh(l_j / 2),   l_j = log odds that atom j is even

(the check node of low-density parity-check codes; Gallager 1962), and by Bayes' rule atom i is even with these odds
times its own. Where all others are certain, the last atom follows; where two are not, nothing does.
"""

import math

import torch
from torch import Tensor

SOFT = 0.02
"""Log odds below which an atom counts as undecided, so that the sign of a product is a smooth function."""

SURE = 20.0
"""Log odds beyond which nothing more is told apart, in nats."""


def given_parity(logits: Tensor, mask: Tensor, odd: Tensor) -> Tensor:
    """Logits of the types of every atom, given that the odd atoms are even in number.

    Args:
        logits: (B, N, F), of each atom for itself.
        mask: (B, N), the real atoms.
        odd: (F,), the odd types: some, not all.
    """
    own = _logsumexp(logits, ~odd) - _logsumexp(logits, odd)  # l_i
    size = torch.sqrt(own.square() + SOFT**2)
    others = mask.unsqueeze(-2) & ~torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    signs = torch.where(others, (own / size).unsqueeze(-2), 1.0).prod(-1)
    doubts = torch.where(others, _log_tanh(size.clamp(max=SURE)).unsqueeze(-2), 0.0).sum(-1)
    even = signs * _log_tanh(doubts.clamp(min=2.0 * math.exp(-SURE)))
    return logits + torch.where(odd, -0.5 * even.unsqueeze(-1), 0.5 * even.unsqueeze(-1))


def _logsumexp(logits: Tensor, chosen: Tensor) -> Tensor:
    return torch.logsumexp(logits.masked_fill(~chosen, -torch.inf), -1)


def _log_tanh(x: Tensor) -> Tensor:
    """-log tanh(x / 2), its own inverse, accurate for small and large x."""
    return torch.log1p(2.0 / torch.expm1(x))
