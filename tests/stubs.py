"""Flows that obey: the real MoleculeFlow around a velocity with a known solution, which can be told to misbehave."""

import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from enflow.model.config import DequantizerConfig, EGNNConfig, FlowConfig, ParticleConfig
from enflow.model.flow.geometry import centre
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.particle_adapter import ParticleFlowAdapter
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.service.engine.core import Engine

RATE = 0.5
"""Growth of positions over the whole way is exp(RATE), of features exp(-RATE)."""


class Growth(nn.Module):
    """dx = r(t) x, dh = -r(t) h with r(t) = RATE (1 + sin(2 pi t)): x(1) = exp(RATE) x(0), the divergence is known.

    Args:
        pause: seconds an evaluation takes.
        sick: molecules of so many atoms turn to NaN in the middle of their way.
        poison: molecules of so many atoms make it raise.
        memory: rows x atoms^2 beyond which the memory is gone.
        hang: a file; while it exists an evaluation does not return.
    """

    def __init__(
        self, pause: float = 0.0, sick: int = 0, poison: int = 0, memory: float = math.inf, hang: str = ""
    ) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(RATE), requires_grad=False)
        self.pause, self.sick, self.poison = pause, sick, poison
        self.memory, self.hang = memory, hang
        self.largest = 0

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        while self.hang and Path(self.hang).exists():
            time.sleep(0.05)
        time.sleep(self.pause)
        pairs = mask.shape[0] * mask.shape[1] ** 2
        if pairs > self.memory:
            raise torch.OutOfMemoryError(f"{pairs} pairs")
        if (mask.sum(1) == self.poison).any() and self.poison:
            raise IndexError("a defect that shows with this molecule only")
        self.largest = max(self.largest, pairs)
        rate = (self.rate * (1.0 + torch.sin(2 * math.pi * t)))[:, None, None]
        rate = torch.where(((mask.sum(1) == self.sick) & (t > 0.4))[:, None, None], torch.nan, rate)
        return rate * centre(x, mask), -rate * h * mask[..., None]


def flow(dtype: torch.dtype = torch.float64, act_norm: bool = False, **behaviour: float | str) -> MoleculeFlow:
    """A MoleculeFlow that grows its latents."""
    config = FlowConfig(
        dynamics=EGNNConfig(node_dim=4, edge_dim=4, n_layers=1), dequantizer=DequantizerConfig(), act_norm=act_norm
    )
    made = MoleculeFlow(config)
    made.dynamics = Growth(**behaviour)  # type: ignore[arg-type]
    return made.to(dtype).eval()


def engine(pairs: int = 2000, slots: int = 64, max_steps: int = 200, lag: int = 0, **behaviour: float | str) -> Engine:
    """An engine on such a flow; a worker makes it from the name of this function."""
    torch.set_num_threads(1)
    return Engine(flow(**behaviour), pairs=pairs, slots=slots, max_steps=max_steps, lag=lag)


def cluster_engine(pairs: int = 100, **behaviour: float | str) -> Engine:
    """An engine for four particles in the plane that grow their latents, 1.5 times as wide as those of a molecule."""
    torch.set_num_threads(1)
    made = ParticleFlowAdapter(ParticleFlow(ParticleConfig(n_particles=4, n_dims=2, scale=1.5)).double())
    made.dynamics = Growth(**behaviour)  # type: ignore[arg-type]
    return Engine(made.to(torch.float64).eval(), pairs=pairs)


def broken(cure: str) -> Engine:
    """An engine that cannot be made until a file exists."""
    if not Path(cure).exists():
        raise RuntimeError("no device")
    return engine()
