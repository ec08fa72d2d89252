"""The E(n) equivariant graph network (Satorras, Hoogeboom, Welling 2021) on dense padded batches."""

import math

import torch
from torch import Tensor, nn

from enflow.model.config import EGNNConfig
from enflow.model.flow.geometry import squared_distances
from enflow.model.flow.networks.inference_ops import add_inplace, apply_linear, multiply_inplace, silu_inplace

DISTANCE_EPS = 1e-8
"""A constant inside the square root, whose gradient is infinite at the zeros of the diagonal."""

RADIAL_LENGTH = 1.5
"""The length scale of the radial basis, angstrom: centres are evenly spaced in 1 / (1 + d / RADIAL_LENGTH)."""


class RadialBasis(nn.Module):
    """The features of a distance: 0.1 d^2 and Gaussians evenly spaced in 1 / (1 + d / 1.5), or d^2 alone.

    The spacing is fine for bond lengths (0.9 to 1.6 angstrom) and coarse for long distances.
    """

    def __init__(self, n_radial: int) -> None:
        super().__init__()
        self.n_radial = n_radial
        self.dim = n_radial + 1
        self.centres: Tensor
        self.register_buffer("centres", torch.linspace(0.0, 1.0, n_radial), persistent=False)

    def forward(self, d2: Tensor, d: Tensor, *others: Tensor) -> Tensor:
        """Return the features (..., n_radial + 1) of squared distances and distances (...,), then `others` (..., R)."""
        dtype = others[0].dtype if others else d2.dtype
        if not self.n_radial:
            return torch.cat([d2.unsqueeze(-1).to(dtype), *others], -1)
        gaussians = self._gaussians(self._offsets(d))
        return torch.cat([0.1 * d2.unsqueeze(-1).to(dtype), gaussians.to(dtype), *others], -1)

    def slopes(self, d: Tensor) -> Tensor:
        """Return the derivatives (..., n_radial + 1) of the features by the distance."""
        if not self.n_radial:
            return 2.0 * d.unsqueeze(-1)
        offsets, inverse = self._offsets(d), (1.0 / (RADIAL_LENGTH + d)).unsqueeze(-1)
        rate = 2.0 * math.log(2.0) * self._scale * RADIAL_LENGTH * inverse.square()  # of the logarithm, by the offset
        return torch.cat([0.2 * d.unsqueeze(-1), self._gaussians(offsets) * offsets * rate], -1)

    @property
    def _scale(self) -> float:
        # exp(-z^2 / 2) as a power of two is four times as fast.
        return (self.n_radial - 1) * math.sqrt(0.5 / math.log(2.0))

    def _offsets(self, d: Tensor) -> Tensor:
        return (self._scale * RADIAL_LENGTH / (RADIAL_LENGTH + d)).unsqueeze(-1) - self._scale * self.centres

    @staticmethod
    def _gaussians(offsets: Tensor) -> Tensor:
        # Values below 1e-27, which are ten times as slow, are clamped.
        return torch.exp2((-offsets.square()).clamp(min=-90.0))


class EGNNLayer(nn.Module):
    """A layer of message passing.

    m_ij = gate(m) * phi_e(s_i, s_j, d_ij, d0_ij);  x_i += sum_j (x_i - x_j) / (d_ij + 1) * phi_x(m_ij);
    s_i += phi_h(s_i, sum_j m_ij).  The first linear map of phi_e is split into a term per receiving atom, one per
    sending atom and one per distance, so that no tensor of shape (pairs, 2 * node_dim) exists.
    """

    def __init__(self, config: EGNNConfig, radial_dim: int) -> None:
        super().__init__()
        node, edge = config.node_dim, config.edge_dim
        self.norm = nn.LayerNorm(node) if config.layer_norm else nn.Identity()
        self.receive = nn.Linear(node, edge)
        self.send = nn.Linear(node, edge, bias=False)
        self.distance = nn.Linear(2 * radial_dim, edge, bias=False)
        self.message = nn.Linear(edge, edge)
        self.gate = nn.Linear(edge, 1) if config.gate else None
        self.coordinate = nn.Linear(edge, edge)
        self.coordinate_out = nn.Linear(edge, 1, bias=False)
        self.node_in = nn.Linear(node + edge, node)
        self.node_out = nn.Linear(node, node)
        self.tanh_range = config.tanh_range
        self.message_scale = config.message_scale
        nn.init.xavier_uniform_(self.coordinate_out.weight, gain=1e-3)

    def forward(
        self, s: Tensor, x: Tensor, radial0: Tensor, pairs: Tensor, basis: RadialBasis
    ) -> tuple[Tensor, Tensor]:
        """Return the updated node features and positions.

        Args:
            s: node features, (B, N, D).
            x: positions, (B, N, 3).
            radial0: radial features of the input distances, (B, N, N, R); messages have the dtype of this tensor.
            pairs: pair weights, (B, N, N); 1 for real pairs.
            basis: the radial basis.
        """
        pair_dtype = radial0.dtype
        d2 = squared_distances(x)
        d = torch.sqrt(d2 + DISTANCE_EPS)
        s_in = self.norm(s)
        m = apply_linear(self.receive, s_in).to(pair_dtype).unsqueeze(-2)
        m = m + apply_linear(self.send, s_in).to(pair_dtype).unsqueeze(-3)
        m = add_inplace(m, apply_linear(self.distance, basis(d2, d, radial0)))  # (B, N, N, E)
        m = silu_inplace(apply_linear(self.message, silu_inplace(m)))
        weight = pairs
        if self.gate is not None:
            weight = pairs * torch.sigmoid(apply_linear(self.gate, m).squeeze(-1).to(x.dtype))
        m = multiply_inplace(m, weight.unsqueeze(-1).to(pair_dtype))
        # phi has the shape (B, N, N).
        phi = apply_linear(self.coordinate_out, silu_inplace(apply_linear(self.coordinate, m))).squeeze(-1).to(x.dtype)
        if self.tanh_range is not None:
            phi = torch.tanh(phi) * self.tanh_range
        phi = phi * pairs / (d + 1.0)
        x = x + x * phi.sum(-1, keepdim=True) - phi @ x
        messages = m.sum(-2, dtype=x.dtype) / self.message_scale
        s = s + apply_linear(self.node_out, silu_inplace(apply_linear(self.node_in, torch.cat([s_in, messages], -1))))
        return s, x


class EGNN(nn.Module):
    """A stack of EGNN layers, from invariant inputs (B, N, I) and positions to outputs (B, N, O) and new positions."""

    def __init__(self, config: EGNNConfig, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(n_inputs, config.node_dim)
        self.basis = RadialBasis(config.n_radial)
        self.layers = nn.ModuleList(EGNNLayer(config, self.basis.dim) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.node_dim) if config.layer_norm else nn.Identity()
        self.readout = nn.Linear(config.node_dim, n_outputs) if n_outputs else None

    def forward(
        self, inputs: Tensor, x: Tensor, pairs: Tensor, pair_dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (B, N, n_outputs) and new positions (B, N, 3); `pairs` (B, N, N) is 1 for real pairs."""
        d2 = squared_distances(x)
        radial0 = self.basis(d2, torch.sqrt(d2 + DISTANCE_EPS)).to(pair_dtype or x.dtype)
        s = self.embed(inputs)
        for layer in self.layers:
            s, x = layer(s, x, radial0, pairs, self.basis)
        return s[..., :0] if self.readout is None else self.readout(self.norm(s)), x


def time_features(t: Tensor, n_frequencies: int) -> Tensor:
    """Return the time and the sines and cosines of 2^k pi t, (B,) -> (B, 1 + 2 n_frequencies)."""
    angles = t.unsqueeze(-1) * (math.pi * 2.0 ** torch.arange(n_frequencies, dtype=t.dtype, device=t.device))
    return torch.cat([t.unsqueeze(-1), torch.sin(angles), torch.cos(angles)], -1)
