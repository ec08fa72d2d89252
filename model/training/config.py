"""The configuration of a training run."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

from enflow.model.config import FlowConfig, from_json
from enflow.model.errors import ConfigError
from enflow.model.flow.dequantization import LEARNED
from enflow.model.training.flow_matching import MatchingConfig
from enflow.model.training.max_likelihood import LikelihoodConfig
from enflow.model.training.optimizer import OptimizerConfig

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
        start: weights to go on from, of the same model, for instance to finish by likelihood what flow matching began;
            where types are given, also those of the model that draws them; None = fresh ones.
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
