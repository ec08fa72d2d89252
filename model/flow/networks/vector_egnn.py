"""An E(n) equivariant graph network whose atoms carry vectors: directions, where the EGNN's messages know distances."""

import torch
from torch import Tensor, nn

from enflow.model.config import VectorEGNNConfig
from enflow.model.flow.geometry import squared_distances
from enflow.model.flow.networks.egnn import DISTANCE_EPS, RadialBasis
from enflow.model.flow.networks.inference_ops import activated, increased, linear_in, scaled

VECTOR_EPS = 1e-4
"""Inside the root of a vector's length, which has an infinite gradient at zero, where all vectors begin."""

VECTOR_GAIN = 3.0
"""Vectors against messages: both are sums over the neighbours, but directions cancel."""

LONGEST = 5.0
"""Of a vector."""

FARTHEST = 3.0
"""Angstrom that a layer moves an atom at most. Without bounds one point of noise in some thousands, its atoms close
together, sent them off: a layer's distances grow with the last one's moves, and its moves with the distances."""


class VectorEGNNLayer(nn.Module):
    """One layer of message passing with K vectors V_i on every atom, which turn with the molecule.

    With u_ij = (x_i - x_j) / (d_ij + 1), m_ij = gate(m) phi_e(s_i, s_j, d_ij, d0_ij, V_i . u_ij, V_j . u_ij):
    V_i += sum_j W m_ij u_ij;  s_i += phi_h(s_i, sum_j m_ij, |V_i|);  x_i += c sum_k a_k(s_i) V_ik;  V_ik *= b_k(s_i);
    vectors and moves are bounded, and c is the configuration's `move_scale`.
    The EGNN (Satorras et al. 2021) with the vector channels of PaiNN (Schütt et al. 2021): a message sees angles, which
    distances alone give only after several layers. The positions move along the vectors, so that one sum over the pairs
    serves both.
    """

    def __init__(self, config: VectorEGNNConfig, radial_dim: int) -> None:
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
        """Features (B, N, S), positions (B, N, D), vectors (B, N, D, K); radial features, pair weights (B, N, N, ...).

        Products have the dtype of `radial0`; positions, distances and the sums that run through the layers keep theirs.
        """
        dtype = radial0.dtype
        relative = x.unsqueeze(-2) - x.unsqueeze(-3)
        d2 = relative.square().sum(-1)
        d = torch.sqrt(d2 + DISTANCE_EPS)
        u = (relative * (pairs / (d + 1.0)).unsqueeze(-1)).to(dtype)  # (B, N, N, D)
        s_in = self.norm(s).to(dtype)
        m = self._messages(s_in, vectors.to(dtype), u, basis(d2, d, radial0), pairs)

        collected = linear_in(self.collect, u.transpose(-1, -2) @ m).to(x.dtype)  # (B, N, D, K)
        vectors = bounded(vectors + collected * (VECTOR_GAIN / self.message_scale), LONGEST)
        lengths = torch.sqrt(vectors.square().sum(-2) + VECTOR_EPS)
        messages = m.sum(-2, dtype=x.dtype) / self.message_scale
        hidden = activated(linear_in(self.node_in, torch.cat([s_in, messages.to(dtype), lengths.to(dtype)], -1)))
        s = s + linear_in(self.node_out, hidden).to(x.dtype)
        move = vectors @ (self.move_scale * linear_in(self.moves, hidden).to(x.dtype)).unsqueeze(-1)
        x = x + bounded(move, FARTHEST).squeeze(-1)
        scales = 2.0 * torch.sigmoid(linear_in(self.scales, hidden).to(x.dtype))
        return s, x, vectors * scales.unsqueeze(-2)

    def _messages(self, s: Tensor, vectors: Tensor, u: Tensor, radial: Tensor, pairs: Tensor) -> Tensor:
        m = linear_in(self.receive, s).unsqueeze(-2) + linear_in(self.send, s).unsqueeze(-3)
        m = increased(m, linear_in(self.distance, radial))
        m = increased(m, u @ linear_in(self.receive_vectors, vectors))
        m = increased(m, -(u @ linear_in(self.send_vectors, vectors)).transpose(-2, -3))  # u_ij = -u_ji
        m = activated(linear_in(self.message, activated(m)))  # (B, N, N, E)
        gate = torch.sigmoid(linear_in(self.gate, m).to(pairs.dtype))
        return scaled(m, (pairs.unsqueeze(-1) * gate).to(m.dtype))


def bounded(vectors: Tensor, longest: float) -> Tensor:
    """Vectors (..., D, K) of the same directions, shorter than `longest`; short ones stay as they are."""
    return vectors * torch.rsqrt(1.0 + vectors.square().sum(-2, keepdim=True) / longest**2)


class VectorEGNN(nn.Module):
    """A stack of layers: invariant inputs (B, N, I) and positions -> node features and new positions, as `EGNN`."""

    def __init__(self, config: VectorEGNNConfig, n_inputs: int, n_outputs: int) -> None:
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
        """Invariant outputs (B, N, n_outputs) and updated positions (B, N, D); pairs (B, N, N) weighs real pairs 1."""
        d2 = squared_distances(x)
        radial0 = self.basis(d2, torch.sqrt(d2 + DISTANCE_EPS)).to(pair_dtype or x.dtype)
        s, vectors = self.embed(inputs), x.new_zeros(*x.shape, self.n_vectors)
        for layer in self.layers:
            s, x, vectors = layer(s, x, vectors, radial0, pairs, self.basis)
        return s[..., :0] if self.readout is None else self.readout(self.norm(s)), x
