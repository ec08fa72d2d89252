"""Configurations: frozen dataclasses that go to JSON and come back, and refuse keys they do not know."""

from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from enflow.model.errors import ConfigError

TOLERANCES = {"draft": 1e-2, "standard": 1e-3, "precise": 1e-5}
"""Named tolerances of the adaptive solver: rtol = atol, per molecule."""


@dataclass(frozen=True)
class EGNNConfig:
    """Configuration of the E(n) equivariant graph network that is the velocity (Satorras et al. 2021, eq. 3 to 6).

    The defaults are Enflow's own shape: wide nodes, narrow pairs. The original authors' network is
    ``node_dim = edge_dim = 64, n_layers = 6, n_radial = 0, layer_norm = False, tanh_range = 2.5, message_scale = 1,
    n_frequencies = 0, size_input = False, output = "velocity"``.

    Attributes:
        kind: the dynamics' name in the registry.
        n_features: invariant features per atom in the state, F.
        node_dim: width of the node features inside the network.
        edge_dim: width of the messages.
        n_layers: message passing layers.
        n_radial: Gaussians of the distance beside the squared distance; 0 = the squared distance alone.
        layer_norm: normalise node features before each layer and before the output.
        gate: multiply each message by a learned sigmoid of itself (the paper's edge inference).
        tanh_range: bound of one pair's coordinate weight in a layer; None = unbounded.
        message_scale: the sum of messages is divided by this.
        n_frequencies: sine and cosine pairs of the time beside the time itself.
        size_input: give the network the number of atoms.
        output: "velocity": dh is linear in the last node features; "centre": the network classifies each atom and dh
            follows from the classes by Bayes' rule (see `dynamics.centre_velocity`); "still": dh = 0, the features are
            types that are given (the dequantizer is "given" too).
        feature_scale, feature_sigma: for "centre": dequantized features are feature_scale * one-hot plus noise of
            standard deviation feature_sigma.
        odd_types: for "centre": types with an odd number of electrons, of which every molecule has an even number: what
            the network says of an atom's type is conditioned on that (see `flow.parity`). Empty: it is not.
        reverse: the network was trained with time running from data to base: velocity = -network(1 - t).
    """

    kind: str = "egnn"
    n_features: int = 5
    node_dim: int = 128
    edge_dim: int = 32
    n_layers: int = 8
    n_radial: int = 16
    layer_norm: bool = True
    gate: bool = True
    tanh_range: float | None = 3.0
    message_scale: float = 5.0
    n_frequencies: int = 4
    size_input: bool = True
    output: str = "centre"
    feature_scale: float = 0.25
    feature_sigma: float = 0.05
    odd_types: tuple[int, ...] = ()
    reverse: bool = False

    def __post_init__(self) -> None:
        _expect_at_least(0, self, "n_features")
        _expect_at_least(1, self, "node_dim", "edge_dim", "n_layers")
        _expect_output(self.output)
        _expect_types(self.odd_types, self.n_features, self.output)


@dataclass(frozen=True)
class VectorEGNNConfig:
    """Configuration of an E(n) equivariant graph network with vectors on its atoms (see `flow.vector_networks`).

    Attributes:
        n_vectors: vectors per atom, K.
        move_scale: multiplies the moves of each layer. Muon's steps have one length for every matrix; with a small
            scale those of the matrices that place atoms are fine.
        kind, n_features, node_dim, edge_dim, n_layers, n_radial, message_scale, n_frequencies, size_input, output,
            feature_scale, feature_sigma, odd_types: as of `EGNNConfig`.
    """

    kind: str = "vector_egnn"
    n_features: int = 5
    node_dim: int = 192
    edge_dim: int = 48
    n_vectors: int = 16
    n_layers: int = 8
    n_radial: int = 24
    message_scale: float = 5.0
    move_scale: float = 1.0
    n_frequencies: int = 4
    size_input: bool = True
    output: str = "centre"
    feature_scale: float = 0.25
    feature_sigma: float = 0.05
    odd_types: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _expect_at_least(0, self, "n_features")
        _expect_at_least(1, self, "node_dim", "edge_dim", "n_vectors", "n_layers")
        _expect_output(self.output)
        _expect_types(self.odd_types, self.n_features, self.output)


@dataclass(frozen=True)
class GNNConfig:
    """Configuration of a graph network that sees coordinates as plain features: a baseline, not equivariant.

    Attributes:
        kind: the dynamics' name in the registry.
        n_features: invariant features per atom in the state, F.
        n_dims: dimensions of space.
        node_dim: width of nodes and messages.
        n_layers: message passing layers.
        gate: multiply each message by a learned sigmoid of itself, "attention" in the paper.
        n_frequencies: sine and cosine pairs of the time beside the time itself.
    """

    kind: str = "gnn"
    n_features: int = 0
    n_dims: int = 3
    node_dim: int = 64
    n_layers: int = 3
    gate: bool = True
    n_frequencies: int = 4

    def __post_init__(self) -> None:
        _expect_at_least(0, self, "n_features")
        _expect_at_least(1, self, "n_dims", "node_dim", "n_layers")


@dataclass(frozen=True)
class SimpleConfig:
    """Configuration of central forces whose strength a small network gives; equivariant (Köhler et al. 2019).

    Attributes:
        kind: the dynamics' name in the registry.
        n_features: of the state; they stand still.
        hidden_dim, n_layers: of the network (distance, time) -> strength.
        n_radial: Gaussians of the distance that it sees.
        n_frequencies: sine and cosine pairs of the time beside the time itself.
        range: largest centre of the Gaussians.
    """

    kind: str = "simple"
    n_features: int = 0
    hidden_dim: int = 64
    n_layers: int = 2
    n_radial: int = 16
    n_frequencies: int = 4
    range: float = 8.0

    def __post_init__(self) -> None:
        _expect_at_least(0, self, "n_features")
        _expect_at_least(1, self, "hidden_dim", "n_layers")
        _expect_at_least(2, self, "n_radial")


@dataclass(frozen=True)
class KernelConfig:
    """Configuration of central forces whose strength is a sum of kernels; equivariant (Köhler, Klein, Noé 2020).

    Attributes:
        kind: the dynamics' name in the registry.
        n_features: of the state; they stand still.
        n_radial, n_times: kernels of the distance and of the time, whose product they are.
        range: largest centre of a kernel of the distance.
    """

    kind: str = "kernel"
    n_features: int = 0
    n_radial: int = 50
    n_times: int = 10
    range: float = 8.0

    def __post_init__(self) -> None:
        _expect_at_least(0, self, "n_features")
        _expect_at_least(2, self, "n_radial", "n_times")


DynamicsConfig = EGNNConfig | VectorEGNNConfig | GNNConfig | SimpleConfig | KernelConfig
"""Of any dynamics in the registry; in JSON its `kind` says of which."""


@dataclass(frozen=True)
class DequantizerConfig:
    """How discrete atom types become continuous features (see `dequantize`).

    Attributes:
        kind: "truncated", "uniform", "argmax", "variational" or "argmax_variational"; or "given": types are not turned
            into noise at all but given to the velocity, with a table of their probability.
        scale: the corner of a type's region is scale * one-hot; the side of the boxes of "uniform".
        sigma: width of the Gaussian of "truncated", unit of the channels of "argmax".
        node_dim, n_layers: the network of the learned kinds, "argmax" and "variational".
        capacity: compositions that the table of "given" holds; QM9 has some 600.
    """

    kind: str = "truncated"
    scale: float = 0.25
    sigma: float = 0.05
    node_dim: int = 64
    n_layers: int = 4
    capacity: int = 1024

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ConfigError(f"sigma is {self.sigma}; expected more than 0")
        if self.scale < 0 or (self.kind == "uniform" and self.scale == 0):
            raise ConfigError(f"scale is {self.scale}; expected more than 0")


@dataclass(frozen=True)
class FlowConfig:
    """A whole model: vocabulary, velocity, dequantizer, optional ActNorm."""

    vocabulary: tuple[int, ...] = (1, 6, 7, 8, 9)
    max_atoms: int = 29
    dynamics: DynamicsConfig = field(default_factory=EGNNConfig)
    dequantizer: DequantizerConfig = field(default_factory=DequantizerConfig)
    act_norm: bool = False

    def __post_init__(self) -> None:
        still, given = getattr(self.dynamics, "output", None) == "still", self.dequantizer.kind == "given"
        if still != given or (given and self.act_norm):
            raise ConfigError('expected output "still", dequantizer "given" and no act_norm together, or none of them')


@dataclass(frozen=True)
class ParticleConfig:
    """A model of like particles, always the same number of them: positions alone, no features.

    Attributes:
        scale: positions are divided by it on their way into the flow, so that they are as wide as the base.
    """

    kind: str = "particles"
    n_particles: int = 4
    n_dims: int = 2
    scale: float = 1.0
    dynamics: DynamicsConfig = field(default_factory=lambda: EGNNConfig(n_features=0, output="velocity"))

    def __post_init__(self) -> None:
        _expect_at_least(1, self, "n_particles", "n_dims")
        if self.scale <= 0:
            raise ConfigError(f"scale is {self.scale}; expected more than 0")
        if self.dynamics.n_features:
            raise ConfigError(f"found {self.dynamics.n_features} features in the dynamics of particles, expected none")
        if isinstance(self.dynamics, GNNConfig) and self.dynamics.n_dims != self.n_dims:
            raise ConfigError(f"found {self.dynamics.n_dims} dimensions in the dynamics, expected {self.n_dims}")


def to_json(config: Any) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return asdict(config)


T = TypeVar("T")


def from_json(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
    """Build `cls` from plain JSON values.

    Raises:
        ConfigError: for an unknown or missing key, a value of the wrong type, or a value that the class refuses.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is a {type(values).__name__}; expected an object")
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"unknown key {unknown[0]!r} in {where}; expected one of {', '.join(sorted(known))}")
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    if missing := sorted(required - set(values)):
        raise ConfigError(f"no key {missing[0]!r} in {where}; expected {', '.join(sorted(required))}")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _alternative(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """The type that a value is meant for: of several configurations that of its kind, without one the first."""
    some = [a for a in hints if a is not type(None)]
    if len(some) == 1 or not isinstance(value, dict) or "kind" not in value:
        return some[0]
    kinds = {getattr(a, "kind", None): a for a in some}
    if value["kind"] not in kinds:
        raise ConfigError(
            f"{where}.kind is {value['kind']!r}; expected one of {', '.join(sorted(filter(None, kinds)))}"
        )
    return kinds[value["kind"]]


def _expect_output(output: str) -> None:
    if output not in ("velocity", "centre", "still"):
        raise ConfigError(f'output is {output!r}; expected "velocity", "centre" or "still"')


def _expect_types(odd_types: tuple[int, ...], n_features: int, output: str) -> None:
    if not odd_types:
        return
    if output != "centre" or not 0 < len(set(odd_types) & set(range(n_features))) == len(odd_types) < n_features:
        raise ConfigError(
            f"odd_types is {list(odd_types)}; expected some, not all, of the types 0 to {n_features - 1}, each once, "
            f'and output "centre"'
        )


def _expect_at_least(least: int, config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"{name} is {getattr(config, name)}; expected at least {least}")


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return from_json(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) in (UnionType, Union):
        if value is None:
            return None
        return _convert(_alternative(get_args(hint), value, where), value, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {value!r}; expected a list")
        return tuple(_convert(get_args(hint)[0], v, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kind = get_origin(hint) or hint
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} is {value!r}; expected {kind.__name__}")
    return value
