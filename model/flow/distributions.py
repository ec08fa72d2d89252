"""The base distributions of a flow and the prior of the number of atoms; padding has no effect."""

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from enflow.model.errors import VocabularyError
from enflow.model.flow.arguments import SizeRange
from enflow.model.flow.geometry import centre
from enflow.model.flow.noise import padded_normal

LOG_2PI = math.log(2.0 * math.pi)


class CenteredGaussian:
    """The standard normal on the subspace of zero centre of mass, which has (N - 1) n_dims dimensions.

    log p(x) = -|x|^2 / 2 - (N - 1) n_dims / 2 log 2 pi  (Köhler, Klein, Noé 2020; Satorras et al. 2021, section 4).

    Args:
        n_dims: the number of dimensions of space.
    """

    def __init__(self, n_dims: int = 3) -> None:
        self.n_dims = n_dims

    def log_prob(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, " B"]:
        """Return the log-density of centred positions with zero padding, nats per molecule."""
        dimensions = self.n_dims * (mask.sum(-1) - 1).clamp_min(0).to(x)
        return -0.5 * (x.square().sum((-2, -1)) + LOG_2PI * dimensions)

    def sample(self, mask: Bool[Tensor, "B N"], generators: Sequence[Generator]) -> Float[Tensor, "B N D"]:
        """Return positions drawn with one generator per molecule, float64 on the CPU."""
        return centre(padded_normal(mask, self.n_dims, generators), mask.cpu())


class FeatureGaussian:
    """The standard normal of every feature of every real atom.

    log p(h) = -|h|^2 / 2 - N n_features / 2 log 2 pi.

    Args:
        n_features: the number of features per atom, F.
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features

    def log_prob(self, h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, " B"]:
        """Return the log-density of features with zero padding, nats per molecule."""
        return -0.5 * (h.square().sum((-2, -1)) + LOG_2PI * self.n_features * mask.sum(-1).to(h))

    def sample(self, mask: Bool[Tensor, "B N"], generators: Sequence[Generator]) -> Float[Tensor, "B N F"]:
        """Return features drawn with one generator per molecule, float64 on the CPU."""
        return padded_normal(mask, self.n_features, generators)


class FixedFeatures:
    """The base of features that are given and do not change: they are not drawn and have no density."""

    def log_prob(self, h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, " B"]:  # noqa: ARG002
        """Return zeros, one per molecule."""
        return h.new_zeros(len(h))


class AtomCountPrior(nn.Module):
    """The prior p(N) of the number of atoms, as a table.

    Args:
        log_probs: (max_atoms + 1,) natural logarithms; entry 0 is -inf.
    """

    log_probs: Tensor

    def __init__(self, log_probs: Float[Tensor, " n"]) -> None:
        super().__init__()
        self.register_buffer("log_probs", log_probs)

    @classmethod
    def from_counts(cls, counts: Sequence[int], pseudocount: float = 0.5) -> "AtomCountPrior":
        """Return the prior of a histogram, where `counts[n]` is the number of molecules of n atoms, n = 0 to max_atoms.

        p(n) is proportional to counts[n] + pseudocount for n >= 1. The default of 1/2 (Jeffreys) gives a finite NLL to
        sizes that the data lacks, such as 28 in QM9. It changes other sizes by less than 0.001 nats.
        """
        table = torch.as_tensor(counts, dtype=torch.float64) + pseudocount
        table[0] = 0.0
        return cls((table / table.sum()).log())

    @property
    def max_atoms(self) -> int:
        """The largest number of atoms in the table."""
        return len(self.log_probs) - 1

    def log_prob(self, n_atoms: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the log-probability of each number of atoms, nats.

        Raises:
            VocabularyError: a size outside 1 to max_atoms.
        """
        self.check(n_atoms.tolist())
        return self.log_probs[n_atoms]

    def check(self, sizes: Iterable[int]) -> None:
        """Check numbers of atoms.

        Raises:
            VocabularyError: a size outside 1 to max_atoms.
        """
        for size in sizes:
            if not 1 <= size <= self.max_atoms:
                raise VocabularyError(f"found {size} atoms, expected 1 to {self.max_atoms}")

    def sample(self, source: Generator, above: int = 0, within: SizeRange | None = None) -> int:
        """Return a number of atoms, drawn on the CPU in float64 so that device and dtype do not change it.

        Args:
            source: the generator.
            above: the number is drawn from p(N | N > above).
            within: the number is drawn from p(N | low <= N <= high) too.

        Raises:
            VocabularyError: no number is above it, or none in the range has a probability.
        """
        if above >= self.max_atoms:
            raise VocabularyError(f"found {above} atoms, expected at most {self.max_atoms - 1}, which leaves a place")
        probabilities = self.log_probs.cpu().double().exp()
        probabilities[: above + 1] = 0.0
        if within is not None:
            probabilities[: max(within.low, 0)] = 0.0
            probabilities[max(within.high + 1, 0) :] = 0.0
        if not probabilities.any():
            found = f"found a range of {within.low} to {within.high} atoms" if within else "found no size"
            expected = f"expected a size that the model knows, from {above + 1} to {self.max_atoms}"
            raise VocabularyError(f"{found}, {expected}")
        return int(torch.multinomial(probabilities, 1, generator=source))
