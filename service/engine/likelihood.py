"""One draw of a molecule's likelihood under way: its path from data to base, then the divergence along it."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from enflow.model.flow import divergence
from enflow.model.flow.likelihood import Draw
from enflow.model.flow.ode.dense_output import Interpolant, Trajectory
from enflow.model.flow.ode.dopri5 import Status
from enflow.model.flow.ode.quadrature import Quadrature
from enflow.model.flow.velocity import Velocity, unpack
from enflow.service.protocol.requests import LatentArrays


class Query(NamedTuple):
    """A value of the divergence that a quadrature asks for: which one, when, the state (N, 3 + F), its probe."""

    integral: int
    t: float
    y: Tensor
    probe: Tensor | None


@dataclass(eq=False)
class DivergenceState:
    """What a draw knows so far, in nats.

    log_q: of the dequantizer. ladj: of ActNorm, from data on. probes: Hutchinson's, (N, 3 + F) each; none = the exact
    trace. tolerance: of the quadrature.
    """

    log_q: float
    ladj: float
    probes: list[Tensor]
    tolerance: float
    pieces: list[Interpolant] = field(default_factory=list)
    base: float = 0.0
    atoms: list[float] = field(default_factory=list)
    nodes: int = 0
    integrals: list[Quadrature] = field(default_factory=list)
    _trajectory: Trajectory | None = None
    _told: list[list[float]] = field(default_factory=list)

    @property
    def open(self) -> int:
        """Values still wanted, as far as is known."""
        return sum(len(one.times) - len(told) for one, told in zip(self.integrals, self._told, strict=True))

    def draw(self, nfe: int) -> Draw:
        """What is known once no value is wanted any more; nfe: evaluations along the path."""
        values = [integral.value + self.ladj for integral in self.integrals]
        error = max(integral.error for integral in self.integrals)
        return Draw(self.base, values, self.log_q, error, nfe, self.nodes, Status.SUCCESS, self._path(), self.atoms)

    def _path(self) -> list[tuple[float, float]]:
        # log p_t = log p_0 + the integral from t to 0, which is the whole less what it has grown to at t. Of several
        # probes the mean, on the nodes of all: what a straight line misses between two is far below a probe's error.
        grown = [(integral.value, np.array(sorted(integral.path)).T) for integral in self.integrals]
        times = np.unique(np.concatenate([t for _, (t, _) in grown]))
        mean = np.mean([whole - np.interp(times, t, value) for whole, (t, value) in grown], axis=0)
        return list(zip(times.tolist(), (self.base + mean).tolist(), strict=True))

    def record(self, step: Interpolant, row: int, n_atoms: int) -> None:
        """Keep a row's accepted step, without the padding."""
        self.pieces.append(
            Interpolant(*(f[row : row + 1] if f.ndim == 1 else f[row : row + 1, :n_atoms] for f in step))
        )

    def arrive(self, base: float, latent: LatentArrays) -> None:
        """The path has reached the base, whose log-density there is given: the divergence is next."""
        self.base = base
        squares = 0.5 * ((latent.x**2).sum(-1) + (latent.h**2).sum(-1))
        self.atoms = (squares - (base + squares.sum()) / len(squares)).tolist()  # each an equal share of the constant
        accepted = torch.ones(1, dtype=torch.bool, device=self.pieces[0].t0.device)
        self._trajectory = Trajectory([(accepted, piece) for piece in self.pieces])
        self.pieces = []
        count = max(1, len(self.probes))
        steps = self._trajectory.steps_of(0)
        self.integrals = [Quadrature.between(1.0, 0.0, self.tolerance, steps) for _ in range(count)]
        self._told = [[] for _ in range(count)]

    def queries(self, limit: int) -> list[Query]:
        """The next values wanted, at most `limit`; none = finished."""
        assert self._trajectory is not None, "the path has not arrived"
        open_ = enumerate(zip(self.integrals, self._told, strict=True))
        wanted = [(i, t) for i, (integral, told) in open_ for t in integral.times[len(told) :]][:limit]
        if not wanted:
            return []
        t = self._trajectory.pieces.t0.new_tensor([t for _, t in wanted])
        states = self._trajectory.of(torch.zeros(len(t), dtype=torch.int64, device=t.device), t)
        return [
            Query(i, t, y, self.probes[i] if self.probes else None) for (i, t), y in zip(wanted, states, strict=True)
        ]

    def tell(self, integral: int, value: float) -> None:
        """The answer to the first open query of an integral."""
        told, quadrature = self._told[integral], self.integrals[integral]
        told.append(value)
        self.nodes += 1
        if len(told) == len(quadrature.times):
            self.integrals[integral] = quadrature.told(told)
            self._told[integral] = []


def evaluate(velocity: Velocity, queries: list[Query], dtype: torch.dtype) -> list[float]:
    """The divergences asked for, all exact or all by probe, in one batch padded to the largest."""
    rows = [query.y.to(dtype) for query in queries]
    y = _padded(rows)
    n_atoms = torch.tensor([len(row) for row in rows], device=y.device)
    mask = torch.arange(y.shape[1], device=y.device) < n_atoms[:, None]
    t = y.new_tensor([query.t for query in queries])
    probes = [query.probe for query in queries if query.probe is not None]
    x, h = unpack(y)
    if probes:
        return divergence.hutchinson(velocity, t, x, h, mask, _padded(probes).to(y)).tolist()
    return divergence.exact(velocity, t, x, h, mask).tolist()


def _padded(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
