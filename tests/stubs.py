"""Flows with a known solution whose velocity can misbehave, and engines on them."""

import gc
import math
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from enflow.model.config import DequantizerConfig, EGNNConfig, FlowConfig, ParticleConfig
from enflow.model.flow.geometry import centre
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.particle_adapter import ParticleFlowAdapter
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.service.engine.config import EngineConfig
from enflow.service.engine.core import Engine
from enflow.service.protocol.events import Done, Event
from enflow.service.protocol.requests import EngineRequest

RATE = 0.5
"""From t = 0 to 1 positions grow by exp(RATE), features by exp(-RATE)."""


class Growth(nn.Module):
    """dx = r(t) x, dh = -r(t) h with r(t) = RATE (1 + sin(2 pi t)): x(1) = exp(RATE) x(0), the divergence is known.

    Args:
        pause: seconds of an evaluation.
        non_finite: molecules with this number of atoms have a velocity of NaN from t = 0.4 on.
        poison: molecules with this number of atoms make an evaluation raise.
        memory: rows x atoms^2 above which the memory is exhausted.
        fatal: molecules with this number of atoms end the process.
        killed: molecules with this number of atoms kill it, as the kernel does where memory is short.
        hungry: molecules with this number of atoms ask for more memory than any machine has.
        hang: a file; an evaluation does not return while it exists.
    """

    def __init__(
        self,
        pause: float = 0.0,
        non_finite: int = 0,
        poison: int = 0,
        memory: float = math.inf,
        hang: str = "",
        fatal: int = 0,
        killed: int = 0,
        hungry: int = 0,
    ) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(RATE), requires_grad=False)
        self.pause, self.non_finite, self.poison = pause, non_finite, poison
        self.memory, self.hang, self.fatal = memory, hang, fatal
        self.killed, self.hungry = killed, hungry
        self.largest = 0

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        while self.hang and Path(self.hang).exists():
            time.sleep(0.05)
        time.sleep(self.pause)
        if self.fatal and (mask.sum(1) == self.fatal).any() and (t > 0.2).any():
            os._exit(7)
        if self.killed and (mask.sum(1) == self.killed).any() and (t > 0.2).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.hungry and (mask.sum(1) == self.hungry).any():
            torch.empty(1 << 48)
        pairs = mask.shape[0] * mask.shape[1] ** 2
        if pairs > self.memory:
            raise torch.OutOfMemoryError(f"{pairs} pairs")
        if (mask.sum(1) == self.poison).any() and self.poison:
            raise IndexError("a defect that shows with this molecule only")
        self.largest = max(self.largest, pairs)
        rate = (self.rate * (1.0 + torch.sin(2 * math.pi * t)))[:, None, None]
        rate = torch.where(((mask.sum(1) == self.non_finite) & (t > 0.4))[:, None, None], torch.nan, rate)
        return rate * centre(x, mask), -rate * h * mask[..., None]


def flow(dtype: torch.dtype = torch.float64, act_norm: bool = False, **behaviour: float | str) -> MoleculeFlow:
    """Return a MoleculeFlow with this velocity."""
    config = FlowConfig(
        dynamics=EGNNConfig(node_dim=4, edge_dim=4, n_layers=1), dequantizer=DequantizerConfig(), act_norm=act_norm
    )
    made = MoleculeFlow(config)
    made.dynamics = Growth(**behaviour)  # type: ignore[arg-type]
    return made.to(dtype).eval()


def engine(pairs: int = 2000, slots: int = 64, max_steps: int = 200, lag: int = 0, **behaviour: float | str) -> Engine:
    """Return an engine on such a flow; a worker calls this function by its name."""
    torch.set_num_threads(1)
    config = EngineConfig(pairs=pairs, slots=slots, max_steps=max_steps, lag=lag)
    return Engine(flow(**behaviour), config)


def cluster_engine(pairs: int = 100, **behaviour: float | str) -> Engine:
    """Return an engine for four particles in the plane, with a base 1.5 times as wide as that of a molecule."""
    torch.set_num_threads(1)
    made = ParticleFlowAdapter(ParticleFlow(ParticleConfig(n_particles=4, n_dims=2, scale=1.5)).double())
    made.dynamics = Growth(**behaviour)  # type: ignore[arg-type]
    return Engine(made.to(torch.float64).eval(), EngineConfig(pairs=pairs))


def broken(cure: str) -> Engine:
    """Return an engine, or raise while a file does not exist."""
    if not Path(cure).exists():
        raise RuntimeError(f"no device: {cure} is missing")
    return engine()


def slow_start(seconds: float) -> Engine:
    """Return an engine after some seconds."""
    time.sleep(seconds)
    return engine()


def undead() -> Engine:
    """Close all pipes of the worker, whose process goes on."""
    for each in gc.get_objects():
        if isinstance(each, Connection):
            each.close()
    time.sleep(600)
    raise AssertionError


def run(engine: Engine, request: EngineRequest) -> Iterator[Event]:
    """Run an engine until a request has ended; yield the events of this request, `Done` last."""
    engine.add(request)
    while True:
        for event in engine.step():
            if event.id == request.id:
                yield event
                if isinstance(event, Done):
                    return
