"""Configurations of the dynamics of particles that E-NF is compared with."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from enflow.model.config_json import STRICT, config_errors

AtLeastTwo = Annotated[int, Field(ge=2)]


@config_errors
@dataclass(frozen=True, config=STRICT)
class GNNConfig:
    """Configuration of a graph network that sees coordinates as plain features: a baseline, not equivariant.

    Attributes:
        kind: name of the dynamics in the registry.
        n_features: invariant features per atom in the state, F.
        n_dims: dimensions of space.
        node_dim: width of nodes and messages.
        n_layers: message passing layers.
        gate: multiply each message by a learned sigmoid of itself, "attention" in the paper.
        n_frequencies: sine and cosine pairs of the time beside the time itself.
    """

    kind: Literal["gnn"] = "gnn"
    n_features: NonNegativeInt = 0
    n_dims: PositiveInt = 3
    node_dim: PositiveInt = 64
    n_layers: PositiveInt = 3
    gate: bool = True
    n_frequencies: NonNegativeInt = 4


@config_errors
@dataclass(frozen=True, config=STRICT)
class SimpleConfig:
    """Configuration of central forces whose strength a small network gives; equivariant (Köhler et al. 2019).

    Attributes:
        kind: name of the dynamics in the registry.
        n_features: features per atom in the state; they do not move.
        hidden_dim, n_layers: shape of the network (distance, time) -> strength.
        n_radial: Gaussians of the distance that the network sees.
        n_frequencies: sine and cosine pairs of the time beside the time itself.
        range: largest centre of the Gaussians.
    """

    kind: Literal["simple"] = "simple"
    n_features: NonNegativeInt = 0
    hidden_dim: PositiveInt = 64
    n_layers: PositiveInt = 2
    n_radial: AtLeastTwo = 16
    n_frequencies: NonNegativeInt = 4
    range: PositiveFloat = 8.0


@config_errors
@dataclass(frozen=True, config=STRICT)
class KernelConfig:
    """Configuration of central forces whose strength is a sum of kernels; equivariant (Köhler, Klein, Noé 2020).

    Attributes:
        kind: name of the dynamics in the registry.
        n_features: features per atom in the state; they do not move.
        n_radial, n_times: kernels of the distance and of the time; the strength sums over their products.
        range: largest centre of a kernel of the distance.
    """

    kind: Literal["kernel"] = "kernel"
    n_features: NonNegativeInt = 0
    n_radial: AtLeastTwo = 50
    n_times: AtLeastTwo = 10
    range: PositiveFloat = 8.0
