"""The likelihood of a molecule from draws of its dequantizer: for each a path, then the divergence along it.

A draw is a state machine that the library drives in a loop and the engine in batches with other requests:
`record` every accepted step of the path, `finish_path`, then `queries` and `answer` until `open` is 0, then `result`.
`Likelihood` (estimate.py) combines the draws.

The tolerance of a path (`EstimatorOptions.path_tolerances`) is a matter of noise, not of bias. Between paths at 1e-5
and 1e-4 log p(z) differs by at most 0.08 nats (48 draws of molecules of 9 to 22 atoms, bundled weights, float32). But
a finite difference takes v(y) from the slope of the path's interpolant, whose error is noise in the divergence. For
five test molecules of 18 atoms 2e-5 in the place of 4e-5 took 5 % more evaluations of the path, and reduced the
variance of a draw of 4 probes from 9 to 6 nats^2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from enflow.model.flow import divergence
from enflow.model.flow.estimate import Draw
from enflow.model.flow.ode import size_buckets
from enflow.model.flow.ode.dense_output import Interpolant, Trajectory
from enflow.model.flow.ode.quadrature import Quadrature
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.ode.stratified_rule import StratifiedRule
from enflow.model.flow.probes import Probes
from enflow.model.flow.velocity import Velocity, unpack

EXACT_PAIRS, PROBE_PAIRS = divergence.PRODUCT_PAIRS // 8, size_buckets.BUCKET_PAIRS
"""Pairs of atoms in one batch of exact traces, and of differences: 18 rows of 18 atoms on a CPU core."""


def quadrature_tolerance(tolerance: float) -> float:
    """Return the error, nats, that the quadrature of an exact divergence may leave: 0.3 at 1e-3 and 0.02 at 1e-5."""
    return float(0.3 * (tolerance / 1e-3) ** 0.6)


Rule = Quadrature | StratifiedRule
"""An integral from t = 1 to 0 that asks for its integrand at `times` until there are none."""


class Query(NamedTuple):
    """A value of the divergence that a draw asks for."""

    t: float
    y: Float[Tensor, "N D"]
    """The packed state."""
    slope: Float[Tensor, "N D"]
    """The derivative of the path at t, which is the velocity up to the solver's error."""
    probe: Float[Tensor, "N D"] | None
    """The noise of Hutchinson's estimate; None = the exact trace."""


class Terms(NamedTuple):
    """The log-densities of a draw that are known before its path, nats, and its pair."""

    log_q: float
    """log q of the dequantized features."""
    ladj: float
    """log |det| of ActNorm, from data on."""
    pair: int | None = None
    """The number of the mirrored pair that the draw belongs to; None = it is independent of all others."""


@dataclass(eq=False)
class DrawState:
    """One draw of a molecule's likelihood in progress.

    Args:
        terms: the log-densities known before the path.
        probes: the noise of an estimated divergence; None = the exact divergence.
        tolerance: of the quadrature of an exact divergence, nats.
    """

    terms: Terms
    probes: Probes | None
    tolerance: float
    pieces: list[Interpolant] = field(default_factory=list)
    end: Draw | None = None
    rule: Rule | None = None
    answers: list[float] = field(default_factory=list)

    def record(self, step: Interpolant, row: int, n_atoms: int) -> None:
        """Keep an accepted step of a row of a batch, without its padding."""
        self.pieces.append(step.row(row, n_atoms))

    def finish_path(
        self, log_prob_base: float, x: Float[Tensor, "N S"], h: Float[Tensor, "N F"], status: Status = Status.SUCCESS
    ) -> None:
        """Take the end of the path: the point under the base and its log-density; queries are next.

        The atoms share the constant of the density equally, except those of a given fragment, whose entries are zeros.
        """
        squares = 0.5 * (x.double().square().sum(-1) + h.double().square().sum(-1))
        free = (squares > 0).to(squares)
        atoms = (squares - free * (log_prob_base + squares.sum()) / free.sum().clamp_min(1)).tolist()
        self.end = Draw(
            log_prob_base, self.terms.ladj, self.terms.log_q, status=status, atoms=atoms, pair=self.terms.pair
        )
        if status != Status.SUCCESS:
            return
        steps = torch.cat([piece.t1 for piece in self.pieces]).tolist()
        if self.probes is None:
            self.rule = Quadrature.between(1.0, 0.0, self.tolerance, steps)
        else:
            self.rule = StratifiedRule.along(steps, self.probes.offsets.numpy())

    @property
    def open(self) -> int:
        """The number of values still wanted, as far as is known; 0 = finished."""
        return 0 if self.rule is None else len(self.rule.times) - len(self.answers)

    def queries(self, limit: int) -> list[Query]:
        """Return the next values wanted, at most `limit`."""
        first = len(self.answers)
        times = [] if self.rule is None else self.rule.times[first : first + limit]
        if not times:
            return []
        accepted = torch.ones(1, dtype=torch.bool, device=self.pieces[0].t0.device)
        trajectory = Trajectory([(accepted, piece) for piece in self.pieces])
        t = self.pieces[0].t0.new_tensor(times)
        steps = trajectory.steps_at(torch.zeros(len(t), dtype=torch.int64, device=t.device), t)
        signs = [None] * len(times) if self.probes is None else list(self.probes.signs[first : first + limit])
        return [Query(*row) for row in zip(times, steps.at(t), steps.slope(t), signs, strict=True)]

    def answer(self, values: Sequence[float]) -> None:
        """Take the values of the queries, in their order."""
        assert self.rule is not None, "the path has not ended"
        assert self.end is not None, "the path has not ended"
        self.answers += values
        self.end = self.end._replace(nodes=self.end.nodes + len(values))
        if not self.open:
            self.rule, self.answers = self.rule.update(self.answers), []

    def result(self, nfe: int) -> Draw:
        """Return the finished draw.

        Args:
            nfe: evaluations of the velocity along the path.
        """
        assert self.end is not None, "the path has not ended"
        rule = self.rule
        if rule is None:
            return self.end._replace(nfe=nfe)
        # log p_t = log p_0 + the integral from t to 0, which is the whole less the part from 1 to t.
        path = [(t, self.end.base + rule.value - grown) for t, grown in sorted(rule.path)]
        return self.end._replace(
            divergence=rule.value + self.terms.ladj,
            variance=rule.variance if isinstance(rule, StratifiedRule) else 0.0,
            quadrature_error=rule.error,
            nfe=nfe,
            path=path,
        )


def evaluate_queries(velocity: Velocity, queries: Sequence[Query], dtype: torch.dtype) -> list[float]:
    """Return the divergences asked for, all exact or all estimated, by one batch padded to its largest molecule.

    Args:
        velocity: the velocity whose divergence is wanted.
        queries: the times, states and probes, of any molecules.
        dtype: the precision of the arithmetic.
    """
    y = pad_sequence([query.y.to(dtype) for query in queries], batch_first=True)
    t = y.new_tensor([query.t for query in queries])
    mask = _mask([len(query.y) for query in queries], y)
    probes = [query.probe for query in queries if query.probe is not None]
    if probes:
        noise, slopes = (
            pad_sequence(each, batch_first=True).to(y) for each in (probes, [query.slope for query in queries])
        )
        return divergence.differences(velocity, t, *unpack(y), mask, noise, slopes).tolist()
    return divergence.exact(velocity, t, *unpack(y), mask).tolist()


def complete_draw(draw: DrawState, velocity: Velocity, dtype: torch.dtype) -> None:
    """Answer the queries of a draw whose path has ended, a batch at a time."""
    pairs = EXACT_PAIRS if draw.probes is None else PROBE_PAIRS
    while draw.open:
        limit = max(1, pairs // draw.pieces[0].y0.shape[1] ** 2)
        draw.answer(evaluate_queries(velocity, draw.queries(limit), dtype))


def _mask(sizes: Sequence[int], y: Float[Tensor, "B N D"]) -> Bool[Tensor, "B N"]:
    return torch.arange(y.shape[1], device=y.device) < torch.tensor(sizes, device=y.device)[:, None]
