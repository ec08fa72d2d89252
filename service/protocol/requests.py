"""The requests to an engine."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from enflow.model.flow.estimator_options import EstimatorOptions as EstimatorOptions  # noqa: PLC0414 - part of the protocol


class Structure(NamedTuple):
    """A molecule to score or encode: atomic numbers (N,), positions (N, 3) in angstrom."""

    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]


class LatentArrays(NamedTuple):
    """A point under the base distribution: positions x (N, 3) with zero mean, features h (N, F)."""

    x: NDArray[np.float64]
    h: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EngineSampleRequest:
    """Generate molecules; `Sampled` is the answer to each.

    Attributes:
        id: names the request in all events.
        seed: (seed, index) fixes a molecule.
        n_atoms: one entry per sample; None = drawn from p(N).
        formula: the formula of all samples, for models that take one.
        first_index: the index of the first sample.
        rtol, atol: tolerances of the solver.
        frames: the number of states along the path that come with each molecule, evenly spaced in t from 0 to 1.
        progress: reports every accepted step by `Progress`.
        client: the caller whose share of the queue is used.
        background: the samples get what is left beside requests that somebody waits for.
        deadline: the time of day after which unfinished samples fail.
    """

    id: str
    seed: int
    n_atoms: tuple[int | None, ...]
    formula: str | None = None
    first_index: int = 0
    rtol: float = 1e-3
    atol: float = 1e-3
    frames: int = 0
    progress: bool = False
    client: str = ""
    background: bool = False
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.n_atoms)


@dataclass(frozen=True, kw_only=True)
class EngineLikelihoodRequest:
    """Score molecules: a bound of -log p(molecule) in nats; `Scored` is the answer to each."""

    id: str
    molecules: tuple[Structure, ...]
    seed: int = 0
    options: EstimatorOptions = field(default_factory=EstimatorOptions)
    first_index: int = 0
    progress: bool = False
    client: str = ""
    background: bool = False
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.molecules)


@dataclass(frozen=True, kw_only=True)
class EngineEncodeRequest:
    """Map molecules to latents; `Encoded` is the answer to each. (seed, index) fixes the dequantization."""

    id: str
    molecules: tuple[Structure, ...]
    seed: int = 0
    first_index: int = 0
    rtol: float = 1e-5
    atol: float = 1e-5
    progress: bool = False
    client: str = ""
    background: bool = False
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.molecules)


@dataclass(frozen=True, kw_only=True)
class EngineDecodeRequest:
    """Map latents to molecules; `Sampled` is the answer to each."""

    id: str
    latents: tuple[LatentArrays, ...]
    first_index: int = 0
    rtol: float = 1e-5
    atol: float = 1e-5
    frames: int = 0
    progress: bool = False
    client: str = ""
    background: bool = False
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True, kw_only=True)
class EngineVariationRequest:
    """Add noise to a molecule and remove it by the flow; `Sampled` is the answer to each.

    Attributes:
        parent: the molecule that is varied.
        count: the number of variations.
        strength: the share of noise; the flow begins at time 1 - strength.
        seed: (seed, index) fixes the noise.
    """

    id: str
    parent: Structure
    count: int
    strength: float
    seed: int = 0
    first_index: int = 0
    rtol: float = 1e-3
    atol: float = 1e-3
    progress: bool = False
    client: str = ""
    background: bool = False
    deadline: float | None = None

    def __len__(self) -> int:
        return self.count


EngineRequest = (
    EngineSampleRequest | EngineLikelihoodRequest | EngineEncodeRequest | EngineDecodeRequest | EngineVariationRequest
)
