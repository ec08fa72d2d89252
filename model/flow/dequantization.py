"""Dequantization: a map from discrete atom types to continuous features and back, with a bound on the likelihood.

Let the support of q(h | types, x) lie in the region where `quantize` returns the types. Then
log P(types | x) = log of the integral of p(h | x) over that region >= E_q[log p(h | x) - log q(h | types, x)]
(Hoogeboom et al. 2021, argmax flows; Ho et al. 2019, variational dequantization). The bound is tight if q is the
posterior p(h | types, x).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid, one_hot, softplus

from enflow.model.config import DequantizerConfig, EGNNConfig
from enflow.model.flow.composition_prior import CompositionPrior, types_of
from enflow.model.flow.distributions import LOG_2PI, FeatureGaussian
from enflow.model.flow.geometry import pair_mask
from enflow.model.flow.networks.egnn import EGNN
from enflow.model.flow.noise import normal, padded_normal


class Dequantized(NamedTuple):
    """Continuous features with zero padding, and their log-density under q, nats per molecule."""

    h: Float[Tensor, "B N F"]
    log_q: Float[Tensor, " B"]


class Dequantizer(nn.Module):
    """The base class: features are a deterministic function of types, positions and noise.

    Args:
        config: the kind and its options.
        atomic_numbers: the vocabulary, in the order of the types.
        n_features: the number of features per atom, F.
    """

    random = True
    """False if features are a function of types and positions alone."""

    def __init__(self, config: DequantizerConfig, atomic_numbers: Sequence[int], n_features: int) -> None:
        super().__init__()
        self.config = config
        self.n_types = len(atomic_numbers)
        self.n_features = n_features

    def sample_noise(self, generators: Sequence[Generator], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N F"]:
        """Return noise for `dequantize` by one generator per molecule, float64 on the CPU, with zero padding."""
        return padded_normal(mask, self.n_features, generators)

    def mirrored(self, noise: Float[Tensor, "B N F"]) -> Float[Tensor, "B N F"]:
        """Return the noise mirrored at its centre: it has the same distribution, and cancels errors of the noise."""
        return -noise

    def dequantize(
        self,
        atom_types: Int[Tensor, "B N"],
        x: Float[Tensor, "B N 3"],
        mask: Bool[Tensor, "B N"],
        noise: Float[Tensor, "B N F"],
    ) -> Dequantized:
        """Return features drawn from q(h | types, x) and their log-density.

        Args:
            atom_types: indices into the vocabulary; any valid index in the padding, without effect.
            x: positions, angstrom; their centre has no effect.
            mask: True for real atoms.
            noise: the result of `sample_noise`.
        """
        raise NotImplementedError

    def quantize(self, h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> Int[Tensor, "B N"]:
        """Return the types of features, the largest of the type channels; 0 for padding."""
        return h[..., : self.n_types].argmax(-1) * mask

    def _one_hot(self, atom_types: Tensor, real: Tensor) -> Tensor:
        return one_hot(atom_types, self.n_types).to(real.dtype) * real


class TruncatedGaussian(Dequantizer):
    """A Gaussian q around the corner of each type, truncated to the region where the channel of that type is largest.

    h = scale one-hot(k) + sigma eps given argmax h = k;
    log q = sum over atoms of log N(eps; 0, 1) - K log sigma - log Z, with the probability of the region
    Z = E_u[Phi(scale / sigma + u)^(K - 1)], u ~ N(0, 1). It has no weights, so that flow matching can use it.
    """

    def __init__(self, config: DequantizerConfig, atomic_numbers: Sequence[int]) -> None:
        super().__init__(config, atomic_numbers, len(atomic_numbers))
        self.log_region = _log_region(config.scale / config.sigma, self.n_types)

    def sample_noise(self, generators: Sequence[Generator], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N F"]:
        """Return truncated noise by rejection; channel 0 is the type of the atom, and the others follow cyclically."""
        noise, real = padded_normal(mask, self.n_features, generators), mask.cpu()
        for i in (real & ~self._inside(noise)).any(1).nonzero()[:, 0].tolist():
            while (outside := real[i] & ~self._inside(noise[i])).any():
                noise[i][outside] = normal((int(outside.sum()), self.n_features), generators[i])
        return noise

    def mirrored(self, noise: Float[Tensor, "B N F"]) -> Float[Tensor, "B N F"]:
        """See `Dequantizer.mirrored`; an atom whose mirrored noise lies outside its region keeps its noise."""
        return torch.where(self._inside(-noise)[..., None], -noise, noise)

    def _inside(self, noise: Float[Tensor, "*B F"]) -> Bool[Tensor, "*B"]:
        """Return True for the atoms whose own type has the largest channel."""
        margin = torch.zeros(self.n_types, dtype=noise.dtype, device=noise.device)
        margin[0] = self.config.scale / self.config.sigma
        return (noise + margin).argmax(-1) == 0

    def dequantize(self, atom_types: Tensor, x: Tensor, mask: Tensor, noise: Tensor) -> Dequantized:
        """See `Dequantizer.dequantize`."""
        real = mask.unsqueeze(-1).to(x.dtype)
        channels = torch.arange(self.n_types, device=x.device)
        eps = noise.to(x).gather(-1, (channels - atom_types.unsqueeze(-1)) % self.n_types) * real
        h = self.config.scale * self._one_hot(atom_types, real) + self.config.sigma * eps
        constant = self.n_types * math.log(self.config.sigma) + self.log_region
        return Dequantized(h, FeatureGaussian(self.n_types).log_prob(eps, mask) - constant * mask.sum(-1).to(x))


class Uniform(Dequantizer):
    """A uniform q in a box of side `scale` around the corner of each type: the baseline.

    h = scale (one-hot(k) + u - 1/2), u ~ U(0, 1)^K;  log q = -K log scale per atom.
    """

    def __init__(self, config: DequantizerConfig, atomic_numbers: Sequence[int]) -> None:
        super().__init__(config, atomic_numbers, len(atomic_numbers))

    def sample_noise(self, generators: Sequence[Generator], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N F"]:
        """Return uniform noise in (0, 1)."""
        noise = torch.zeros(*mask.shape, self.n_features, dtype=torch.float64)
        for row, real, source in zip(noise, mask.cpu(), generators, strict=True):
            row[real] = torch.rand(int(real.sum()), self.n_features, generator=source, dtype=torch.float64)
        return noise

    def mirrored(self, noise: Float[Tensor, "B N F"]) -> Float[Tensor, "B N F"]:
        """See `Dequantizer.mirrored`."""
        return 1.0 - noise

    def dequantize(self, atom_types: Tensor, x: Tensor, mask: Tensor, noise: Tensor) -> Dequantized:
        """See `Dequantizer.dequantize`."""
        real = mask.unsqueeze(-1).to(x.dtype)
        h = self.config.scale * (self._one_hot(atom_types, real) + noise.to(x) - 0.5) * real
        return Dequantized(h, -self.n_types * math.log(self.config.scale) * mask.sum(-1).to(x))


class Learned(Dequantizer):
    """A Gaussian q whose mean and width an EGNN predicts from the molecule, mapped into the region of the types.

    u = mean + exp(log_width) eps with (mean, log_width) = EGNN(types, x). The kind decides the map of u to h:
    "argmax" (categorical, one channel per type): in units of sigma, and after a shift by scale one-hot, the channel of
    the true type T = u_k stays, and every other one becomes T - softplus(T - u_j) < T;
    "variational" (ordinal, one channel): atomic number + sigmoid(u);
    "argmax_variational": both; the released model of E-NF has scale 0 and sigma 1.
    (Satorras et al. 2021, section 4; Hoogeboom et al. 2021.)
    """

    atomic_numbers: Tensor

    def __init__(self, config: DequantizerConfig, atomic_numbers: Sequence[int]) -> None:
        self.categorical, self.ordinal = "argmax" in config.kind, "variational" in config.kind
        super().__init__(config, atomic_numbers, feature_count(config.kind, len(atomic_numbers)))
        width = config.node_dim
        plain = EGNNConfig(
            node_dim=width, edge_dim=width, n_layers=config.n_layers, n_radial=0, layer_norm=False, gate=False,
            tanh_range=None, message_scale=1.0,
        )  # fmt: skip
        self.network = EGNN(plain, self.n_features, 2 * self.n_features)
        self.register_buffer("atomic_numbers", torch.tensor(atomic_numbers), persistent=False)

    def posterior(self, atom_types: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-width of u, (B, N, F) each, with zero padding."""
        real = mask.unsqueeze(-1).to(x.dtype)
        outputs, _ = self.network(self._inputs(atom_types, real), x * real, pair_mask(mask).to(x.dtype))
        mean, log_width = (outputs * real).chunk(2, -1)
        return mean, log_width

    def dequantize(self, atom_types: Tensor, x: Tensor, mask: Tensor, noise: Tensor) -> Dequantized:
        """See `Dequantizer.dequantize`."""
        real = mask.unsqueeze(-1).to(x.dtype)
        noise = noise.to(x) * real
        mean, log_width = self.posterior(atom_types, x, mask)
        h, ladj = self._to_region(self._inputs(atom_types, real), mean + log_width.exp() * noise)
        log_q = FeatureGaussian(self.n_features).log_prob(noise, mask)
        return Dequantized(h * real, log_q - ((log_width + ladj) * real).sum((-2, -1)))

    def quantize(self, h: Tensor, mask: Tensor) -> Tensor:
        """Return the largest type channel; for "variational" the type with the atomic number nearest to floor(h)."""
        if self.categorical:
            return super().quantize(h, mask)
        return (h.floor() - self.atomic_numbers).abs().argmin(-1) * mask

    def _inputs(self, atom_types: Tensor, real: Tensor) -> Tensor:
        types = [self._one_hot(atom_types, real)] if self.categorical else []
        numbers = [self.atomic_numbers[atom_types].unsqueeze(-1) * real] if self.ordinal else []
        return torch.cat(types + numbers, -1)

    def _to_region(self, inputs: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and the log-derivative of each feature by its u."""
        split = self.n_types if self.categorical else 0
        types, numbers = inputs[..., :split], inputs[..., split:]
        h_types, ladj_types = self._to_argmax_region(types, u[..., :split])
        ordinal = u[..., split:]
        h = torch.cat([h_types, numbers + torch.sigmoid(ordinal)], -1)
        return h, torch.cat([ladj_types, logsigmoid(ordinal) + logsigmoid(-ordinal)], -1)

    def _to_argmax_region(self, types: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.config.sigma
        u = u + self.config.scale / sigma * types
        largest = (types * u).sum(-1, keepdim=True)
        others = 1.0 - types
        h = types * u + others * (largest - softplus(largest - u))
        return sigma * h, others * logsigmoid(largest - u) + math.log(sigma)


class Given(Dequantizer):
    """No dequantization: the types condition the velocity and have a prior P(types | N).

    h = one-hot(k), which does not change along a path. `log_q` is -log P(types | N), so that the likelihood
    log p(N) + log P(types | N) + log p(x | types) is exact.
    """

    random = False

    def __init__(self, config: DequantizerConfig, atomic_numbers: Sequence[int]) -> None:
        super().__init__(config, atomic_numbers, len(atomic_numbers))
        self.compositions = CompositionPrior(self.n_types, config.capacity)

    def sample_noise(self, generators: Sequence[Generator], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N F"]:  # noqa: ARG002
        """Return zeros, since no noise is needed."""
        return torch.zeros(*mask.shape, self.n_features, dtype=torch.float64)

    def dequantize(self, atom_types: Tensor, x: Tensor, mask: Tensor, noise: Tensor) -> Dequantized:  # noqa: ARG002
        """Return the one-hot types and -log P(types | N)."""
        real = mask.unsqueeze(-1).to(x.dtype)
        return Dequantized(self._one_hot(atom_types, real), -self.compositions.log_prob(atom_types, mask).to(x))

    def features(self, counts: Sequence[int]) -> Float[Tensor, "N F"]:
        """Return the features of the atoms of a composition, float64."""
        return one_hot(types_of(counts), self.n_types).double()


REGISTRY: dict[str, Callable[[DequantizerConfig, Sequence[int]], Dequantizer]] = {
    "truncated": TruncatedGaussian,
    "uniform": Uniform,
    "argmax": Learned,
    "variational": Learned,
    "argmax_variational": Learned,
    "given": Given,
}


def feature_count(kind: str, n_types: int) -> int:
    """Return the number of features per atom of a kind: a channel for each type, an ordinal one, or both."""
    return n_types * (kind != "variational") + ("variational" in kind)


LEARNED = tuple(kind for kind, cls in REGISTRY.items() if cls is Learned)


def build(config: DequantizerConfig, atomic_numbers: Sequence[int]) -> Dequantizer:
    """Return the dequantizer of a configuration."""
    return REGISTRY[config.kind](config, atomic_numbers)


def _log_region(ratio: float, n_types: int) -> float:
    """Return log E_u[Phi(ratio + u)^(n_types - 1)] by the trapezoidal rule, which converges geometrically here."""
    u = torch.linspace(-12.0, 12.0, 4801, dtype=torch.float64)
    log_integrand = -0.5 * (u.square() + LOG_2PI) + (n_types - 1) * torch.special.log_ndtr(ratio + u)
    return float(torch.logsumexp(log_integrand, 0) + math.log(float(u[1] - u[0])))
