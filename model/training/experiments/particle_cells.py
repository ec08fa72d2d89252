"""The table of particle systems of the paper: test NLL by model, number of training samples and seed.

A cell is one combination of the three; its result is a JSON file.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from enflow.model.config import from_json
from enflow.model.errors import ConfigError
from enflow.model.files import replace_file

MODELS = ("enf", "gnn", "gnn_att", "gnn_att_aug", "simple", "kernel")
"""The models of the paper."""
VECTOR = "vector"
"""The network of Enflow's own QM9 model; the paper does not have it."""
SIZES: dict[str, tuple[int, ...]] = {
    "dw4": (100, 1000, 10_000, 100_000),
    "lj13": (10, 100, 1000, 10_000),
    "qm9_positional": (13_808,),
}
OBJECTIVES = ("flow_matching", "likelihood", "both")
"""Ways to train a cell. The paper uses "likelihood"; "both" starts it from the weights of "flow_matching"."""
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
"""Test NLL at these sizes by Satorras et al. 2021, on samples of their own, which are not published."""


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        system: a key of `SIZES`.
        model: one of `MODELS`, or `VECTOR`.
        samples: number of training samples.
        seed: seed of the training.
        objective: one of `OBJECTIVES`.
    """

    system: str
    model: str
    samples: int
    seed: int
    objective: str = "flow_matching"

    @property
    def name(self) -> str:
        """The name of the cell's files."""
        suffix = "" if self.objective == "flow_matching" else f"-{self.objective}"
        return f"{self.system}-{self.model}-{self.samples}-{self.seed}{suffix}"


@dataclass(frozen=True)
class Budget:
    """The computation that is spent on a cell.

    Attributes:
        steps: greatest number of steps of flow matching.
        likelihood_steps: greatest number of steps of maximum likelihood, after flow matching.
        batch_size: samples per step.
        test_samples: number of test samples that are scored.
        tolerance: rtol and atol of the solver when scoring.
    """

    steps: int
    likelihood_steps: int
    batch_size: int
    test_samples: int
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.steps + self.likelihood_steps < 1:
            raise ConfigError("found 0 steps of flow matching and 0 of likelihood; expected at least 1 in total")

    @property
    def objective(self) -> str:
        """The objective of cells with this budget, one of `OBJECTIVES`."""
        if not self.likelihood_steps:
            return "flow_matching"
        return "both" if self.steps else "likelihood"


@dataclass(frozen=True)
class Result:
    """The result of a cell, nats per sample.

    Attributes:
        cell: the cell.
        nll: mean NLL of test samples (see `particle_metrics.score`).
        nll_error: standard error of `nll`.
        above_floor: `nll` minus the entropy of the distribution; None if the entropy is unknown.
        parameters: number of parameters of the network that was kept (see `candidates`).
        steps: number of steps that its training took.
        seconds: processor time of all training and of the choice between candidates.
        effort: the budget of the cell. The name of this field is that of the files.
    """

    cell: Cell
    nll: float
    nll_error: float
    above_floor: float | None
    parameters: int
    steps: int
    seconds: float
    effort: Budget


def read_results(folder: Path) -> list[Result]:
    """Read the results of the finished cells of a folder."""
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*-*.json"))]
    return [from_json(Result, document, "result") for document in documents]


def write_result(folder: Path, result: Result) -> None:
    """Write the file of a finished cell."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"{result.cell.name}.json", (json.dumps(asdict(result)) + "\n").encode())


def cells(
    system: str, models: Sequence[str], sizes: Iterable[int], seeds: int, objective: str = "flow_matching"
) -> list[Cell]:
    """Return cells in the order of training: the first seed of all cells before the second of any."""
    sizes = list(sizes)
    return [Cell(system, model, size, seed, objective) for seed in range(seeds) for size in sizes for model in models]
