"""ActNorm: a learned shift and scale between data and flow space (Kingma and Dhariwal 2018)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

MIN_VARIANCE = 1e-5
"""The smallest variance of a feature at initialization; a constant feature would otherwise get an infinite scale."""


class ActNorm(nn.Module):
    """One scale for all positions, which keeps the flow equivariant, and a shift and a scale for each feature.

    x' = x exp(-x_log_scale),  h' = (h - h_shift) exp(-h_log_scale);
    ladj = -3 (N - 1) x_log_scale - N sum h_log_scale. The subspace of zero centre of mass has 3 (N - 1) dimensions.
    The original code of E-NF counts 3 N, so that all its NLLs are 3 x_log_scale too high.

    Args:
        n_features: the number of features per atom, F.
        n_dims: the number of dimensions of space.
    """

    def __init__(self, n_features: int, n_dims: int = 3) -> None:
        super().__init__()
        self.n_dims = n_dims
        self.x_log_scale = nn.Parameter(torch.zeros(()))
        self.h_shift = nn.Parameter(torch.zeros(n_features))
        self.h_log_scale = nn.Parameter(torch.zeros(n_features))

    @torch.no_grad()
    def initialize(self, x: Float[Tensor, "B N D"], h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> None:
        """Set shift and scale so that a batch has unit variance in flow space."""
        n_atoms = mask.sum()
        variance = x.square().sum() / (self.n_dims * (mask.sum(-1) - 1).clamp_min(0).sum())
        shift = h.sum((0, 1)) / n_atoms
        spread = ((h - shift) * mask.unsqueeze(-1)).square().sum((0, 1)) / n_atoms
        self.x_log_scale.copy_(0.5 * variance.log())
        self.h_shift.copy_(shift)
        self.h_log_scale.copy_(0.5 * spread.clamp_min(MIN_VARIANCE).log())

    def forward(
        self, x: Float[Tensor, "B N D"], h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N F"]]:
        """Map data to flow space; padding stays zero."""
        h = (h - self.h_shift) * torch.exp(-self.h_log_scale)
        return x * torch.exp(-self.x_log_scale), h * mask.unsqueeze(-1)

    def inverse(
        self, x: Float[Tensor, "B N D"], h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N F"]]:
        """Map flow space to data; padding stays zero."""
        h = h * torch.exp(self.h_log_scale) + self.h_shift
        return x * torch.exp(self.x_log_scale), h * mask.unsqueeze(-1)

    def ladj(self, mask: Bool[Tensor, "B N"]) -> Float[Tensor, " B"]:
        """Return the log absolute determinant of the Jacobian of `forward`, nats per molecule."""
        n_atoms = mask.sum(-1).to(self.h_shift)
        return -self.n_dims * (n_atoms - 1).clamp_min(0) * self.x_log_scale - n_atoms * self.h_log_scale.sum()
