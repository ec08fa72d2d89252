"""The prior P(types | N) over the elements of the atoms of a molecule of N atoms."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import one_hot

from enflow.model.errors import ConfigError

RADIX = 1 << 10
"""The base of the code of a composition, above the largest number of atoms of one element."""

MAX_TYPES = 6
"""The largest number of elements for which a code fits into 63 bits."""


class CompositionPrior(nn.Module):
    """A table of the compositions (n_1, ..., n_K) in the training data, and one pseudocount for all others together.

    log P(types | N) = log p(n_1, ..., n_K | N) + sum_k log n_k! - log N!, with
    p(n | N) = (count(n) + 1 / M_N) / (count(N) + 1), where M_N = (N + K - 1 over K - 1) is the number of compositions
    of N atoms. The probability is exact and positive everywhere. All arrangements of a composition are equally likely,
    which gives the factorials.

    Args:
        n_types: the number of elements of the vocabulary, K, at most 6.
        capacity: the number of compositions that the table can hold; unused entries have count 0.

    Raises:
        ConfigError: more elements than a code can hold.
    """

    codes: Tensor
    counts: Tensor

    def __init__(self, n_types: int, capacity: int) -> None:
        super().__init__()
        if n_types > MAX_TYPES:
            raise ConfigError(f"vocabulary: found {n_types} elements, expected at most {MAX_TYPES} if types are given")
        self.n_types = n_types
        self.register_buffer("codes", torch.full((capacity,), -1, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(capacity, dtype=torch.int64))

    def fit(self, compositions: Int[Tensor, "M K"]) -> None:
        """Replace the table by the compositions of training molecules.

        Args:
            compositions: the number of atoms of each element, one row per molecule.

        Raises:
            ValueError: there are more compositions than the capacity.
        """
        codes, counts = map(torch.from_numpy, np.unique(self._code(compositions).numpy(), return_counts=True))
        if len(codes) > len(self.codes):
            raise ValueError(f"found {len(codes)} compositions, expected at most {len(self.codes)}: raise capacity")
        self.codes.fill_(-1)[: len(codes)] = codes.to(self.codes)
        self.counts.fill_(0)[: len(codes)] = counts.to(self.counts)

    def log_prob(self, atom_types: Int[Tensor, "B N"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, " B"]:
        """Return log P(types | N) of each molecule, nats, float64."""
        compositions = (one_hot(atom_types, self.n_types) * mask.unsqueeze(-1)).sum(1)
        n_atoms = mask.sum(-1)
        matches = self._code(compositions).unsqueeze(-1) == self.codes
        seen = (matches * self.counts).sum(-1).double()
        of_size = ((self._sizes() == n_atoms.unsqueeze(-1)) * self.counts).sum(-1).double()
        n_compositions = torch.tensor(
            [self._n_compositions(int(n)) for n in n_atoms], dtype=torch.float64, device=seen.device
        )
        log_p = torch.log(seen + 1 / n_compositions) - torch.log1p(of_size)
        arrangements = torch.lgamma(n_atoms.double() + 1) - torch.lgamma(compositions.double() + 1).sum(-1)
        return log_p - arrangements

    def sample(self, n_atoms: int, source: Generator) -> list[int]:
        """Return a composition of N atoms, drawn on the CPU."""
        of_size = (self._sizes() == n_atoms).cpu() & (self.counts.cpu() > 0)
        codes, counts = self.codes.cpu()[of_size], self.counts.cpu()[of_size].double()
        drawn = int(torch.multinomial(torch.cat([counts, torch.ones(1, dtype=torch.float64)]), 1, generator=source))
        return self._decode(int(codes[drawn])) if drawn < len(codes) else self._sample_uniform(n_atoms, source)

    def _sample_uniform(self, n_atoms: int, source: Generator) -> list[int]:
        """Return any composition of N atoms with equal probability, as K - 1 bars among N stars."""
        bars = sorted(torch.randperm(n_atoms + self.n_types - 1, generator=source)[: self.n_types - 1].tolist())
        ends = [-1, *bars, n_atoms + self.n_types - 1]
        return [after - before - 1 for before, after in pairwise(ends)]

    def _n_compositions(self, n_atoms: int) -> int:
        return math.comb(n_atoms + self.n_types - 1, self.n_types - 1)

    def _code(self, compositions: Tensor) -> Tensor:
        powers = torch.tensor([RADIX**k for k in range(self.n_types)], device=compositions.device)
        return (compositions * powers).sum(-1)

    def _decode(self, code: int) -> list[int]:
        return [code // RADIX**k % RADIX for k in range(self.n_types)]

    def _sizes(self) -> Tensor:
        """Return the number of atoms of each entry of the table; 0 for an unused entry."""
        powers = torch.tensor([RADIX**k for k in range(self.n_types)], device=self.codes.device)
        return (self.codes.clamp_min(0).unsqueeze(-1) // powers % RADIX).sum(-1)


def types_of(counts: Sequence[int]) -> Int[Tensor, " N"]:
    """Return the types of the atoms of a composition, in ascending order."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
