"""The trials of `benchmarks.trials`: what is changed in the training, and what was expected of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import enflow
from benchmarks.trial_objectives import FIRST, Charged, LateExpert, OwnSamples, SeveralDraws
from enflow.model.config import EGNNConfig
from enflow.model.training.config import TrainConfig, read_config
from enflow.model.training.objectives import FlowMatching

CONFIG = Path(enflow.__file__).parent / "model" / "training" / "configs" / "qm9.json"

OTHER_TARGET = "no transport"
"""Learns the velocity of another coupling, which the errors here do not measure: only its samples tell."""

CHARGE_CHANNEL = "charge channel"
OBJECTIVES: dict[str, type[FlowMatching]] = {
    CHARGE_CHANNEL: Charged,
    "two draws a molecule": SeveralDraws,
    "late expert": LateExpert,
    "own samples": OwnSamples,
}
"""The objectives of the trials that change more than the configuration."""

GENTLE = {"muon_rate": 0.0006, "adam_rate": 0.00006}
"""Rates of trials that start from trained weights. Higher ones raise the errors at late times, and a short budget does
not lower them again."""


@dataclass(frozen=True)
class Trial:
    """One change of the training.

    Attributes:
        config: the whole training, but for its length.
        against: the name of the trial that it is compared with.
        expected: one line, written before it ran; empty for those of the first table.
    """

    config: TrainConfig
    against: str = "base"
    expected: str = ""


def objective_of(name: str, config: TrainConfig) -> FlowMatching:
    """Return the objective of a trial."""
    return OBJECTIVES.get(name, FlowMatching)(config.flow, config.matching, "cpu")


def base() -> TrainConfig:
    """Return the configuration without the parity condition and the scale of the moves, which came later."""
    return _network(read_config(CONFIG), odd_types=(), move_scale=1.0)


def _network(config: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(config, flow=replace(config.flow, dynamics=replace(config.flow.dynamics, **changes)))


def _types(config: TrainConfig, scale: float, sigma: float) -> TrainConfig:
    changed = _network(config, feature_scale=scale, feature_sigma=sigma)
    dequantizer = replace(changed.flow.dequantizer, scale=scale, sigma=sigma)
    return replace(changed, flow=replace(changed.flow, dequantizer=dequantizer))


def from_scratch() -> dict[str, TrainConfig]:
    """Trainings from fresh weights by name; each differs from the base in one thing."""
    first = base()

    def optimizer(**changes: Any) -> TrainConfig:
        return replace(first, optimizer=replace(first.optimizer, **changes))

    def matching(**changes: Any) -> TrainConfig:
        return replace(first, matching=replace(first.matching, **changes))

    egnn = EGNNConfig(node_dim=192, edge_dim=48, n_layers=8, n_radial=31)
    return {
        "base": first,
        "another seed": replace(first, seed=1),
        "EGNN, no vectors": replace(first, flow=replace(first.flow, dynamics=egnn)),
        "32 vectors": _network(first, n_vectors=32),
        "63 radial bases": _network(first, n_radial=63),
        "nodes 256": _network(first, node_dim=256),
        "edges 64": _network(first, edge_dim=64),
        "6 layers": _network(first, n_layers=6),
        "10 layers": _network(first, n_layers=10),
        "AdamW alone": optimizer(muon_rate=0.0),
        "Muon 0.006": optimizer(muon_rate=0.006),
        "Muon 0.024": optimizer(muon_rate=0.024),
        "batch 32": replace(first, batch_size=32),
        "batch 128": replace(first, batch_size=128),
        OTHER_TARGET: matching(transport=0),
        "uniform times": matching(time_power=0.0),
        "times t^2": matching(time_power=2.0),
        "distance loss 0.1": matching(distance_weight=0.1),
        "distance loss 1": matching(distance_weight=1.0),
        "type scale 0.5": _types(first, 0.5, 0.05),
        CHARGE_CHANNEL: first,
        "moves times 0.03": _network(first, move_scale=0.03),
        "even electrons": _network(first, odd_types=(0, 2, 4)),
        "type noise 0.1": _types(first, 0.25, 0.1),
    }


def _continued() -> TrainConfig:
    config = read_config(CONFIG)
    optimizer = replace(config.optimizer, **GENTLE)  # type: ignore[arg-type]
    matching = replace(config.matching, distance_weight=0.1)
    return replace(config, start=str(FIRST), optimizer=optimizer, matching=matching)


def from_weights() -> dict[str, Trial]:
    """Trials that start from trained weights by name."""
    first = _continued()
    wide = {"node_dim": 256, "edge_dim": 96, "n_vectors": 32}

    def against(config: TrainConfig, expected: str) -> Trial:
        return Trial(config, "continued", expected)

    changed: dict[str, tuple[Callable[[], TrainConfig], str]] = {
        "widened": (lambda: _network(first, **wide), "lower error at middle times, more stable molecules"),
        "16 layers": (lambda: _network(first, n_layers=16), "lower error at middle times, more stable molecules"),
        "three rounds": (
            lambda: replace(first, matching=replace(first.matching, transport=3)),
            "fewer evaluations, perhaps more stable molecules",
        ),
        "continued, uniform times": (
            lambda: replace(first, matching=replace(first.matching, time_power=0.0)),
            "lower error before t = 0.5, higher after",
        ),
        "short couplings": (
            lambda: replace(first, matching=replace(first.matching, transport=3, rotations=4)),
            "fewer evaluations, and a smoother field at middle times",
        ),
        "two draws a molecule": (lambda: first, "no difference: noise of a molecule is as new as another molecule"),
        "late expert": (lambda: first, "less strain, lower error after t = 0.5; as many stable molecules"),
        "own samples": (lambda: first, "more stable molecules and compositions of the data, fewer new molecules"),
        "continued, batch 256": (lambda: replace(first, batch_size=256), "lower error by less noise, or fewer steps"),
    }
    found = {"continued": against(first, "no change beyond late times: the recipe stopped helping at 4 million")}
    return found | {name: against(config(), expected) for name, (config, expected) in changed.items()}


def trials() -> dict[str, Trial]:
    """Every trial by name."""
    return {name: Trial(config) for name, config in from_scratch().items()} | from_weights()
