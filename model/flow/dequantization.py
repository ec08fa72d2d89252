"""Dequantization: discrete atom types to continuous features and back, with a valid bound on the likelihood.

For any q(h | types, x) whose support lies where `quantize` gives the types back,
log P(types | x) = log of the integral of p(h | x) over that region >= E_q[log p(h | x) - log q(h | types, x)]
(Hoogeboom et al. 2021, argmax flows; Ho et al. 2019, variational dequantization). The bound is tight where q is the
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
from enflow.model.errors import ConfigError
from enflow.model.flow.composition_prior import CompositionPrior, arranged
from enflow.model.flow.distributions import LOG_2PI, FeatureGaussian
from enflow.model.flow.geometry import pair_mask
from enflow.model.flow.networks.egnn import EGNN
from enflow.model.flow.noise import normal, padded_normal


class Dequantized(NamedTuple):
    """Continuous features (padding zero) and the log-density, nats per molecule, that q gave them."""

    h: Float[Tensor, "B N F"]
    log_q: Float[Tensor, " B"]


class Dequantizer(nn.Module):
    """What all kinds share: features are a deterministic function of types, positions and noise.

    Args:
        config: the kind and its numbers.
        atomic_numbers: the vocabulary, in the order of the types.
        n_features: features per atom, F.
    """

    random = True
    """False where features are a function of types and positions alone."""

    def __init__(self, config: DequantizerConfig, atomic_numbers: Sequence[int], n_features: int) -> None:
        super().__init__()
        self.config = config
        self.n_types = len(atomic_numbers)
        self.n_features = n_features

    def sample_noise(self, generators: Sequence[Generator], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N F"]:
        """Noise for `dequantize`, from one generator per molecule; float64 on the CPU, padding zero."""
        return padded_normal(mask, self.n_features, generators)

    def mirrored(self, noise: Float[Tensor, "B N F"]) -> Float[Tensor, "B N F"]:
        """Return the noise mirrored at its centre: as probable as before, and negatively correlated with it."""
        return -noise

    def dequantize(
        self,
        atom_types: Int[Tensor, "B N"],
        x: Float[Tensor, "B N 3"],
        mask: Bool[Tensor, "B N"],
        noise: Float[Tensor, "B N F"],
    ) -> Dequantized:
        """Features drawn from q(h | types, x) and their log-density.

        Args:
            atom_types: indices into the vocabulary, also in the padding, where their value has no effect.
            x: positions in angstrom; only their differences matter.
            mask: True for real atoms.
            noise: as `sample_noise` draws it.
        """
        raise NotImplementedError

    def quantize(self, h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> Int[Tensor, "B N"]:
        """The types of features: the largest of the first channels; padding is 0."""
        return h[..., : self.n_types].argmax(-1) * mask

    def _one_hot(self, atom_types: Tensor, real: Tensor) -> Tensor:
        return one_hot(atom_types, self.n_types).to(real.dtype) * real


class TruncatedGaussian(Dequantizer):
    """q is a Gaussian around each type's corner, cut to the region where that type's channel is the largest.

    h = scale one-hot(k) + sigma eps given argmax h = k;
    log q = sum over atoms of log N(eps; 0, 1) - K log sigma - log Z, with the probability of the region
    Z = E_u[Phi(scale / sigma + u)^(K - 1)], u ~ N(0, 1). Flow matching trains a flow on it as it is.
    """

    def __init__(self, config: DequantizerConfig, atomic_numbers: Sequence[int]) -> None:
        super().__init__(config, atomic_numbers, len(atomic_numbers))
        self.log_region = _log_region(config.scale / config.sigma, self.n_types)

    def sample_noise(self, generators: Sequence[Generator], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N F"]:
        """Truncated noise, by rejection: channel 0 is that of the atom's own type, the others follow cyclically."""
        noise = padded_normal(mask, self.n_features, generators)
        for row, real, source in zip(noise, mask.cpu(), generators, strict=True):
            while (outside := real & ~self._inside(row)).any():
                row[outside] = normal((int(outside.sum()), self.n_features), source)
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
    """The baseline: q is uniform in a box of side `scale` around each type's corner.

    h = scale (one-hot(k) + u - 1/2), u ~ U(0, 1)^K;  log q = -K log scale per atom.
    """

    def __init__(self, config: DequantizerConfig, atomic_numbers: Sequence[int]) -> None:
        super().__init__(config, atomic_numbers, len(atomic_numbers))

    def sample_noise(self, generators: Sequence[Generator], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N F"]:
        """Uniform noise in (0, 1)."""
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
    """q is a Gaussian whose mean and width an EGNN reads off the molecule, mapped into the region of the types.

    u = mean + exp(log_width) eps with (mean, log_width) = EGNN(types, x), then by kind
    "argmax" (categorical, one channel per type): in units of sigma and moved by scale one-hot, the true type's
    T = u_k stays and every other becomes T - softplus(T - u_j) < T;
    "variational" (ordinal, one channel): atomic number + sigmoid(u);
    "argmax_variational": both, as the original authors' released model has it with scale 0 and sigma 1.
    (Satorras et al. 2021, section 4; Hoogeboom et al. 2021.)
    """

    atomic_numbers: Tensor

    def __init__(self, config: DequantizerConfig, atomic_numbers: Sequence[int]) -> None:
        self.categorical, self.ordinal = "argmax" in config.kind, "variational" in config.kind
        super().__init__(config, atomic_numbers, self.categorical * len(atomic_numbers) + self.ordinal)
        width = config.node_dim
        plain = EGNNConfig(
            node_dim=width, edge_dim=width, n_layers=config.n_layers, n_radial=0, layer_norm=False, gate=False,
            tanh_range=None, message_scale=1.0,
        )  # fmt: skip
        self.network = EGNN(plain, self.n_features, 2 * self.n_features)
        self.register_buffer("atomic_numbers", torch.tensor(atomic_numbers), persistent=False)

    def posterior(self, atom_types: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-width of u, (B, N, F) each, padding zero."""
        real = mask.unsqueeze(-1).to(x.dtype)
        outputs, _ = self.network(self._inputs(atom_types, real), x * real, pair_mask(mask).to(x.dtype))
        mean, log_width = (outputs * real).chunk(2, -1)
        return mean, log_width

    def dequantize(self, atom_types: Tensor, x: Tensor, mask: Tensor, noise: Tensor) -> Dequantized:
        """See `Dequantizer.dequantize`."""
        real = mask.unsqueeze(-1).to(x.dtype)
        noise = noise.to(x) * real
        mean, log_width = self.posterior(atom_types, x, mask)
        h, ladj = self._into_region(self._inputs(atom_types, real), mean + log_width.exp() * noise)
        log_q = FeatureGaussian(self.n_features).log_prob(noise, mask)
        return Dequantized(h * real, log_q - ((log_width + ladj) * real).sum((-2, -1)))

    def quantize(self, h: Tensor, mask: Tensor) -> Tensor:
        """The largest type channel; without one, the type whose atomic number is nearest to the ordinal's floor."""
        if self.categorical:
            return super().quantize(h, mask)
        return (h.floor() - self.atomic_numbers).abs().argmin(-1) * mask

    def _inputs(self, atom_types: Tensor, real: Tensor) -> Tensor:
        types = [self._one_hot(atom_types, real)] if self.categorical else []
        numbers = [self.atomic_numbers[atom_types].unsqueeze(-1) * real] if self.ordinal else []
        return torch.cat(types + numbers, -1)

    def _into_region(self, inputs: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Features and the log-derivative of each by its own u."""
        split = self.n_types if self.categorical else 0
        types, numbers = inputs[..., :split], inputs[..., split:]
        h_types, ladj_types = self._below(types, u[..., :split])
        ordinal = u[..., split:]
        h = torch.cat([h_types, numbers + torch.sigmoid(ordinal)], -1)
        return h, torch.cat([ladj_types, logsigmoid(ordinal) + logsigmoid(-ordinal)], -1)

    def _below(self, types: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.config.sigma
        u = u + self.config.scale / sigma * types
        top = (types * u).sum(-1, keepdim=True)
        others = 1.0 - types
        h = types * u + others * (top - softplus(top - u))
        return sigma * h, others * logsigmoid(top - u) + math.log(sigma)


class Given(Dequantizer):
    """No dequantization: the types are given to the velocity as they are, and have a probability of their own.

    h = one-hot(k), which the flow leaves alone; in place of log q stands -log P(types | N), so that the likelihood
    log p(N) + log P(types | N) + log p(x | types) is exact and no bound.
    """

    random = False

    def __init__(self, config: DequantizerConfig, atomic_numbers: Sequence[int]) -> None:
        super().__init__(config, atomic_numbers, len(atomic_numbers))
        self.compositions = CompositionPrior(self.n_types, config.capacity)

    def sample_noise(self, generators: Sequence[Generator], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N F"]:  # noqa: ARG002
        """None is needed: zeros."""
        return torch.zeros(*mask.shape, self.n_features, dtype=torch.float64)

    def dequantize(self, atom_types: Tensor, x: Tensor, mask: Tensor, noise: Tensor) -> Dequantized:  # noqa: ARG002
        """The one-hot types and -log P(types | N)."""
        real = mask.unsqueeze(-1).to(x.dtype)
        return Dequantized(self._one_hot(atom_types, real), -self.compositions.log_prob(atom_types, mask).to(x))

    def latent(self, counts: Sequence[int]) -> Float[Tensor, "N F"]:
        """The features of a composition's atoms, float64."""
        return one_hot(arranged(counts), self.n_types).double()


REGISTRY: dict[str, Callable[[DequantizerConfig, Sequence[int]], Dequantizer]] = {
    "truncated": TruncatedGaussian,
    "uniform": Uniform,
    "argmax": Learned,
    "variational": Learned,
    "argmax_variational": Learned,
    "given": Given,
}


LEARNED = tuple(kind for kind, cls in REGISTRY.items() if cls is Learned)


def build(config: DequantizerConfig, atomic_numbers: Sequence[int]) -> Dequantizer:
    """The dequantizer that a configuration describes.

    Raises:
        ConfigError: if there is no such kind.
    """
    if config.kind not in REGISTRY:
        raise ConfigError(f"unknown dequantizer {config.kind!r}; expected one of {', '.join(sorted(REGISTRY))}")
    return REGISTRY[config.kind](config, atomic_numbers)


def _log_region(ratio: float, n_types: int) -> float:
    """log E_u[Phi(ratio + u)^(n_types - 1)] by the trapezoidal rule, which converges geometrically here."""
    u = torch.linspace(-12.0, 12.0, 4801, dtype=torch.float64)
    log_integrand = -0.5 * (u.square() + LOG_2PI) + (n_types - 1) * torch.special.log_ndtr(ratio + u)
    return float(torch.logsumexp(log_integrand, 0) + math.log(float(u[1] - u[0])))
