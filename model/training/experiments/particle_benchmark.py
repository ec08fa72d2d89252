"""The training of the cells of a table (see `particle_cells`): each is trained, scored and written to disk."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from enflow.model.card import Card, Dataset
from enflow.model.checkpoint import load_particles, save
from enflow.model.config import (
    DynamicsConfig,
    EGNNConfig,
    GNNConfig,
    KernelConfig,
    ParticleConfig,
    SimpleConfig,
    VectorEGNNConfig,
)
from enflow.model.errors import ConfigError
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.progress import ProgressCallback
from enflow.model.training.config import ParticleTrainConfig
from enflow.model.training.data.particles import Particles
from enflow.model.training.early_stopping import EarlyStopping, train_until_stopped
from enflow.model.training.evaluation.particle_metrics import score
from enflow.model.training.experiments.particle_cells import MODELS, VECTOR, Budget, Cell, Result, write_result
from enflow.model.training.flow_matching import MatchingConfig
from enflow.model.training.git_commit import git_commit
from enflow.model.training.max_likelihood import LikelihoodConfig
from enflow.model.training.optimizer import OptimizerConfig
from enflow.model.training.trainer import Trainer

SCALES = {"dw4": 2.12, "lj13": 0.85, "qm9_positional": 1.6}
"""Standard deviation of each system per dimension."""
N_DIMS = {"dw4": 2, "lj13": 3, "qm9_positional": 3}
N_PARTICLES = {"dw4": 4, "lj13": 13, "qm9_positional": 19}

FEW = 10
"""Greatest number of training samples for which a network of one layer is trained as well. The network with the better
validation NLL is kept, because three layers overfit so few samples."""


@dataclass(frozen=True)
class CellTraining:
    """The configuration of a cell's training."""

    config: ParticleTrainConfig
    stopping: EarlyStopping


def dynamics_of(model: str, n_dims: int) -> DynamicsConfig:
    """Return the velocity of a model of the table; the paper's models have width 32 and three layers.

    Raises:
        ConfigError: there is no such model.
    """
    match model:
        case "enf":
            return EGNNConfig(
                n_features=0, node_dim=32, edge_dim=32, n_layers=3, n_radial=12, layer_norm=False, tanh_range=None,
                message_scale=1.0, n_frequencies=2, size_input=False, output="velocity",
            )  # fmt: skip
        case "gnn" | "gnn_att" | "gnn_att_aug":
            return GNNConfig(n_dims=n_dims, node_dim=32, n_layers=3, gate=model != "gnn", n_frequencies=2)
        case "simple":
            return SimpleConfig()
        case "kernel":
            return KernelConfig()
        case "vector":
            return VectorEGNNConfig(
                n_features=0, node_dim=192, edge_dim=48, n_vectors=16, n_layers=8, n_radial=31, size_input=False,
                output="velocity",
            )  # fmt: skip
    raise ConfigError(f"found model {model!r}; expected one of {', '.join((*MODELS, VECTOR))}")


def configuration(cell: Cell, budget: Budget) -> CellTraining:
    """Return the training of a cell."""
    matching = cell.objective == "flow_matching"
    steps = budget.steps if matching else budget.likelihood_steps
    stopping = EarlyStopping(
        steps=steps,
        checks=min(60, max(1, steps // 100)) if matching else max(1, steps // 10),
        valid_samples=1000 if matching else 200,
    )
    is_large = cell.model == VECTOR and matching
    n_dims = N_DIMS[cell.system]
    flow = ParticleConfig(
        n_particles=N_PARTICLES[cell.system],
        n_dims=n_dims,
        scale=SCALES[cell.system],
        dynamics=dynamics_of(cell.model, n_dims),
    )
    config = ParticleTrainConfig(
        objective="flow_matching" if matching else "likelihood",
        matching=MatchingConfig(time_power=1.0),
        likelihood=LikelihoodConfig(kinetic=0.0, adjoint=False),
        optimizer=_rates(cell),
        seed=cell.seed,
        batch_size=budget.batch_size,
        pair_dtype="bfloat16" if is_large else "float32",
        compile=is_large,
        flow=flow,
        augment=cell.model == "gnn_att_aug",
    )
    return CellTraining(config, stopping)


def _rates(cell: Cell) -> OptimizerConfig:
    """Return the learning rates of a cell: low ones if it starts from the weights of flow matching."""
    if cell.objective == "both":
        return OptimizerConfig(muon_rate=0.001, adam_rate=0.0005, warmup_steps=5, clip=10.0, ema=0.9)
    rates = OptimizerConfig(muon_rate=0.01, adam_rate=0.003, warmup_steps=50, clip=20.0, ema=0.98)
    if cell.model == VECTOR:  # the rates of its training on QM9
        rates = OptimizerConfig(muon_rate=0.012, muon_decay=0.02, adam_rate=0.0012, clip=20.0, ema=0.995)
    return replace(rates, warmup_steps=5) if cell.objective == "likelihood" else rates  # the steps are few


def candidates(cell: Cell, budget: Budget) -> list[CellTraining]:
    """Return the trainings among which the validation NLL chooses: with few samples also one of a single layer."""
    training = configuration(cell, budget)
    flow = training.config.flow
    if cell.samples > FEW or cell.objective != "flow_matching" or isinstance(flow.dynamics, KernelConfig):
        return [training]
    shallow = replace(flow, dynamics=replace(flow.dynamics, n_layers=1))
    return [training, replace(training, config=replace(training.config, flow=shallow))]


def train_cell(
    cell: Cell, budget: Budget, data: Particles, report: ProgressCallback, start: ParticleFlow | None = None
) -> tuple[Result, ParticleFlow]:
    """Train and score one cell.

    Args:
        cell: the cell.
        budget: the computation to spend.
        data: samples of the system.
        report: receives the progress.
        start: a trained flow to start from; None = random weights.
    """
    began = time.process_time()
    trainings = [configuration(cell, budget)] if start else candidates(cell, budget)
    runs = [_train(cell, training, data, report, start) for training in trainings]
    flow, steps = runs[0]
    if len(runs) > 1:
        flow, steps = min(runs, key=lambda run: score(run[0], data, budget.test_samples, budget.tolerance, "valid")[0])
    seconds = time.process_time() - began
    nll, error = score(flow, data, budget.test_samples, budget.tolerance)
    result = Result(
        cell=cell,
        nll=nll,
        nll_error=error,
        above_floor=None if data.entropy is None else nll - data.entropy,
        parameters=sum(p.numel() for p in flow.parameters()),
        steps=steps,
        seconds=round(seconds, 1),
        effort=budget,
    )
    return result, flow


def _train(
    cell: Cell, training: CellTraining, data: Particles, report: ProgressCallback, start: ParticleFlow | None
) -> tuple[ParticleFlow, int]:
    """Return the trained flow and the number of steps taken."""
    if cell.samples > len(data.train):
        raise ConfigError(f"samples is {cell.samples}; expected at most {len(data.train)}")
    train = data.train[: cell.samples]
    trainer = Trainer(training.config)
    trainer.initialize(train, start)
    for check in train_until_stopped(trainer, train, data.valid, training.stopping):
        note = f"loss {check.loss:.3f}, valid {check.valid:.3f}"
        report(f"{cell.name} {training.config.objective}", check.step, training.stopping.steps, note)
    flow: ParticleFlow = trainer.objective.flow(trainer.averaged_network())
    return flow.eval(), trainer.step


def train_cells(
    wanted: Sequence[Cell], budget: Budget, data: Particles, folder: Path, report: ProgressCallback
) -> Iterator[tuple[Cell, bool]]:
    """Train the cells that a folder lacks; yield each wanted cell, and True if it was trained now.

    A cell of "both" needs the cell of "flow_matching" first, which is trained too if it is missing.
    """
    for cell in wanted:
        missing = not (folder / f"{cell.name}.json").exists()
        if missing:
            start = None
            if cell.objective == "both":
                before = replace(cell, objective="flow_matching")
                [*train_cells([before], budget, data, folder, report)]
                start = load_particles(folder / before.name)
            result, flow = train_cell(cell, budget, data, report, start)
            save(flow, folder / cell.name, card_of(cell.name, flow, data, result))
            write_result(folder, result)
        yield cell, missing


def card_of(name: str, flow: ParticleFlow, data: Particles, result: Result) -> Card:
    """Return the card of a cell's weights."""
    metrics = {
        "test_nll": result.nll,
        "test_nll_se": result.nll_error,
        "entropy_floor": data.entropy,
        "entropy_floor_se": data.entropy_error,
        "train_samples": result.cell.samples,
        "test_samples": result.effort.test_samples,
        "tolerance": result.effort.tolerance,
    }
    split = "train, valid and test by chain" if data.potential else "train, valid and test of QM9, 19 atoms"
    return Card(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=git_commit(),
        config=flow.config,
        dataset=Dataset(data.name, data.sha256, split),
        seed=result.cell.seed,
        licence="MIT",
        metrics=metrics,
        units="those of the potential (lengths, temperature 1), nats" if data.potential else "angstrom, nats",
    )
