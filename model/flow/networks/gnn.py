"""A graph network with coordinates as plain features: the baseline without equivariance."""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from enflow.model.config import GNNConfig


class GNNLayer(nn.Module):
    """A layer s_i += phi_h(s_i, sum_j m_ij), m_ij = gate(m) * phi_e(s_i, s_j) (Satorras et al. 2021, appendix).

    The first linear map of phi_e is split into a term per receiving and one per sending node.
    """

    def __init__(self, width: int, gate: bool) -> None:
        super().__init__()
        self.receive = nn.Linear(width, width)
        self.send = nn.Linear(width, width, bias=False)
        self.message = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1) if gate else None
        self.node_in = nn.Linear(2 * width, width)
        self.node_out = nn.Linear(width, width)

    def forward(self, s: Tensor, pairs: Tensor) -> Tensor:
        """Return the updated node features (B, N, W), given pair weights (B, N, N)."""
        m = silu(self.receive(s).unsqueeze(-2) + self.send(s).unsqueeze(-3))  # (B, N, N, W)
        m = silu(self.message(m))
        weight = pairs.unsqueeze(-1)
        m = m * (weight if self.gate is None else weight * torch.sigmoid(self.gate(m)))
        updated: Tensor = s + self.node_out(silu(self.node_in(torch.cat([s, m.sum(-2)], -1))))
        return updated


class GNN(nn.Module):
    """A stack of GNN layers, from inputs (B, N, I) to outputs (B, N, n_outputs)."""

    def __init__(self, config: GNNConfig, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(n_inputs, config.node_dim)
        self.layers = nn.ModuleList(GNNLayer(config.node_dim, config.gate) for _ in range(config.n_layers))
        self.readout = nn.Linear(config.node_dim, n_outputs)

    def forward(self, inputs: Tensor, pairs: Tensor) -> Tensor:
        """Return the outputs; `pairs` (B, N, N) is 1 for real pairs."""
        s = self.embed(inputs)
        for layer in self.layers:
            s = layer(s, pairs)
        outputs: Tensor = self.readout(s)
        return outputs
