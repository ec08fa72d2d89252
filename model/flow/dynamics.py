"""The dynamics: velocities (t, x, h, mask) -> (dx, dh) of several architectures, in one registry."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from enflow.model.config import (
    EGNNConfig,
    FragmentConfig,
    GNNConfig,
    KernelConfig,
    SimpleConfig,
    VectorEGNNConfig,
    VectorNetworkConfig,
)
from enflow.model.errors import ConfigError
from enflow.model.flow.exact_trace.trace import trace
from enflow.model.flow.geometry import centre, pair_mask, squared_distances
from enflow.model.flow.networks.central_forces import KernelStrength, NetworkStrength
from enflow.model.flow.networks.egnn import DISTANCE_EPS, EGNN, time_features
from enflow.model.flow.networks.gnn import GNN
from enflow.model.flow.networks.parity import SURE, condition_on_parity
from enflow.model.flow.networks.vector_egnn import VectorEGNN

REGISTRY: dict[str, Callable[[Any], nn.Module]] = {}


def register(cls: Any) -> Any:
    """Add a dynamics class to the registry under the kind of its configuration."""
    REGISTRY[cls.config_class().kind] = cls
    return cls


def build(config: Any) -> nn.Module:
    """Return the dynamics of a configuration.

    Raises:
        ConfigError: the kind is unknown.
    """
    if config.kind not in REGISTRY:
        raise ConfigError(f"dynamics: found kind {config.kind!r}, expected one of {', '.join(sorted(REGISTRY))}")
    return REGISTRY[config.kind](config)


def centre_velocity(t: Tensor, h: Tensor, centres: Tensor, sigma: float) -> Tensor:
    """Return the velocity of features from a standard normal to a Gaussian of width sigma around known centres.

    With h_t = (1 - t) h_0 + t h_1, h_0 ~ N(0, 1), h_1 = c + sigma eps:
    E[h_1 - h_0 | h_t, c] = c + (t sigma^2 - (1 - t)) / ((1 - t)^2 + t^2 sigma^2) (h_t - t c).
    The velocity is linear in c, so that for uncertain types c is the posterior mean.

    Args:
        t: times, (B,).
        h: features, (B, N, F).
        centres: the centres c, (B, N, F).
        sigma: the width of the Gaussian.
    """
    t = t[:, None, None]
    gain = (t * sigma**2 - (1.0 - t)) / ((1.0 - t).square() + (t * sigma).square())
    return centres + gain * (h - t * centres)


class AtomDynamics(nn.Module):
    """The inputs and outputs of an equivariant network as a velocity.

    Args:
        config: the options of the network.
        network: its class.
        n_types: features that the network moves; the first of a state.
    """

    equivariant = True

    def __init__(
        self, config: EGNNConfig | VectorNetworkConfig, network: type[EGNN] | type[VectorEGNN], n_types: int
    ) -> None:
        super().__init__()
        self.config = config
        n_inputs = config.n_features + 1 + 2 * config.n_frequencies + int(config.size_input)
        self.fixed_features = config.output == "still"
        n_outputs = 0 if self.fixed_features else n_types
        self.network = network(config, n_inputs, n_outputs)  # type: ignore[arg-type]
        self.odd: Tensor
        odd = [kind in config.odd_types for kind in range(n_types)]
        self.register_buffer("odd", torch.tensor(odd, dtype=torch.bool), persistent=False)
        self.pair_dtype: torch.dtype | None = None  # bfloat16 in training; None = the dtype of the positions

    def _inputs(self, t: Tensor, h: Tensor, real: Tensor) -> Tensor:
        context = time_features(t, self.config.n_frequencies)
        if self.config.size_input:
            context = torch.cat([context, real.sum((-2, -1)).unsqueeze(-1) / 20.0], -1)
        return torch.cat([h, context.unsqueeze(-2).expand(*h.shape[:-1], -1)], -1)

    def _joint_outputs(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """Return the outputs after the operation that couples the atoms of a molecule."""
        return condition_on_parity(outputs, mask, self.odd) if self.config.odd_types else outputs

    def _features_velocity(self, t: Tensor, h: Tensor, outputs: Tensor) -> Tensor:
        if self.config.output == "velocity":
            return outputs
        if self.config.output == "still":
            return torch.zeros_like(h)
        centres = self.config.feature_scale * torch.softmax(outputs, -1)
        return centre_velocity(t, h, centres, self.config.feature_sigma)


class NetworkDynamics(AtomDynamics):
    """A velocity by an equivariant network: dx = x_out - x_in without centre of mass, dh from the node features."""

    def __init__(self, config: EGNNConfig | VectorEGNNConfig, network: type[EGNN] | type[VectorEGNN]) -> None:
        super().__init__(config, network, config.n_features)

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity (dx (B, N, S), dh (B, N, F)) at times t (B,), positions x, features h and mask (B, N)."""
        real = mask.unsqueeze(-1).to(x.dtype)
        outputs, x_out = self.network(self._inputs(t, h, real), x, pair_mask(mask).to(x.dtype), self.pair_dtype)
        return centre(x_out - x, mask), self._features_velocity(t, h, self._joint_outputs(outputs, mask)) * real

    def divergence(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> Tensor:
        """Return the trace of the Jacobian of the velocity, (B,)."""
        inputs = self._inputs(t, h, mask.unsqueeze(-1).to(x.dtype))
        flowing = h[..., :0] if self.fixed_features else h
        return trace(
            self.network,
            inputs,
            x,
            flowing,
            mask,
            lambda rows, h, outputs: self._features_velocity(t[rows], h, outputs),
            self._joint_outputs if self.config.odd_types else None,
        )


@register
class EGNNDynamics(NetworkDynamics):
    """A velocity by the EGNN of E-NF (Satorras et al. 2021), with the options that Enflow adds."""

    config_class = EGNNConfig

    def __init__(self, config: EGNNConfig) -> None:
        super().__init__(config, EGNN)
        self.reverse = config.reverse

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity; with `reverse` the network sees 1 - t, the time of the original code of E-NF."""
        if not self.reverse:
            return super().forward(t, x, h, mask)
        dx, dh = super().forward(1.0 - t, x, h, mask)
        return -dx, -dh

    def divergence(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> Tensor:
        """Return the trace of the Jacobian of the velocity, (B,)."""
        return -super().divergence(1.0 - t, x, h, mask) if self.reverse else super().divergence(t, x, h, mask)


@register
class VectorEGNNDynamics(NetworkDynamics):
    """A velocity by an EGNN with vector features."""

    config_class = VectorEGNNConfig

    def __init__(self, config: VectorEGNNConfig) -> None:
        super().__init__(config, VectorEGNN)


@register
class FragmentDynamics(AtomDynamics):
    """A velocity of the atoms around a fragment, whose atoms have the flag f = 1 as their last feature.

    Relative to the fragment dx = (1 - f) (x_out - x_in), dh = (1 - f) v_h, df = 0. The centre of mass of all atoms is
    kept, as in every dynamics: so the fragment moves as one body. Because the network ignores translations, the
    divergence is that of the other atoms relative to the fragment.
    """

    config_class = FragmentConfig

    def __init__(self, config: FragmentConfig) -> None:
        super().__init__(config, VectorEGNN, config.n_features - 1)

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity (dx (B, N, S), dh (B, N, F)) at times t (B,), positions x, features h and mask (B, N)."""
        real = mask.unsqueeze(-1).to(x.dtype)
        types, flag = h[..., :-1], h[..., -1:]
        free = (1.0 - flag) * real
        outputs, x_out = self.network(self._inputs(t, h, real), x, pair_mask(mask).to(x.dtype), self.pair_dtype)
        known = SURE / self.config.feature_scale * types
        outputs = self._joint_outputs(torch.lerp(outputs, known, flag), mask)
        dh = self._features_velocity(t, types, outputs) * free
        return centre((x_out - x) * free, mask), torch.cat([dh, torch.zeros_like(flag)], -1)


@register
class GNNDynamics(nn.Module):
    """A velocity by a graph network with positions as features; equivariant under permutations alone."""

    config_class = GNNConfig
    equivariant = False

    def __init__(self, config: GNNConfig) -> None:
        super().__init__()
        self.config = config
        width = config.n_dims + config.n_features
        self.network = GNN(config, width + 1 + 2 * config.n_frequencies, width)

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity (dx, dh) of centred positions x (B, N, S) and features h (B, N, F) at times t (B,)."""
        context = time_features(t, self.config.n_frequencies).unsqueeze(-2).expand(*x.shape[:-1], -1)
        outputs = self.network(torch.cat([x, h, context], -1), pair_mask(mask).to(x.dtype))
        dx, dh = outputs[..., : x.shape[-1]], outputs[..., x.shape[-1] :]
        return centre(dx, mask), dh * mask.unsqueeze(-1).to(x.dtype)


class CentralForces(nn.Module):
    """Central forces: dx_i = 1/n sum_j (x_i - x_j) phi(d_ij, t), dh = 0.

    The divergence has a closed form, in D dimensions
    div v = 1/n sum over i, j != i of D phi(d_ij, t) + d_ij phi'(d_ij, t)  (Köhler, Klein, Noé 2020).
    """

    equivariant = True

    def __init__(self, strength: NetworkStrength | KernelStrength) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity (dx, 0) at times t (B,) of positions x (B, N, D)."""
        d = torch.sqrt(squared_distances(x) + DISTANCE_EPS)
        weights = self.strength(d, t) * _pair_weights(mask, x.dtype)
        dx = x * weights.sum(-1, keepdim=True) - weights @ x
        return centre(dx, mask), torch.zeros_like(h)

    def divergence(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002
        """Return the trace of the Jacobian of the velocity, (B,)."""
        d2 = squared_distances(x)
        d = torch.sqrt(d2 + DISTANCE_EPS)
        strength, slope = self.strength.with_slope(d, t)
        terms = x.shape[-1] * strength + d2 / d * slope
        return (terms * _pair_weights(mask, x.dtype)).sum((-2, -1))


def _pair_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1/n for ordered pairs of two different real atoms and zero elsewhere, (B, N) -> (B, N, N)."""
    return pair_mask(mask).to(dtype) / mask.sum(-1).to(dtype).clamp_min(1.0)[..., None, None]


@register
class SimpleDynamics(CentralForces):
    """Central forces whose strength is a network of distance and time."""

    config_class = SimpleConfig

    def __init__(self, config: SimpleConfig) -> None:
        super().__init__(NetworkStrength(config))


@register
class KernelDynamics(CentralForces):
    """Central forces whose strength is a sum of kernels of distance and time."""

    config_class = KernelConfig

    def __init__(self, config: KernelConfig) -> None:
        super().__init__(KernelStrength(config))
