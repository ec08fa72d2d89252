"""The trainer of every objective: network, optimizer and moving average, stepped together, saved and restored."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from enflow.model.card import read_card, takes_fragments
from enflow.model.checkpoint import load_fragments, load_molecules
from enflow.model.config import EGNNConfig, FlowConfig, FragmentConfig, VectorEGNNConfig, VectorNetworkConfig
from enflow.model.errors import ConfigError, DataError
from enflow.model.files import replacement
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.compact import expanded
from enflow.model.training.config import PAIR_DTYPES, ParticleTrainConfig, RunConfig, TrainConfig
from enflow.model.training.fragment_objective import FragmentMatching
from enflow.model.training.objectives import DequantizerFit, FlowMatching, MaximumLikelihood, Objective
from enflow.model.training.optimizer import Optimizer, rate_at, update_average
from enflow.model.training.particle_objectives import ParticleFlowMatching, ParticleLikelihood
from enflow.model.training.precision import has_fast_bfloat16
from enflow.model.training.widen import widened

Values = dict[str, Tensor | float]
"""The values of one step, by name."""


class Trainer:
    """The state of a run: network, moving average of its parameters, optimizer, and the numbers of steps and passes.

    Args:
        config: configuration of the run.
        device: device of the network.
        objective: the objective; None = the one that the configuration names.
    """

    def __init__(self, config: RunConfig, device: str = "cpu", objective: Objective | None = None) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.objective = objective or objective_of(config, device)
        self.network = self.objective.build()
        self.average = [p.detach().clone() for p in self.network.parameters()]
        self.optimizer = Optimizer(self.network, config.optimizer)
        self.step = 0
        self.passes = 0
        self.anneal: tuple[int, int] | None = None

    def state(self) -> dict[str, Any]:
        """Return everything that resuming needs, as tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "passes": self.passes,
            "anneal": self.anneal,
        }

    def load(self, path: Path) -> None:
        """Restore the state that `save` wrote.

        Raises:
            DataError: the file is not a training state of this configuration.
        """
        self.restore(path, str(path))

    def restore(self, source: Path | BytesIO, name: str) -> None:
        """Restore a state from a file or a stream.

        Args:
            source: the file or stream.
            name: the name of the source in an error.

        Raises:
            DataError: the content is not a training state of this configuration.
        """
        try:
            state = expanded(torch.load(source, map_location=self.average[0].device, weights_only=True))
            self.network.load_state_dict(state["network"])
        except Exception as error:
            raise DataError(f"{name} is not a training state of this configuration: {error}") from error
        for value, saved in zip(self.average, state["average"], strict=True):
            value.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.passes, self.anneal = state["step"], state["passes"], state["anneal"]

    def save(self, path: Path) -> None:
        """Replace the file by one with the present state."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacement(path) as file:
            torch.save(self.state(), file)

    @property
    def remaining(self) -> int:
        """The number of molecules still to be shown."""
        if self.anneal is not None:
            return (sum(self.anneal) - self.step) * self.config.batch_size
        return self.config.passes - self.passes

    def averaged_network(self) -> nn.Module:
        """Return a copy of the network with the averaged parameters."""
        network: nn.Module = self.objective.build()
        network.load_state_dict(self.network.state_dict())
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), self.average, strict=True):
                parameter.copy_(value)
        return network

    def initialize(self, data: Any, start: nn.Module | None = None) -> None:
        """Prepare the network for its first step.

        Args:
            data: training data.
            start: a trained flow whose weights are copied (see `starting_flow`); None = values that are counted in the
                data are set, and the weights stay random.
        """
        if start is None:
            self.objective.initialize(self.network, data)
        else:
            self.objective.copy_weights(self.network, start)
        self.average = [p.detach().clone() for p in self.network.parameters()]

    def draw(self, data: Any, rows: np.ndarray, step: int) -> Any:
        """Return the data and the noise of one step; a pure function of (seed, step)."""
        return self.objective.draw(self.network, data, rows, self.config.seed, step)

    def update(self, network: Callable[..., Any], drawn: Any, n_molecules: int) -> Values:
        """Take one optimizer step and return the loss, its terms, the learning rate's share and the gradient's norm.

        The step does not wait for a GPU: the values are tensors without dimensions.
        """
        rate = rate_at(self.step, self.config.optimizer.warmup_steps, self.anneal)
        losses = self.objective.losses(network, drawn)
        means = {name: loss.mean() for name, loss in losses.items()}
        total = torch.stack([*means.values()]).sum()
        torch.autograd.backward(total)
        norm = self.optimizer.step(rate)
        update_average(self.average, self.network.parameters(), self.step, self.config.optimizer.ema)
        self.step += 1
        self.passes += n_molecules
        values = {name: mean.detach() for name, mean in means.items()}
        return {"loss": total.detach(), **values, "rate": rate, "norm": norm}

    def steps(self, data: Any) -> Iterator[Values]:
        """Take optimizer steps until the end of the run and yield the values of `update` after each."""
        network = compiled(self.network, self.config)
        for rows in self.objective.batches(data, self.config.batch_size, self.config.seed, self.step):
            if self.remaining <= 0:
                return
            yield self.update(network, self.draw(data, rows, self.step), len(rows))

    def validate(self, drawn: list[Any]) -> dict[str, Any]:
        """Return the errors of the averaged network on fixed draws."""
        return self.objective.validate(self.averaged_network(), drawn)


def objective_of(config: RunConfig, device: str) -> Objective:
    """Return the objective that a configuration names."""
    if isinstance(config, ParticleTrainConfig):
        kind = ParticleFlowMatching if config.objective == "flow_matching" else ParticleLikelihood
        return kind(config, device)
    assert isinstance(config, TrainConfig), "a run trains molecules or particles"
    if config.objective == "dequantizer":
        return DequantizerFit(config.flow, config.likelihood, device)
    if config.objective == "likelihood":
        return MaximumLikelihood(config.flow, config.likelihood, device)
    if isinstance(config.flow.dynamics, FragmentConfig):
        return FragmentMatching(config.flow, config.matching, device)
    return FlowMatching(config.flow, config.matching, device)


def starting_flow(config: TrainConfig) -> MoleculeFlow | FragmentFlow | None:
    """Load the flow that a run starts from, widened where it is smaller; None if it starts from random weights.

    Raises:
        WeightsError: the weights cannot be read.
        ConfigError: the weights are of another model, which cannot be widened to the configuration's.
    """
    if config.start is None:
        return None
    if isinstance(config.flow.dynamics, FragmentConfig) and takes_fragments(read_card(config.start)):
        around = load_fragments(config.start)
        if around.config != replace(config.flow, refinements=around.config.refinements):
            raise ConfigError(f"start: {config.start} holds another model than the configuration's flow")
        return around
    flow = load_molecules(config.start)
    expected = _expected_start(config, flow.config)
    if flow.config == expected:
        return flow
    try:
        return widened(flow, expected)
    except ConfigError as error:
        raise ConfigError(f"start: {config.start} holds another model than the configuration's flow: {error}") from None


def _expected_start(config: TrainConfig, found: FlowConfig) -> FlowConfig:
    """Return the model that `start` must hold: the configuration's, up to the parts that are not copied."""
    expected = replace(config.flow, refinements=found.refinements)
    if isinstance(expected.dynamics, FragmentConfig) and isinstance(found.dynamics, VectorEGNNConfig):
        options = {each.name: getattr(expected.dynamics, each.name) for each in fields(VectorNetworkConfig)}
        types = {"n_features": expected.dynamics.n_features - 1, "odd_types": found.dynamics.odd_types}
        return replace(expected, dynamics=VectorEGNNConfig(**{**options, **types}))
    if config.objective == "dequantizer":
        return replace(expected, dequantizer=found.dequantizer)
    if expected.dequantizer.kind == "given" and isinstance(expected.dynamics, EGNNConfig | VectorEGNNConfig):
        dynamics = expected.dynamics
        if isinstance(found.dynamics, EGNNConfig | VectorEGNNConfig):
            dynamics = replace(dynamics, output=found.dynamics.output, odd_types=found.dynamics.odd_types)
        return replace(expected, dynamics=dynamics, dequantizer=found.dequantizer)
    return expected


def compiled(network: Any, config: RunConfig) -> Callable[..., Any]:
    """Prepare the network for training: messages in the chosen dtype, layers compiled one by one.

    Messages stay in float32 on a device whose products in bfloat16 are slower.
    """
    if config.objective == "flow_matching" and has_fast_bfloat16(next(network.parameters()).device):
        network.pair_dtype = PAIR_DTYPES[config.pair_dtype]
    if config.compile:
        for layer in network.network.layers:
            layer.compile(dynamic=True)
    return network  # type: ignore[no-any-return]
