"""The words between the API and the engine: what is asked for, and what is told back.

Plain values without torch, which cross to the engine's process by pickle. A work holds molecules; each has an index and
is told about exactly once, by `Sampled`, `Scored`, `Encoded` or `Failed`. `Done` ends every work, exactly once.
Times of day are seconds since the epoch (`time.time`), because two processes share no other clock.
"""

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
    """Generate one molecule per entry of `n_atoms`; None draws its size from p(N). A formula is that of all of them.

    Molecule i of the tuple has index `first_index` + i, and (seed, index) fixes it. `frames` of its path, evenly spaced
    in t from 0 to 1, come with the molecule; with `progress` every accepted step is told. With `nll` each molecule is
    scored once it stands, and `Sampled` carries the answer.
    """

    id: str
    seed: int
    n_atoms: tuple[int | None, ...]
    formula: str | None = None
    first_index: int = 0
    rtol: float = 1e-3
    atol: float = 1e-3
    frames: int = 0
    nll: EstimatorOptions | None = None
    progress: bool = False
    client: str = ""
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.n_atoms)


@dataclass(frozen=True, kw_only=True)
class EngineLikelihoodRequest:
    """Score molecules: -log p(molecule) or rather its bound, with parts and standard error."""

    id: str
    molecules: tuple[Structure, ...]
    seed: int = 0
    options: EstimatorOptions = field(default_factory=EstimatorOptions)
    first_index: int = 0
    progress: bool = False
    client: str = ""
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.molecules)


@dataclass(frozen=True, kw_only=True)
class EngineEncodeRequest:
    """Take molecules to their latents; (seed, index) fixes the dequantization."""

    id: str
    molecules: tuple[Structure, ...]
    seed: int = 0
    first_index: int = 0
    rtol: float = 1e-5
    atol: float = 1e-5
    progress: bool = False
    client: str = ""
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.molecules)


@dataclass(frozen=True, kw_only=True)
class EngineDecodeRequest:
    """Take latents to molecules; answered by `Sampled`, like a sample with a given latent."""

    id: str
    latents: tuple[LatentArrays, ...]
    first_index: int = 0
    rtol: float = 1e-5
    atol: float = 1e-5
    frames: int = 0
    progress: bool = False
    client: str = ""
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.latents)


EngineRequest = EngineSampleRequest | EngineLikelihoodRequest | EngineEncodeRequest | EngineDecodeRequest
