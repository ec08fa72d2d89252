"""Configurations of models: frozen pydantic dataclasses, written to JSON and read from it."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Tag
from pydantic.dataclasses import dataclass

from enflow.model import qm9
from enflow.model.baseline_config import GNNConfig, KernelConfig, SimpleConfig
from enflow.model.config_json import STRICT, config_errors, from_json, to_json
from enflow.model.errors import ConfigError

__all__ = [
    "ENCODE_TOLERANCE",
    "STANDARD",
    "STRENGTH",
    "STRICT",
    "TOLERANCES",
    "DequantizerConfig",
    "DynamicsConfig",
    "EGNNConfig",
    "FlowConfig",
    "FragmentConfig",
    "GNNConfig",
    "KernelConfig",
    "ParticleConfig",
    "SimpleConfig",
    "VectorEGNNConfig",
    "config_errors",
    "from_json",
    "to_json",
]

TOLERANCES = {"draft": 1e-2, "standard": 1e-3, "precise": 1e-5}
"""Named tolerances of the adaptive solver: rtol = atol, per molecule."""

STANDARD = TOLERANCES["standard"]

ENCODE_TOLERANCE = 1e-9
"""The tolerance of `encode` and `decode`. The map to the base stretches errors: at 1e-7 one molecule of 24 came back
with an error of 0.05 angstrom, in float32 and in float64 (earlier weights; with the bundled ones all came back)."""

TIGHTEST, LOOSEST = 1e-13, 1.0
"""The smallest tolerance of a solver, near the precision of float64, and the largest, as much as the noise is wide."""

TEMPERATURES = (0.1, 2.0)
"""The least and the largest temperature of samples, the standard deviation of the noise that they begin with."""

MAX_SEED = 2**53 - 1
"""The largest seed: an integer that JSON keeps exact in every language."""

MAX_REFINEMENTS = 10
"""The largest number of refinements of a sample (see `flow.refinement`)."""

STRENGTH = 0.55
"""The default strength of variations, the share of noise that is added (docs/science.md has the curve)."""

MAX_RETURN_ERROR = 1e-3
"""The largest distance, angstrom, of a molecule that comes back from its own latent."""


def check_tolerances(rtol: float, atol: float, loosest: float = LOOSEST) -> None:
    """Check the tolerances of a solve.

    Raises:
        ConfigError: one of them is out of range.
    """
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not TIGHTEST <= value <= loosest:
            raise ConfigError(f"found {name} {value}, expected {TIGHTEST:g} to {loosest:g}")


@config_errors
@dataclass(frozen=True, config=STRICT)
class AtomNetworkConfig:
    """The options that all networks of the QM9 models share.

    Attributes:
        n_features: invariant features per atom in the state, F.
        node_dim: width of the node features inside the network.
        edge_dim: width of the messages.
        n_layers: message passing layers.
        n_radial: Gaussians of the distance.
        message_scale: the sum of messages is divided by this.
        n_frequencies: sine and cosine pairs of the time beside the time itself.
        size_input: give the network the number of atoms.
        output: "velocity": dh is linear in the last node features; "centre": dh follows by Bayes' rule from classes of
            the atoms (see `dynamics.centre_velocity`); "still": dh = 0, the types are given (see the dequantizer).
        feature_scale, feature_sigma: for "centre": dequantized features are feature_scale * one-hot + feature_sigma *
            noise.
        odd_types: for "centre": types with an odd number of electrons, whose number is even in every molecule (see
            `networks.parity`). Empty: no such condition.
    """

    n_features: NonNegativeInt = 5
    node_dim: PositiveInt = 128
    edge_dim: PositiveInt = 32
    n_layers: PositiveInt = 8
    n_radial: NonNegativeInt = 16
    message_scale: PositiveFloat = 5.0
    n_frequencies: NonNegativeInt = 4
    size_input: bool = True
    output: Literal["velocity", "centre", "still"] = "centre"
    feature_scale: PositiveFloat = 0.25
    feature_sigma: PositiveFloat = 0.05
    odd_types: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        distinct = set(self.odd_types) & set(range(self.n_features))
        some = 0 < len(distinct) == len(self.odd_types) < self.n_features
        if self.odd_types and (self.output != "centre" or not some):
            expected = f'some, not all, of the types 0 to {self.n_features - 1}, each once, and output "centre"'
            raise ValueError(f"odd_types is {list(self.odd_types)}; expected {expected}")


@config_errors
@dataclass(frozen=True, config=STRICT)
class EGNNConfig(AtomNetworkConfig):
    """Configuration of the E(n) equivariant graph network that is the velocity (Satorras et al. 2021, eq. 3 to 6).

    The defaults are Enflow's own shape: wide nodes, narrow pairs. The authors' network has ``node_dim = edge_dim = 64,
    n_layers = 6, n_radial = 0, layer_norm = False, tanh_range = 2.5, message_scale = 1, n_frequencies = 0, size_input =
    False, output = "velocity"``. With ``n_radial = 0`` the network sees the squared distance alone.

    Attributes:
        kind: name of the dynamics in the registry.
        layer_norm: normalise node features before each layer and before the output.
        gate: multiply each message by a learned sigmoid of itself (the paper's edge inference).
        tanh_range: bound of one pair's coordinate weight in a layer; None = unbounded.
        reverse: the network was trained with time running from data to base: velocity = -network(1 - t).
    """

    kind: Literal["egnn"] = "egnn"
    layer_norm: bool = True
    gate: bool = True
    tanh_range: PositiveFloat | None = 3.0
    reverse: bool = False


@config_errors
@dataclass(frozen=True, config=STRICT)
class VectorNetworkConfig(AtomNetworkConfig):
    """The options of an E(n) equivariant graph network with vectors on its atoms (see `networks.vector_egnn`).

    Attributes:
        n_vectors: vectors per atom, K.
        move_scale: factor on the moves of each layer; a small one makes Muon's steps of the matrices that move fine.
    """

    node_dim: PositiveInt = 192
    edge_dim: PositiveInt = 48
    n_radial: NonNegativeInt = 24
    n_vectors: PositiveInt = 16
    move_scale: PositiveFloat = 1.0


@config_errors
@dataclass(frozen=True, config=STRICT)
class VectorEGNNConfig(VectorNetworkConfig):
    """Configuration of the velocity of all atoms by a network with vectors."""

    kind: Literal["vector_egnn"] = "vector_egnn"


@config_errors
@dataclass(frozen=True, config=STRICT)
class FragmentConfig(VectorNetworkConfig):
    """Configuration of the velocity of the atoms around a fragment; their last feature is a flag, 1 = given."""

    kind: Literal["fragment"] = "fragment"
    n_features: Annotated[int, Field(ge=2)] = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output != "centre" or self.n_features - 1 in self.odd_types:
            raise ValueError(f'found output "{self.output}"; expected "centre", and no flag among the odd types')


def _kind(config: Any) -> Any:
    return config.get("kind", "egnn") if isinstance(config, dict) else getattr(config, "kind", None)


DynamicsConfig = Annotated[
    Annotated[EGNNConfig, Tag("egnn")]
    | Annotated[VectorEGNNConfig, Tag("vector_egnn")]
    | Annotated[FragmentConfig, Tag("fragment")]
    | Annotated[GNNConfig, Tag("gnn")]
    | Annotated[SimpleConfig, Tag("simple")]
    | Annotated[KernelConfig, Tag("kernel")],
    Discriminator(_kind),
]
"""The configuration of any dynamics in the registry; in JSON `kind` selects the class, "egnn" where it is missing."""


@config_errors
@dataclass(frozen=True, config=STRICT)
class DequantizerConfig:
    """The way in which discrete atom types become continuous features (see `flow.dequantization`).

    Attributes:
        kind: for "given", the velocity gets the types as they are, with a table of the probability of each composition.
        scale: the corner of a type's region is scale * one-hot; the side of the boxes of "uniform".
        sigma: width of the Gaussian of "truncated", unit of the channels of "argmax".
        node_dim, n_layers: the network of the learned kinds, "argmax" and "variational".
        capacity: compositions that the table of "given" holds; QM9 has about 600.
    """

    kind: Literal["truncated", "uniform", "argmax", "variational", "argmax_variational", "given"] = "truncated"
    scale: NonNegativeFloat = 0.25
    sigma: PositiveFloat = 0.05
    node_dim: PositiveInt = 64
    n_layers: PositiveInt = 4
    capacity: PositiveInt = 1024

    def __post_init__(self) -> None:
        if self.kind == "uniform" and self.scale == 0:
            raise ValueError(f'scale is {self.scale}; expected more than 0 for "uniform"')


@config_errors
@dataclass(frozen=True, config=STRICT)
class FlowConfig:
    """Configuration of a model of molecules: vocabulary, velocity, dequantizer, optional ActNorm.

    Attributes:
        refinements: the refinements of a sample (see `flow.refinement`), where a request says nothing of them.
    """

    vocabulary: tuple[Annotated[int, Field(ge=1, le=118)], ...] = qm9.ELEMENTS
    max_atoms: PositiveInt = qm9.MAX_ATOMS
    dynamics: DynamicsConfig = field(default_factory=EGNNConfig)
    dequantizer: DequantizerConfig = field(default_factory=DequantizerConfig)
    act_norm: bool = False
    refinements: Annotated[int, Field(ge=0, le=MAX_REFINEMENTS)] = 0

    def __post_init__(self) -> None:
        if not 0 < len(set(self.vocabulary)) == len(self.vocabulary):
            raise ValueError(f"vocabulary is {list(self.vocabulary)}; expected at least one element, each once")
        still, given = getattr(self.dynamics, "output", None) == "still", self.dequantizer.kind == "given"
        if still != given or (given and self.act_norm):
            raise ValueError('expected output "still", dequantizer "given" and no act_norm together, or none of them')


@config_errors
@dataclass(frozen=True, config=STRICT)
class ParticleConfig:
    """Configuration of a model of a fixed number of identical particles: positions alone, no features.

    Attributes:
        kind: tells the configuration from that of molecules.
        n_particles, n_dims: number of particles and dimensions of space.
        scale: positions are divided by it before they enter the flow, so that they are as wide as the base.
        dynamics: the velocity; without features.
    """

    kind: Literal["particles"] = "particles"
    n_particles: PositiveInt = 4
    n_dims: PositiveInt = 2
    scale: PositiveFloat = 1.0
    dynamics: DynamicsConfig = field(default_factory=lambda: EGNNConfig(n_features=0, output="velocity"))

    def __post_init__(self) -> None:
        if self.dynamics.n_features:
            raise ValueError(f"found {self.dynamics.n_features} features in the dynamics of particles; expected none")
        if isinstance(self.dynamics, GNNConfig) and self.dynamics.n_dims != self.n_dims:
            raise ValueError(f"found {self.dynamics.n_dims} dimensions in the dynamics; expected {self.n_dims}")
