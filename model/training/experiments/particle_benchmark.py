"""The paper's table of the particle systems: six models, sizes of the training set, seeds; a cell is one of each.

A cell is trained, scored on test samples with the exact divergence, and kept on disk as it is finished.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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
    from_json,
)
from enflow.model.errors import ConfigError
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.training.data.particles import Particles
from enflow.model.training.evaluation.particle_metrics import Report, score
from enflow.model.training.optimizer import OptimizerConfig
from enflow.model.training.particle_trainer import ParticleTrainer, ParticleTraining, TrainingStage
from enflow.model.training.provenance import commit

MODELS = ("enf", "gnn", "gnn_att", "gnn_att_aug", "simple", "kernel")
"""Of the paper."""
VECTOR = "vector"
"""Not of the paper: the network of Enflow's own model of QM9, which the tables hold where it was asked for."""
SIZES: dict[str, tuple[int, ...]] = {
    "dw4": (100, 1000, 10_000, 100_000),
    "lj13": (10, 100, 1000, 10_000),
    "qm9_positional": (13_808,),
}
OBJECTIVES = ("flow_matching", "likelihood", "both")
"""How a cell is trained: "likelihood" is the paper's way; "both" goes on by it from the weights of "flow_matching"."""
SCALES = {"dw4": 2.12, "lj13": 0.85, "qm9_positional": 1.6}
"""Spread of the systems per dimension."""
N_DIMS = {"dw4": 2, "lj13": 3, "qm9_positional": 3}
N_PARTICLES = {"dw4": 4, "lj13": 13, "qm9_positional": 19}

FEW = 10
"""Training samples up to which a network of one layer is tried as well, and whichever has the better NLL of validation
samples is kept: three layers learn so few by heart."""

PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "dw4": {
        "gnn": (11.93, 11.31, 10.38, 7.95),
        "gnn_att": (11.65, 11.13, 9.34, 7.83),
        "gnn_att_aug": (8.81, 8.31, 7.90, 7.61),
        "simple": (9.58, 9.51, 9.53, 9.47),
        "kernel": (8.74, 8.67, 8.42, 8.26),
        "enf": (8.31, 8.15, 7.69, 7.48),
    },
    "lj13": {
        "gnn": (43.56, 42.84, 37.17, 36.49),
        "gnn_att": (43.32, 36.22, 33.84, 32.65),
        "gnn_att_aug": (41.09, 31.50, 30.74, 30.93),
        "simple": (33.67, 33.10, 32.79, 32.99),
        "kernel": (35.03, 31.49, 31.17, 31.25),
        "enf": (33.12, 30.99, 30.56, 30.41),
    },
    "qm9_positional": {
        "gnn": (-0.9,),
        "gnn_att": (-26.6,),
        "gnn_att_aug": (-33.5,),
        "simple": (73.0,),
        "kernel": (38.6,),
        "enf": (-70.2,),
    },
}
"""Test NLL at the sizes above as Satorras et al. 2021 print it, on samples of their own that are not to be had."""


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        objective: of its training, one of OBJECTIVES.
    """

    system: str
    model: str
    samples: int
    seed: int
    objective: str = "flow_matching"

    @property
    def name(self) -> str:
        """Of its files."""
        suffix = "" if self.objective == "flow_matching" else f"-{self.objective}"
        return f"{self.system}-{self.model}-{self.samples}-{self.seed}{suffix}"


@dataclass(frozen=True)
class Effort:
    """How much is spent on a cell.

    Attributes:
        steps: of flow matching, at most.
        likelihood_steps: by likelihood, at most, afterwards.
        batch_size: samples per step.
        test_samples: that are scored.
        tolerance: at which.
    """

    steps: int
    likelihood_steps: int
    batch_size: int
    test_samples: int
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.steps + self.likelihood_steps < 1:
            raise ConfigError("found no steps of flow matching and none of likelihood; expected some")

    @property
    def objective(self) -> str:
        """What cells of this effort are trained by."""
        if not self.likelihood_steps:
            return "flow_matching"
        return "both" if self.steps else "likelihood"


@dataclass(frozen=True)
class Result:
    """What came of a cell, nats per sample.

    Attributes:
        nll: of test samples; where the energy is known, its fluctuation between them is taken out (see `score`).
        nll_error: its standard error.
        above_floor: nll less the entropy of the distribution; None where that is not known.
        parameters: of the network that was kept (see `candidates`).
        steps: that it took.
        seconds: processor time of all training, and of the choice.
        effort: what was meant to be spent.
    """

    cell: Cell
    nll: float
    nll_error: float
    above_floor: float | None
    parameters: int
    steps: int
    seconds: float
    effort: Effort


def dynamics_of(model: str, n_dims: int) -> DynamicsConfig:
    """The velocity of a model of the table; those of the paper are all of about the same width (32, three layers).

    Raises:
        ConfigError: no such model.
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


def configuration(cell: Cell, effort: Effort) -> ParticleTraining:
    """How a cell is trained: by flow matching, or by likelihood, gently where it goes on from the former."""
    n_dims = N_DIMS[cell.system]
    flow = ParticleConfig(
        n_particles=N_PARTICLES[cell.system],
        n_dims=n_dims,
        scale=SCALES[cell.system],
        dynamics=dynamics_of(cell.model, n_dims),
    )
    brisk = OptimizerConfig(muon_rate=0.01, adam_rate=0.003, warmup_steps=50, clip=20.0, ema=0.98)
    if cell.model == VECTOR:  # as it is trained on QM9
        brisk = OptimizerConfig(muon_rate=0.012, muon_decay=0.02, adam_rate=0.0012, clip=20.0, ema=0.995)
    gentle = OptimizerConfig(muon_rate=0.001, adam_rate=0.0005, warmup_steps=5, clip=10.0, ema=0.9)
    if cell.objective == "flow_matching":
        checks = min(60, max(1, effort.steps // 100))
        stage = TrainingStage("flow_matching", effort.steps, effort.batch_size, checks, optimizer=brisk)
    else:
        checks = max(1, effort.likelihood_steps // 10)
        rates = gentle if cell.objective == "both" else replace(brisk, warmup_steps=5)  # its steps are few
        stage = TrainingStage("likelihood", effort.likelihood_steps, effort.batch_size, checks, 6, 200, rates)
    augment = cell.model == "gnn_att_aug"
    large = cell.model == VECTOR and cell.objective == "flow_matching"
    return ParticleTraining(
        cell.system, cell.samples, flow, augment, (stage,), time_power=1.0, seed=cell.seed, compile=large
    )


def candidates(cell: Cell, effort: Effort) -> list[ParticleTraining]:
    """Ways to train a cell, of which the NLL of validation samples chooses: of few also with a single layer."""
    config = configuration(cell, effort)
    dynamics = config.flow.dynamics
    if cell.samples > FEW or cell.objective != "flow_matching" or isinstance(dynamics, KernelConfig):
        return [config]
    return [config, replace(config, flow=replace(config.flow, dynamics=replace(dynamics, n_layers=1)))]


def fill(
    cell: Cell, effort: Effort, data: Particles, report: Report, flow: ParticleFlow | None = None
) -> tuple[Result, ParticleFlow]:
    """Train and score one cell; from a flow that is trained already where it goes on by likelihood."""
    began = time.process_time()
    ways = [configuration(cell, effort)] if flow else candidates(cell, effort)
    runs = [_train(cell, config, data, report, flow) for config in ways]
    trained, taken = runs[0]
    if len(runs) > 1:
        trained, taken = min(
            runs, key=lambda run: score(run[0], data, effort.test_samples, effort.tolerance, "valid")[0]
        )
    seconds = time.process_time() - began
    nll, error = score(trained, data, effort.test_samples, effort.tolerance)
    result = Result(
        cell=cell,
        nll=nll,
        nll_error=error,
        above_floor=None if data.entropy is None else nll - data.entropy,
        parameters=sum(p.numel() for p in trained.parameters()),
        steps=taken,
        seconds=round(seconds, 1),
        effort=effort,
    )
    return result, trained


def _train(
    cell: Cell, config: ParticleTraining, data: Particles, report: Report, flow: ParticleFlow | None
) -> tuple[ParticleFlow, int]:
    """The flow that comes of it, and the steps it took."""
    (stage,) = config.stages
    trainer, taken = ParticleTrainer(config, data, flow), 0
    for _, taken, loss, valid in trainer.run():
        report(f"{cell.name} {stage.objective}", taken, stage.steps, f"loss {loss:.3f}, valid {valid:.3f}")
    return trainer.flow.eval(), taken


def fill_all(
    wanted: Sequence[Cell], effort: Effort, data: Particles, folder: Path, report: Report
) -> Iterator[tuple[Cell, bool]]:
    """Fill the cells that a folder lacks, with those of flow matching that "both" goes on from; each, and if it was."""
    for cell in wanted:
        lacking = not (folder / f"{cell.name}.json").exists()
        if lacking:
            first = None
            if cell.objective == "both":
                before = replace(cell, objective="flow_matching")
                [*fill_all([before], effort, data, folder, report)]
                first = load_particles(folder / before.name)
            result, flow = fill(cell, effort, data, report, first)
            save(flow, folder / cell.name, card_of(cell.name, flow, data, result))
            write_result(folder, result)
        yield cell, lacking


def card_of(name: str, flow: ParticleFlow, data: Particles, result: Result) -> Card:
    """The card of a cell's weights."""
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
        git_commit=commit(),
        config=flow.config,
        dataset=Dataset(data.name, data.sha256, split),
        seed=result.cell.seed,
        licence="MIT",
        metrics=metrics,
        units="those of the potential (lengths, temperature 1), nats" if data.potential else "angstrom, nats",
    )


def read_results(folder: Path) -> list[Result]:
    """The finished cells of a folder."""
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*-*.json"))]
    return [from_json(Result, document, "result") for document in documents]


def write_result(folder: Path, result: Result) -> None:
    """Keep a finished cell."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{result.cell.name}"
    partial.write_text(json.dumps(asdict(result)) + "\n")
    partial.replace(folder / f"{result.cell.name}.json")


def cells(
    system: str, models: Sequence[str], sizes: Iterable[int], seeds: int, objective: str = "flow_matching"
) -> list[Cell]:
    """Cells in the order of filling: the first seed of all before the second of any."""
    wanted = list(sizes)
    return [Cell(system, model, size, seed, objective) for seed in range(seeds) for size in wanted for model in models]
