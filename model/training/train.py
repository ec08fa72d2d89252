"""Training by flow matching or by likelihood: one configuration file, exact resuming, checkpoints on the way."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.checkpoint import load
from model.config import EGNNConfig, FlowConfig, VectorEGNNConfig, from_json
from model.errors import ConfigError, DataError
from model.flow.dequantize import LEARNED
from model.flow.molecule_flow import MoleculeFlow
from model.training.compact import compacted, expanded
from model.training.data import Molecules, batches, data_file, load_qm9
from model.training.likelihood import LikelihoodConfig
from model.training.losses import MatchingConfig
from model.training.objectives import DequantizerFit, FlowMatching, MaximumLikelihood, Objective
from model.training.optimizer import Optimizer, OptimizerConfig, rate_at, update_average
from model.training.widen import widened

OBJECTIVES = ("flow_matching", "likelihood", "dequantizer")

PAIR_DTYPES = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run.

    Attributes:
        name: of the weights that come out.
        objective: "flow_matching" (of the velocity alone), "likelihood" (of the whole flow), or "dequantizer" (the
            likelihood too, of a learned dequantizer around the flow of `start`, which stays as it is).
        flow: the model.
        start: weights to go on from, of the same model, for instance to finish by likelihood what flow matching began,
            or of a smaller one, which is widened (see `widen`); where types are given, also those of the model that
            draws them; None = fresh ones.
        likelihood: how the likelihood is estimated, for that objective.
        passes: molecules shown before training stops (an annealing may end it earlier).
        batch_size: molecules of one size per step.
        matching: the flow matching, for that objective.
        pair_dtype, compile: for flow matching: dtype of the messages while training; compile the layers with
            torch.compile.
        checkpoint_minutes: between two writings of the state.
    """

    name: str = "qm9"
    objective: str = "flow_matching"
    flow: FlowConfig = field(default_factory=FlowConfig)
    start: str | None = None
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0
    passes: int = 10_000_000
    batch_size: int = 64
    pair_dtype: str = "float32"
    compile: bool = False
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        if self.pair_dtype not in PAIR_DTYPES:
            raise ConfigError(f"pair_dtype is {self.pair_dtype!r}; expected one of {', '.join(PAIR_DTYPES)}")
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective is {self.objective!r}; expected one of {', '.join(OBJECTIVES)}")
        if self.objective != "flow_matching" and (self.compile or self.pair_dtype != "float32"):
            raise ConfigError(f'objective is "{self.objective}": its solver needs pair_dtype "float32" and no compile')
        if self.objective == "dequantizer" and (self.start is None or self.flow.dequantizer.kind not in LEARNED):
            raise ConfigError(f'objective is "dequantizer"; expected a start and a kind of {", ".join(LEARNED)}')


def read_config(path: Path) -> TrainConfig:
    """Read a training configuration.

    Raises:
        ConfigError: if the file is missing, is no JSON, or holds an unknown key or a wrong value.
    """
    try:
        return from_json(TrainConfig, json.loads(path.read_text()), where=path.name)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error


class Trainer:
    """The state of a run: network, its average, optimizer, step and molecules seen.

    Args:
        objective: None = the one that the configuration names.
    """

    def __init__(self, config: TrainConfig, device: str = "cpu", objective: Objective | None = None) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.objective = objective or objective_of(config, device)
        self.network = self.objective.build()
        self.average = [p.detach().clone() for p in self.network.parameters()]
        self.optimizer = Optimizer(self.network, config.optimizer)
        self.step = 0
        self.passes = 0
        self.anneal: tuple[int, int] | None = None

    def state(self) -> dict[str, Any]:
        """All that resuming needs, as tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "passes": self.passes,
            "anneal": self.anneal,
        }

    def load(self, path: Path) -> None:
        """Go on from a state written by `save`.

        Raises:
            DataError: if the file is not a training state of this configuration.
        """
        try:
            state = expanded(torch.load(path, map_location=self.device, weights_only=True))
            self.network.load_state_dict(state["network"])
        except Exception as error:
            raise DataError(f"{path} is not a training state of this configuration: {error}") from error
        for mine, theirs in zip(self.average, state["average"], strict=True):
            mine.copy_(theirs)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.passes, self.anneal = state["step"], state["passes"], state["anneal"]

    def save(self, path: Path, *, compact: bool = False) -> None:
        """Write the state; a reader sees the old file or the new one, never half of one.

        Args:
            path: of the file.
            compact: write 8 bytes a parameter instead of 12 (see `compact`), for a repository.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(compacted(self.state()) if compact else self.state(), path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    @property
    def left(self) -> int:
        """Molecules still to be shown."""
        if self.anneal is not None:
            return (sum(self.anneal) - self.step) * self.config.batch_size
        return self.config.passes - self.passes

    def averaged_network(self) -> nn.Module:
        """A copy of the network that holds the averaged parameters."""
        network: nn.Module = self.objective.build()
        network.load_state_dict(self.network.state_dict())
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), self.average, strict=True):
                parameter.copy_(value)
        return network

    def begin(self, data: Molecules) -> None:
        """What precedes the first step: take over weights, or set what is counted in the data and not learned.

        Raises:
            WeightsError: the weights to start from cannot be read.
            ConfigError: they are of another model.
        """
        if self.config.start is None:
            self.objective.begin(self.network, data)
        else:
            self.objective.adopt(self.network, _starting_flow(self.config, self.config.start))
        self.average = [p.detach().clone() for p in self.network.parameters()]

    def draw(self, data: Molecules, rows: np.ndarray, step: int) -> Any:
        """All that is random in one step; a pure function of (seed, step)."""
        return self.objective.draw(self.network, data, rows, self.config.seed, step)

    def update(self, network: Callable[..., Any], drawn: Any, n_molecules: int) -> dict[str, float]:
        """One optimizer step."""
        rate = rate_at(self.step, self.config.optimizer.warmup_steps, self.anneal)
        losses = self.objective.losses(network, drawn)
        torch.autograd.backward(torch.stack([loss.mean() for loss in losses.values()]).sum())
        norm = self.optimizer.step(rate)
        update_average(self.average, self.network.parameters(), self.step, self.config.optimizer.ema)
        self.step += 1
        self.passes += n_molecules
        return {**{k: float(v.detach().mean()) for k, v in losses.items()}, "rate": rate, "norm": norm}

    def validate(self, drawn: list[Any]) -> dict[str, Any]:
        """How the averaged network does on fixed draws."""
        return self.objective.validate(self.averaged_network(), drawn)


def objective_of(config: TrainConfig, device: str) -> Objective:
    """The objective that a configuration names."""
    if config.objective == "dequantizer":
        return DequantizerFit(config.flow, config.likelihood, device)
    if config.objective == "likelihood":
        return MaximumLikelihood(config.flow, config.likelihood, device)
    return FlowMatching(config.flow, config.matching, device)


def _starting_flow(config: TrainConfig, start: str) -> MoleculeFlow:
    flow = load(start)
    expected = config.flow
    if config.objective == "dequantizer":
        expected = replace(expected, dequantizer=flow.config.dequantizer)
    elif expected.dequantizer.kind == "given" and isinstance(expected.dynamics, EGNNConfig | VectorEGNNConfig):
        found, dynamics = flow.config.dynamics, expected.dynamics
        if isinstance(found, EGNNConfig | VectorEGNNConfig):  # what becomes of types is of no matter where they stay
            dynamics = replace(dynamics, output=found.output, odd_types=found.odd_types)
        expected = replace(expected, dynamics=dynamics, dequantizer=flow.config.dequantizer)
    if flow.config == expected:
        return flow
    try:
        return widened(flow, expected)
    except ConfigError as error:
        raise ConfigError(f"{start} holds another model than the configuration's flow: {error}") from None


def compiled(network: Any, config: TrainConfig) -> Callable[..., Any]:
    """The network as training calls it: messages in the chosen dtype, layers compiled one by one."""
    if config.objective == "flow_matching":
        network.pair_dtype = PAIR_DTYPES[config.pair_dtype]
    if config.compile:
        for layer in network.network.layers:
            layer.compile(dynamic=True)
    return network  # type: ignore[no-any-return]


def train(
    config: TrainConfig, run: Path, *, resume: bool, anneal: int | None = None, device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """Train and yield a record about every ten seconds; write `state.pt` and `metrics.jsonl` into the folder `run`.

    An annealing of `anneal` molecules takes the state of a run at constant rate, lowers the rate to zero and writes
    `annealed.pt` beside it; the run itself can be resumed from `state.pt` as before.

    Raises:
        DataError: if there is no data, or no state to resume from, or a state to be overwritten.
    """
    trainer = Trainer(config, device)
    start, out = run / "state.pt", run / ("state.pt" if anneal is None else "annealed.pt")
    if anneal is not None and resume and out.exists():
        start = out
    if resume or anneal is not None:
        if not start.exists():
            raise DataError(f"no {start} to go on from; start without --resume")
        trainer.load(start)
    elif start.exists():
        raise DataError(f"{start} exists; go on with --resume, or name another folder")
    if anneal is not None and trainer.anneal is None:
        trainer.anneal = (trainer.step, max(1, anneal // config.batch_size))
    yield from _run(trainer, out)


def _run(trainer: Trainer, out: Path) -> Iterator[dict[str, Any]]:
    config = trainer.config
    path = data_file()
    data = load_qm9(path, "train", config.flow.vocabulary)
    if trainer.step == 0:
        trainer.begin(data)
    held_out = _held_out(load_qm9(path, "valid", config.flow.vocabulary), trainer)
    network = compiled(trainer.network, config)
    meter, saved = Meter(trainer), time.monotonic()
    for rows in batches(data.n_atoms, config.batch_size, config.seed, trainer.step):
        if trainer.left <= 0:
            break
        meter.add(trainer.update(network, trainer.draw(data, rows, trainer.step), len(rows)))
        save = time.monotonic() - saved > 60 * config.checkpoint_minutes
        if meter.due or save:
            record = meter.read()
            if save:
                record["valid"] = trainer.validate(held_out)
                trainer.save(out)
                saved = time.monotonic()
            yield _log(out.parent, record)
    trainer.save(out)
    yield _log(out.parent, {"step": trainer.step, "passes": trainer.passes, "valid": trainer.validate(held_out)})


class Meter:
    """What a run did since it was last asked: mean losses, molecules per second, seconds left at that speed."""

    SECONDS = 10.0

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._start()

    def _start(self) -> None:
        self.window: list[dict[str, float]] = []
        self.passes, self.since = self.trainer.passes, time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self.since > self.SECONDS

    def add(self, values: dict[str, float]) -> None:
        self.window.append(values)

    def read(self) -> dict[str, Any]:
        speed = (self.trainer.passes - self.passes) / (time.monotonic() - self.since)
        means = {k: round(sum(r[k] for r in self.window) / len(self.window), 5) for k in self.window[0]}
        record = {
            "step": self.trainer.step,
            "passes": self.trainer.passes,
            "molecules_per_s": round(speed, 1),
            "seconds_left": round(self.trainer.left / speed),
            **means,
        }
        self._start()
        return record


def _held_out(data: Molecules, trainer: Trainer) -> list[Any]:
    """Fixed draws: the first eight batches of the held-out molecules in an order of their own.

    As large as those of the training: where a solver makes a step slow, it makes looking slow too.
    """
    picks = itertools.islice(batches(data.n_atoms, trainer.config.batch_size, seed=1, first_step=0), 8)
    return [trainer.draw(data, rows, 2**40 + i) for i, rows in enumerate(picks)]


def _log(run: Path, record: dict[str, Any]) -> dict[str, Any]:
    run.mkdir(parents=True, exist_ok=True)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    return record
