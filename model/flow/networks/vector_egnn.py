"""An E(n) equivariant graph network with vector features, so that messages depend on directions."""

import torch
from torch import Tensor, nn

from enflow.model.config import VectorNetworkConfig
from enflow.model.flow.geometry import squared_distances
from enflow.model.flow.networks.egnn import DISTANCE_EPS, RadialBasis
from enflow.model.flow.networks.inference_ops import add_inplace, apply_linear, multiply_inplace, silu_inplace

VECTOR_EPS = 1e-4
"""A constant inside the square root of a length, whose gradient is infinite at the initial vectors, which are zero."""

VECTOR_GAIN = 3.0
"""The scale of vector sums relative to message sums: both sum over neighbours, but directions cancel."""

MAX_VECTOR_LENGTH = 5.0
"""The bound on the length of a vector."""

MAX_MOVE = 3.0
"""The bound on the displacement of an atom in one layer, angstrom. Without bounds one latent in some
thousands, with atoms close together, diverged: displacements grow with distances, and distances with displacements."""


class VectorEGNNLayer(nn.Module):
    """A layer of message passing with K equivariant vectors V_i per atom.

    With u_ij = (x_i - x_j) / (d_ij + 1), m_ij = gate(m) phi_e(s_i, s_j, d_ij, d0_ij, V_i . u_ij, V_j . u_ij):
    V_i += sum_j W m_ij u_ij;  s_i += phi_h(s_i, sum_j m_ij, |V_i|);  x_i += c sum_k a_k(s_i) V_ik;  V_ik *= b_k(s_i);
    vectors and displacements are bounded, and c is `move_scale` of the configuration.
    This is the EGNN (Satorras et al. 2021) with the vector channels of PaiNN (Schütt et al. 2021). A message depends on
    angles, which distances alone show only after several layers. Positions move along the vectors, so that one sum over
    the pairs is enough.
    """

    def __init__(self, config: VectorNetworkConfig, radial_dim: int) -> None:
        super().__init__()
        node, edge, vectors = config.node_dim, config.edge_dim, config.n_vectors
        self.norm = nn.LayerNorm(node)
        self.receive = nn.Linear(node, edge)
        self.send = nn.Linear(node, edge, bias=False)
        self.distance = nn.Linear(2 * radial_dim, edge, bias=False)
        self.receive_vectors = nn.Linear(vectors, edge, bias=False)
        self.send_vectors = nn.Linear(vectors, edge, bias=False)
        self.message = nn.Linear(edge, edge)
        self.gate = nn.Linear(edge, 1)
        self.collect = nn.Linear(edge, vectors, bias=False)
        self.node_in = nn.Linear(node + edge + vectors, node)
        self.node_out = nn.Linear(node, node)
        self.scales = nn.Linear(node, vectors)
        self.moves = nn.Linear(node, vectors)
        self.message_scale, self.move_scale = config.message_scale, config.move_scale
        nn.init.uniform_(self.moves.weight, -0.1 * node**-0.5, 0.1 * node**-0.5)

    def forward(
        self, s: Tensor, x: Tensor, vectors: Tensor, radial0: Tensor, pairs: Tensor, basis: RadialBasis
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the updated node features, positions and vectors.

        Args:
            s: node features, (B, N, S).
            x: positions, (B, N, D).
            vectors: vectors, (B, N, D, K).
            radial0: radial features of the input distances, (B, N, N, R); products have the dtype of this tensor.
            pairs: pair weights, (B, N, N); 1 for real pairs.
            basis: the radial basis.
        """
        dtype = radial0.dtype
        relative = x.unsqueeze(-2) - x.unsqueeze(-3)
        d2 = relative.square().sum(-1)
        d = torch.sqrt(d2 + DISTANCE_EPS)
        u = (relative * (pairs / (d + 1.0)).unsqueeze(-1)).to(dtype)  # (B, N, N, D)
        s_in = self.norm(s).to(dtype)
        m = self._messages(s_in, vectors.to(dtype), u, basis(d2, d, radial0), pairs)

        collected = apply_linear(self.collect, u.transpose(-1, -2) @ m).to(x.dtype)  # (B, N, D, K)
        vectors = bounded(vectors + collected * (VECTOR_GAIN / self.message_scale), MAX_VECTOR_LENGTH)
        lengths = torch.sqrt(vectors.square().sum(-2) + VECTOR_EPS)
        messages = m.sum(-2, dtype=x.dtype) / self.message_scale
        hidden = silu_inplace(apply_linear(self.node_in, torch.cat([s_in, messages.to(dtype), lengths.to(dtype)], -1)))
        s = s + apply_linear(self.node_out, hidden).to(x.dtype)
        move = vectors @ (self.move_scale * apply_linear(self.moves, hidden).to(x.dtype)).unsqueeze(-1)
        x = x + bounded(move, MAX_MOVE).squeeze(-1)
        scales = 2.0 * torch.sigmoid(apply_linear(self.scales, hidden).to(x.dtype))
        return s, x, vectors * scales.unsqueeze(-2)

    def _messages(self, s: Tensor, vectors: Tensor, u: Tensor, radial: Tensor, pairs: Tensor) -> Tensor:
        m = apply_linear(self.receive, s).unsqueeze(-2) + apply_linear(self.send, s).unsqueeze(-3)
        m = add_inplace(m, apply_linear(self.distance, radial))
        m = add_inplace(m, u @ apply_linear(self.receive_vectors, vectors))
        m = add_inplace(m, -(u @ apply_linear(self.send_vectors, vectors)).transpose(-2, -3))  # u_ij = -u_ji
        m = silu_inplace(apply_linear(self.message, silu_inplace(m)))  # (B, N, N, E)
        gate = torch.sigmoid(apply_linear(self.gate, m).to(pairs.dtype))
        return multiply_inplace(m, (pairs.unsqueeze(-1) * gate).to(m.dtype))


def bounded(vectors: Tensor, max_length: float) -> Tensor:
    """Return vectors (..., D, K) of the same directions with lengths below `max_length`; short ones hardly change."""
    return vectors * torch.rsqrt(1.0 + vectors.square().sum(-2, keepdim=True) / max_length**2)


class VectorEGNN(nn.Module):
    """A stack of layers with vectors, with the interface of `EGNN`."""

    def __init__(self, config: VectorNetworkConfig, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.n_vectors = config.n_vectors
        self.embed = nn.Linear(n_inputs, config.node_dim)
        self.basis = RadialBasis(config.n_radial)
        self.layers = nn.ModuleList(VectorEGNNLayer(config, self.basis.dim) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.node_dim)
        self.readout = nn.Linear(config.node_dim, n_outputs) if n_outputs else None

    def forward(
        self, inputs: Tensor, x: Tensor, pairs: Tensor, pair_dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (B, N, n_outputs) and new positions (B, N, D); `pairs` (B, N, N) is 1 for real pairs."""
        d2 = squared_distances(x)
        radial0 = self.basis(d2, torch.sqrt(d2 + DISTANCE_EPS)).to(pair_dtype or x.dtype)
        s, vectors = self.embed(inputs), x.new_zeros(*x.shape, self.n_vectors)
        for layer in self.layers:
            s, x, vectors = layer(s, x, vectors, radial0, pairs, self.basis)
        return s[..., :0] if self.readout is None else self.readout(self.norm(s)), x
