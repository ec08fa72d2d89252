"""The strength of central forces between particles and its derivative, as functions of distance and time."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.functional import silu

from enflow.model.config import KernelConfig, SimpleConfig
from enflow.model.flow.networks.egnn import time_features

PairValues = Float[Tensor, "B N N"]


class NetworkStrength(nn.Module):
    """The strength phi(d, t) by a network of distance and time (Köhler et al. 2019)."""

    def __init__(self, config: SimpleConfig) -> None:
        super().__init__()
        self.n_frequencies = config.n_frequencies
        self.width = config.range / (config.n_radial - 1)
        self.centres: Tensor
        self.register_buffer("centres", torch.linspace(0.0, config.range, config.n_radial), persistent=False)
        hidden = config.hidden_dim
        self.of_distance = nn.Linear(config.n_radial + 1, hidden)
        self.of_time = nn.Linear(1 + 2 * config.n_frequencies, hidden, bias=False)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(config.n_layers - 1))
        self.readout = nn.Linear(hidden, 1)

    def forward(self, d: PairValues, t: Float[Tensor, " B"]) -> PairValues:
        """Return the strength at distances d and times t."""
        gaussians = torch.exp(-0.5 * ((d.unsqueeze(-1) - self.centres) / self.width).square())
        features = torch.cat([d.unsqueeze(-1) / (1.0 + d.unsqueeze(-1)), gaussians], -1)
        s = silu(self.of_distance(features) + self.of_time(time_features(t, self.n_frequencies))[:, None, None])
        for layer in self.layers:
            s = silu(layer(s))
        strength: Tensor = self.readout(s).squeeze(-1)
        return strength

    def with_slope(self, d: PairValues, t: Float[Tensor, " B"]) -> tuple[PairValues, PairValues]:
        """Return the strength and its derivative by the distance."""
        strength, slope = jvp(lambda d: self(d, t), (d,), (torch.ones_like(d),))[:2]
        return strength, slope


class KernelStrength(nn.Module):
    """The strength phi(d, t) = sum over k, l of w_kl R_k(d) S_l(t) by kernels R and S (Köhler, Klein, Noé 2020).

    R_k(d) = softmax_k(-((d - mu_k) / gamma_k)^2), and S_l(t) likewise. Centres are fixed, widths and weights learned.
    """

    def __init__(self, config: KernelConfig) -> None:
        super().__init__()
        self.radial_centres: Tensor
        self.time_centres: Tensor
        self.register_buffer("radial_centres", torch.linspace(0.0, config.range, config.n_radial), persistent=False)
        self.register_buffer("time_centres", torch.linspace(0.0, 1.0, config.n_times), persistent=False)
        width, duration = config.range / (config.n_radial - 1), 1.0 / (config.n_times - 1)
        self.log_widths = nn.Parameter(torch.full((config.n_radial,), width).log())
        self.log_durations = nn.Parameter(torch.full((config.n_times,), duration).log())
        self.weights = nn.Parameter(0.1 * torch.randn(config.n_radial, config.n_times) / config.n_radial)

    def forward(self, d: PairValues, t: Float[Tensor, " B"]) -> PairValues:
        """Return the strength at distances d and times t."""
        kernels, _ = self._radial(d)
        strength: Tensor = (kernels * self._weights(t)).sum(-1)
        return strength

    def with_slope(self, d: PairValues, t: Float[Tensor, " B"]) -> tuple[PairValues, PairValues]:
        """Return the strength and its derivative by the distance, in closed form."""
        kernels, slopes = self._radial(d)
        weights = self._weights(t)
        return (kernels * weights).sum(-1), (slopes * weights).sum(-1)

    def _radial(self, d: Tensor) -> tuple[Tensor, Tensor]:
        u = (d.unsqueeze(-1) - self.radial_centres) / self.log_widths.exp()
        kernels = torch.softmax(-u.square(), -1)
        slope_of_log = -2.0 * u / self.log_widths.exp()
        return kernels, kernels * (slope_of_log - (kernels * slope_of_log).sum(-1, keepdim=True))

    def _weights(self, t: Tensor) -> Tensor:
        u = (t.unsqueeze(-1) - self.time_centres) / self.log_durations.exp()
        of_time: Tensor = torch.softmax(-u.square(), -1) @ self.weights.T
        return of_time[:, None, None]
