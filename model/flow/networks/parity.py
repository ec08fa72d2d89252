"""The probabilities of the types of atoms, given that a molecule has an even number of electrons.

A closed-shell molecule has an even number of odd atoms (H, N, F). A network that classifies atoms one by one learns
this parity of all atoms badly, but it can be computed. If the types of the other atoms are independent, their number
of odd atoms is even with log odds

    2 artanh prod_j tanh(l_j / 2),   l_j = log odds that atom j is even

(the check node of low-density parity-check codes; Gallager 1962). By Bayes' rule these odds are multiplied by the odds
of atom i itself. If all other atoms are certain, the parity of the last atom follows; with two uncertain atoms little
changes.
"""

import math

import torch
from torch import Tensor

SOFT = 0.02
"""The log odds below which an atom counts as undecided, so that the sign of a product is a smooth function."""

SURE = 20.0
"""The log odds, nats, above which all values are treated as equal."""


def condition_on_parity(logits: Tensor, mask: Tensor, odd: Tensor) -> Tensor:
    """Return the logits of the types of every atom, given that the number of odd atoms is even.

    Args:
        logits: the logits of each atom without the condition, (B, N, F).
        mask: True for real atoms, (B, N).
        odd: True for the odd types, (F,); some of the types, not all.
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
    """Return -log tanh(x / 2), which is its own inverse, accurately for small and large x.

    tanh(x / 2) (1 + e^-x) stands for 1 - e^-x, because compiled code of torch 2.13 finds expm1(x) = 0 for a small x.
    """
    decayed = torch.exp(-x)
    return torch.log1p(2.0 * decayed / (torch.tanh(0.5 * x) * (1.0 + decayed)))
