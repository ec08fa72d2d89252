"""Training of a ParticleFlow: by flow matching, by likelihood, or by the one after the other; validated on the way."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from enflow.model.config import ParticleConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.divergence import rademacher
from enflow.model.flow.geometry import centre
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.torchdiffeq_solver import solve
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.training.data.particles import Particles
from enflow.model.training.flow_matching import rotate_onto
from enflow.model.training.max_likelihood import LikelihoodConfig
from enflow.model.training.optimizer import Optimizer, OptimizerConfig, rate_at, update_average

Positions = NDArray[np.float32]


@dataclass(frozen=True)
class TrainingStage:
    """One objective for a while.

    Attributes:
        objective: "flow_matching" or "likelihood".
        steps: at most; the learning rate falls to zero along a cosine, after its warm-up.
        batch_size: samples per step.
        checks: validations on the way, evenly spaced; the best average of the parameters is kept.
        patience: validations without a better one after which the stage ends.
        valid_samples: of a validation, at most.
        optimizer: rates and their schedule.
    """

    objective: str = "flow_matching"
    steps: int = 2000
    batch_size: int = 256
    checks: int = 20
    patience: int = 6
    valid_samples: int = 1000
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(warmup_steps=50, ema=0.99))

    def __post_init__(self) -> None:
        if self.objective not in ("flow_matching", "likelihood"):
            raise ConfigError(f'objective is {self.objective!r}; expected "flow_matching" or "likelihood"')


@dataclass(frozen=True)
class ParticleTraining:
    """Everything that decides a run.

    Attributes:
        system: whose samples (see `particles.load`).
        samples: training samples.
        augment: turn every sample at random each time that it is shown.
        stages: one after the other.
        likelihood: how the likelihood is estimated in stages of that objective.
        time_power: for flow matching: density of times proportional to t^time_power.
        compile: compile the layers, and let messages have bfloat16, while training by flow matching: a minute to start,
            then faster where the network is large.
    """

    system: str
    samples: int
    flow: ParticleConfig
    augment: bool = False
    stages: tuple[TrainingStage, ...] = (TrainingStage(),)
    likelihood: LikelihoodConfig = field(default_factory=lambda: LikelihoodConfig(kinetic=0.0, adjoint=False))
    time_power: float = 0.0
    seed: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        if self.compile and any(stage.objective != "flow_matching" for stage in self.stages):
            raise ConfigError('compile is true; expected stages of "flow_matching" alone: a solver needs float32')


def couple_particles(x1: Positions, turn: bool, rng: np.random.Generator) -> Positions:
    """Noise for samples (B, N, D) of zero mean, brought near them: its particles reordered, and turned (O(D)) if asked.

    Turning keeps the noise's distribution where every orientation of a sample is as likely, or where the velocity is
    equivariant; for any other it must not be asked for.
    """
    x0 = rng.standard_normal(x1.shape, dtype=np.float32)
    x0 -= x0.mean(1, keepdims=True)
    cost = -x1 @ x0.transpose(0, 2, 1)
    order = np.stack([linear_sum_assignment(c)[1] for c in cost])
    x0 = np.take_along_axis(x0, order[..., None], 1)
    return rotate_onto(x0, x1) if turn else x0


def random_turns(n: int, n_dims: int, rng: np.random.Generator) -> Positions:
    """Orthogonal matrices (n, D, D), uniform (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((n, n_dims, n_dims)))
    turns: Positions = (q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]).astype(np.float32)
    return turns


class ParticleTrainer:
    """A run: its flow, its samples in flow space, its current stage.

    Args:
        config, data: what it is.
        flow: trained before, to go on from; None = a new one.
    """

    def __init__(self, config: ParticleTraining, data: Particles, flow: ParticleFlow | None = None) -> None:
        if config.samples > len(data.train):
            raise ConfigError(f"samples is {config.samples}; expected at most {len(data.train)}")
        torch.manual_seed(config.seed)
        self.config = config
        self.flow = (flow or ParticleFlow(config.flow)).float()
        self.network = _compiled(self.flow.dynamics) if config.compile else self.flow.dynamics
        self.train = _normal(data.train[: config.samples], config.flow.scale)
        self.valid = _normal(data.valid, config.flow.scale)

    def run(self) -> Iterator[tuple[int, int, float, float]]:
        """Train; at every check the stage's number, the step, the training loss since the last, the validation loss."""
        for number, stage in enumerate(self.config.stages):
            yield from self._stage(number, stage)

    def _stage(self, number: int, stage: TrainingStage) -> Iterator[tuple[int, int, float, float]]:
        network = self.network
        average = [p.detach().clone() for p in network.parameters()]
        optimizer = Optimizer(network, stage.optimizer)
        every = max(1, stage.steps // stage.checks)
        best, best_step, best_average = self._validate(stage, average), 0, [p.clone() for p in average]
        losses = []
        for step in range(stage.steps):
            rng = np.random.default_rng([self.config.seed, number, step])
            loss = self._losses(stage, self._batch(stage.batch_size, rng), rng).mean()
            torch.autograd.backward(loss)
            optimizer.step(rate_at(step, stage.optimizer.warmup_steps, (0, stage.steps)))
            update_average(average, network.parameters(), step, stage.optimizer.ema)
            losses.append(float(loss.detach()))
            if (step + 1) % every == 0:
                valid = self._validate(stage, average)
                if valid < best:
                    best, best_step, best_average = valid, step, [p.clone() for p in average]
                yield number, step + 1, float(np.mean(losses)), valid
                losses = []
                if step - best_step >= stage.patience * every:
                    break
        _put(network, best_average)
        _put(self.flow.dynamics, best_average)

    def _batch(self, size: int, rng: np.random.Generator) -> Positions:
        x = self.train[rng.integers(len(self.train), size=size)]
        return x @ random_turns(size, x.shape[-1], rng) if self.config.augment else x

    def _losses(self, stage: TrainingStage, x: Positions, rng: np.random.Generator) -> Tensor:
        if stage.objective == "likelihood":
            return self._likelihood(torch.from_numpy(x), int(rng.integers(2**31)))
        turn = bool(self.flow.dynamics.equivariant) or self.config.augment
        x0, x1 = torch.from_numpy(couple_particles(x, turn, rng)), torch.from_numpy(x)
        t = torch.from_numpy(rng.random(len(x), dtype=np.float32) ** (1.0 / (self.config.time_power + 1.0)))
        return velocity_error(self.network, x0, x1, t)

    def _likelihood(self, x: Tensor, seed: int) -> Tensor:
        config = self.config.likelihood
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        probe = None
        if config.probe != "exact":
            sources = [generator(seed, row, "probe") for row in range(len(x))]
            probe = rademacher(sources, mask, 0, x.shape[-1]).to(x)
        adjoint = list(self.network.parameters()) if config.adjoint else None
        rules = config.tolerance, config.tolerance, adjoint, config.regularised
        end = solve(self.network, x, x[..., :0], mask, 1.0, 0.0, probe, *rules)
        nll = -(end.ladj + self.flow.base.log_prob(end.x, mask))
        return nll + config.kinetic * end.kinetic + config.jacobian * end.frobenius

    @torch.no_grad()
    def _validate(self, stage: TrainingStage, average: list[Tensor]) -> float:
        mine = [p.detach().clone() for p in self.network.parameters()]
        _put(self.network, average)
        rng = np.random.default_rng([7, stage.steps])  # the same noise at every check
        valid = self.valid[: stage.valid_samples]
        parts = np.array_split(valid, math.ceil(len(valid) / max(256, stage.batch_size)))
        losses = [float(self._losses(stage, part, rng).sum()) for part in parts]
        _put(self.network, mine)
        return sum(losses) / len(valid)


def velocity_error(velocity: Callable[..., tuple[Tensor, Tensor]], x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Squared error of the velocity on the straight path from x0 to x1 at times t, (B,)."""
    mask = torch.ones(x0.shape[:2], dtype=torch.bool)
    x = torch.lerp(x0, x1, t[:, None, None])
    dx, _ = velocity(t, x, x[..., :0], mask)
    return (dx - centre(x1 - x0, mask)).square().sum((1, 2))


def _normal(x: Positions, scale: float) -> Positions:
    """Centred, in units of the flow."""
    centred: Positions = ((x - x.mean(1, keepdims=True)) / scale).astype(np.float32)
    return centred


def _compiled(network: Any) -> Any:
    """A copy that trains faster: its layers compiled one by one, messages in bfloat16."""
    network = copy.deepcopy(network)
    network.pair_dtype = torch.bfloat16
    for layer in network.network.layers:
        layer.compile(dynamic=True)
    return network


@torch.no_grad()
def _put(network: nn.Module, values: list[Tensor]) -> None:
    for parameter, value in zip(network.parameters(), values, strict=True):
        parameter.copy_(value)
