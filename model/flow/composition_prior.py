"""p(types | N): which composition a molecule of N atoms has, and which atom is which element."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import one_hot

RADIX = 1 << 10
"""Of the code of a composition: more atoms of one element than any molecule here has."""

MOST_TYPES = 6
"""Whose code fits 63 bits."""


class CompositionPrior(nn.Module):
    """A table of the compositions (n_1, ..., n_K) seen in training, and a share of one molecule for all others.

    log P(types | N) = log p(n_1, ..., n_K | N) + sum_k log n_k! - log N!, with
    p(n | N) = (count(n) + 1 / M_N) / (count(N) + 1), where M_N = (N + K - 1 over K - 1) compositions of N atoms exist:
    exact, and positive everywhere. The factorials are for the arrangements of a composition, all as likely.

    Args:
        n_types: elements of the vocabulary, K.
        capacity: compositions that the table can hold; unused entries have count 0.
    """

    codes: Tensor
    counts: Tensor

    def __init__(self, n_types: int, capacity: int) -> None:
        super().__init__()
        assert n_types <= MOST_TYPES, "a code has 63 bits"
        self.n_types = n_types
        self.register_buffer("codes", torch.full((capacity,), -1, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(capacity, dtype=torch.int64))

    def count(self, compositions: Int[Tensor, "M K"]) -> None:
        """Fill the table with the compositions of training molecules.

        Raises:
            ValueError: there are more than it can hold.
        """
        codes, counts = map(torch.from_numpy, np.unique(self._code(compositions).numpy(), return_counts=True))
        if len(codes) > len(self.codes):
            raise ValueError(f"found {len(codes)} compositions, expected at most {len(self.codes)}: raise capacity")
        self.codes.fill_(-1)[: len(codes)] = codes.to(self.codes)
        self.counts.fill_(0)[: len(codes)] = counts.to(self.counts)

    def log_prob(self, atom_types: Int[Tensor, "B N"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, " B"]:
        """log P(types | N) of each molecule, nats, float64."""
        compositions = (one_hot(atom_types, self.n_types) * mask.unsqueeze(-1)).sum(1)
        n_atoms = mask.sum(-1)
        known = self._code(compositions).unsqueeze(-1) == self.codes
        seen = (known * self.counts).sum(-1).double()
        of_size = ((self._sizes() == n_atoms.unsqueeze(-1)) * self.counts).sum(-1).double()
        possible = torch.tensor([self._possible(int(n)) for n in n_atoms], dtype=torch.float64, device=seen.device)
        log_p = torch.log(seen + 1 / possible) - torch.log1p(of_size)
        arrangements = torch.lgamma(n_atoms.double() + 1) - torch.lgamma(compositions.double() + 1).sum(-1)
        return log_p - arrangements

    def sample(self, n_atoms: int, source: Generator) -> list[int]:
        """A composition of so many atoms, drawn on the CPU."""
        here = (self._sizes() == n_atoms).cpu() & (self.counts.cpu() > 0)
        codes, counts = self.codes.cpu()[here], self.counts.cpu()[here].double()
        drawn = int(torch.multinomial(torch.cat([counts, torch.ones(1, dtype=torch.float64)]), 1, generator=source))
        return self._decode(int(codes[drawn])) if drawn < len(codes) else self._any(n_atoms, source)

    def _any(self, n_atoms: int, source: Generator) -> list[int]:
        """Every composition as likely: K - 1 bars among N stars."""
        bars = sorted(torch.randperm(n_atoms + self.n_types - 1, generator=source)[: self.n_types - 1].tolist())
        ends = [-1, *bars, n_atoms + self.n_types - 1]
        return [after - before - 1 for before, after in pairwise(ends)]

    def _possible(self, n_atoms: int) -> int:
        return math.comb(n_atoms + self.n_types - 1, self.n_types - 1)

    def _code(self, compositions: Tensor) -> Tensor:
        powers = torch.tensor([RADIX**k for k in range(self.n_types)], device=compositions.device)
        return (compositions * powers).sum(-1)

    def _decode(self, code: int) -> list[int]:
        return [code // RADIX**k % RADIX for k in range(self.n_types)]

    def _sizes(self) -> Tensor:
        """Atoms of each entry of the table; what is unused has none."""
        powers = torch.tensor([RADIX**k for k in range(self.n_types)], device=self.codes.device)
        return (self.codes.clamp_min(0).unsqueeze(-1) // powers % RADIX).sum(-1)


def arranged(counts: Sequence[int]) -> Int[Tensor, " N"]:
    """The types of a composition's atoms, ascending: an exchangeable density knows no order."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
