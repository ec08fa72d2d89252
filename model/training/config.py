"""The configuration of a training run, as a JSON file under model/training/configs holds it."""

import json
from dataclasses import field
from pathlib import Path

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from enflow.model.config import STRICT, FlowConfig, FragmentConfig, ParticleConfig, config_errors, from_json
from enflow.model.errors import ConfigError
from enflow.model.flow.dequantization import LEARNED, feature_count
from enflow.model.training.flow_matching import MatchingConfig
from enflow.model.training.max_likelihood import LikelihoodConfig
from enflow.model.training.optimizer import OptimizerConfig

OBJECTIVES = ("flow_matching", "likelihood", "dequantizer")

PAIR_DTYPES = {"float32": None, "bfloat16": torch.bfloat16}

UNUSED_AROUND_FRAGMENTS = ("transport", "rotations", "distance_weight")
"""The settings of flow matching that the dynamics "fragment" does not use."""


@config_errors
@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """The settings that a run of molecules and a run of particles share.

    Attributes:
        objective: "flow_matching" trains the velocity by regression; "likelihood" trains the whole flow by maximum
            likelihood; "dequantizer" trains a learned dequantizer by likelihood and leaves the rest of the flow as the
            weights `TrainConfig.start` have it.
        matching: settings of flow matching; the other objectives ignore them.
        likelihood: settings of the likelihood's estimate; flow matching ignores them.
        optimizer: learning rates and their schedule.
        seed: seed of the initial weights, the order of the data and the noise.
        passes: number of molecules shown before training stops. An annealing may end the run earlier.
        batch_size: number of molecules per step; all molecules of a batch have the same number of atoms.
        pair_dtype: dtype of the messages while training, "float32" or "bfloat16"; flow matching only. On a device
            whose products in bfloat16 are slower it is float32 in any case.
        compile: compile the layers with torch.compile; flow matching only.
    """

    objective: str = "flow_matching"
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: NonNegativeInt = 0
    passes: PositiveInt = 10_000_000
    batch_size: PositiveInt = 64
    pair_dtype: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.pair_dtype not in PAIR_DTYPES:
            raise ValueError(f"pair_dtype is {self.pair_dtype!r}; expected one of {', '.join(PAIR_DTYPES)}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}; expected one of {', '.join(OBJECTIVES)}")
        if self.objective != "flow_matching" and (self.compile or self.pair_dtype != "float32"):
            raise ValueError(f'objective is "{self.objective}": its solver needs pair_dtype "float32" and no compile')


@config_errors
@dataclass(frozen=True, config=STRICT)
class TrainConfig(RunConfig):
    """The configuration of `enflow train`, which trains a flow of molecules on QM9.

    Attributes:
        name: name of the resulting weights.
        flow: the model.
        start: folder of weights of the same model to start from; None = random weights. A flow that is given its atom
            types, or a fragment, may also start from a flow that generates all of them.
        checkpoint_minutes: minutes between two writes of the training state.
    """

    name: str = "qm9"
    flow: FlowConfig = field(default_factory=FlowConfig)
    start: str | None = None
    checkpoint_minutes: PositiveFloat = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        dynamics, types = self.flow.dynamics, len(self.flow.vocabulary)
        width = feature_count(self.flow.dequantizer.kind, types) + (dynamics.kind == "fragment")
        if dynamics.n_features != width or getattr(dynamics, "n_dims", 3) != 3:
            raise ValueError(
                f"the dynamics has n_features {dynamics.n_features}; expected {width}, for {types} elements and the "
                f'dequantizer "{self.flow.dequantizer.kind}", in 3 dimensions'
            )
        if isinstance(dynamics, FragmentConfig):
            self._check_matching()
        if self.objective == "dequantizer" and (self.start is None or self.flow.dequantizer.kind not in LEARNED):
            raise ValueError(f'objective is "dequantizer"; expected a start and a kind of {", ".join(LEARNED)}')

    def _check_matching(self) -> None:
        default = MatchingConfig()
        for name in UNUSED_AROUND_FRAGMENTS:
            if (value := getattr(self.matching, name)) != (expected := getattr(default, name)):
                raise ValueError(
                    f'found matching.{name} {value}, expected {expected}: the dynamics "fragment" does not use it'
                )


@config_errors
@dataclass(frozen=True, config=STRICT)
class ParticleTrainConfig(RunConfig):
    """The configuration of a run that trains a flow of particles.

    Attributes:
        flow: the model.
        augment: rotate or reflect every sample at random each time it is shown.
    """

    flow: ParticleConfig = field(default_factory=ParticleConfig)
    augment: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective == "dequantizer":
            raise ValueError('objective is "dequantizer"; expected "flow_matching" or "likelihood" for particles')


def read_config(path: Path) -> TrainConfig:
    """Read a training configuration from a JSON file.

    Raises:
        ConfigError: the file is missing, is not JSON, or holds an unknown key or a wrong value.
    """
    try:
        return from_json(TrainConfig, json.loads(path.read_text()), where=path.name)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
