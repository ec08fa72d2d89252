"""The requests to an engine."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from enflow.model.flow.arguments import SizeRange
from enflow.model.flow.estimator_options import PROBE_NODES
from enflow.model.flow.estimator_options import EstimatorOptions as EstimatorOptions  # noqa: PLC0414 - part of the protocol
from enflow.model.flow.ode.tolerances import COARSE, TIGHTEST_ADAMS, TIGHTEST_FLOAT32

DOUBLE_COST = 3.0
"""Evaluations in float32 that take as long as one in float64."""

EXACT_COST, PROBE_COST = 0.7, 1.0
"""Evaluations of the velocity that take as long as one direction of the exact trace, and as one Hutchinson probe.
Measured: 78 evaluations for 141 directions. A probe is one evaluation."""

TOLERANCE, ADAMS_EVALUATIONS, EVALUATIONS = 1e-3, 34, 44
"""A tolerance, and the evaluations of Adams' method and of Dormand-Prince for one molecule at it (measured: 34 and 43).
A method of order p needs tol^(-1 / p) of them; that of Adams needs tol^-0.25 (measured down to 1e-5)."""

COARSE_EVALUATIONS = 11.0
"""The evaluations of the first pass of a sample that is refined, at this tolerance (measured: 11.1)."""

REFINEMENT_PART, LAST_PART = 0.46, 0.57
"""Evaluations of a refinement relative to those of a first pass, and of the last one relative to those of the flow
alone (measured: 5.1 of 11.1, and 19.4 of 34)."""

DIVERGENCE_VALUES = 37
"""Values of the divergence for one likelihood at this tolerance (measured: 21 to 56); twice as many at 1e-5."""

TYPICAL_ATOMS = 18
"""Atoms of a molecule whose size is not known yet."""


Size = int | SizeRange | None
"""The number of atoms of a molecule to generate: given, or drawn from p(N), restricted to a range or not."""


class Structure(NamedTuple):
    """A molecule to score or encode: atomic numbers (N,), positions (N, 3) in angstrom."""

    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]


class LatentArrays(NamedTuple):
    """A point under the base distribution: positions x (N, 3) with zero mean, features h (N, F)."""

    x: NDArray[np.float64]
    h: NDArray[np.float64]


class CallerFields(TypedDict):
    """The fields of a request that follow from its caller."""

    id: str
    client: str
    deadline: float | None


@dataclass(frozen=True, kw_only=True)
class EngineRequestBase(ABC):
    """The fields of every request.

    Attributes:
        id: names the request in all events.
        first_index: the index of the first sample.
        progress: reports every accepted step by `Progress`.
        client: the caller whose share of the queue is used.
        background: the samples get what is left beside requests that somebody waits for.
        deadline: the time of day after which unfinished samples fail.
    """

    id: str
    first_index: int = 0
    progress: bool = False
    client: str = ""
    background: bool = False
    deadline: float | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @property
    def indices(self) -> range:
        """The indices of the samples."""
        return range(self.first_index, self.first_index + len(self))


@dataclass(frozen=True, kw_only=True)
class EngineSampleRequest(EngineRequestBase):
    """Generate molecules; `Sampled` is the answer to each.

    Attributes:
        seed: (seed, index) fixes a molecule.
        n_atoms: one entry per sample; None = drawn from p(N), a range = drawn from p(N) restricted to it.
        formula: the formula of all samples, for models that take one.
        fragment: the first atoms of all samples, which stay where they are, for models of fragments.
        rtol, atol: tolerances of the solver.
        temperature: standard deviation of the noise; 1 = the model's distribution.
        refinements: the number of refinements of each sample (see `model.flow.refinement`).
        frames: the number of states along the path that come with each molecule, evenly spaced in t from 0 to 1.
    """

    seed: int
    n_atoms: tuple[Size, ...]
    formula: str | None = None
    fragment: Structure | None = None
    rtol: float = 1e-3
    atol: float = 1e-3
    temperature: float = 1.0
    refinements: int = 0
    frames: int = 0

    def __len__(self) -> int:
        return len(self.n_atoms)


@dataclass(frozen=True, kw_only=True)
class EngineLikelihoodRequest(EngineRequestBase):
    """Score molecules: a bound of -log p(molecule) in nats; `Scored` is the answer to each.

    With models of fragments, `given` atoms of each molecule, its first ones, are the fragment, and the bound is of
    -log p(other atoms | fragment).
    """

    molecules: tuple[Structure, ...]
    given: int = 0
    seed: int = 0
    options: EstimatorOptions = field(default_factory=EstimatorOptions)

    def __len__(self) -> int:
        return len(self.molecules)


@dataclass(frozen=True, kw_only=True)
class EngineEncodeRequest(EngineRequestBase):
    """Map molecules to latents; `Encoded` is the answer to each. (seed, index) fixes the dequantization."""

    molecules: tuple[Structure, ...]
    seed: int = 0
    rtol: float = 1e-5
    atol: float = 1e-5

    def __len__(self) -> int:
        return len(self.molecules)


@dataclass(frozen=True, kw_only=True)
class EngineDecodeRequest(EngineRequestBase):
    """Map latents to molecules; `Sampled` is the answer to each."""

    latents: tuple[LatentArrays, ...]
    rtol: float = 1e-5
    atol: float = 1e-5
    frames: int = 0

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True, kw_only=True)
class EngineVariationRequest(EngineRequestBase):
    """Add noise to a molecule and remove it by the flow; `Sampled` is the answer to each.

    Attributes:
        parent: the molecule that is varied.
        count: the number of variations.
        strength: the share of noise; the flow begins at time 1 - strength.
        seed: (seed, index) fixes the noise.
    """

    parent: Structure
    count: int
    strength: float
    seed: int = 0
    rtol: float = 1e-3
    atol: float = 1e-3

    def __len__(self) -> int:
        return self.count


EngineRequest = (
    EngineSampleRequest | EngineLikelihoodRequest | EngineEncodeRequest | EngineDecodeRequest | EngineVariationRequest
)


def sample_costs(request: EngineRequest) -> list[float]:
    """Return the estimated cost of each sample of a request, in pairs of atoms times evaluations of the velocity."""
    match request:
        case EngineSampleRequest():
            evaluations = sum(pass_evaluations(request))
            return [typical_size(n) ** 2 * evaluations for n in request.n_atoms]
        case EngineLikelihoodRequest():
            sizes = [len(molecule.atomic_numbers) for molecule in request.molecules]
            return [n**2 * _likelihood_evaluations(request.options, n) for n in sizes]
        case EngineEncodeRequest():
            sizes = [len(molecule.atomic_numbers) for molecule in request.molecules]
            return [n**2 * _path_evaluations(request.rtol) for n in sizes]
        case EngineDecodeRequest():
            sizes = [len(latent.x) for latent in request.latents]
        case EngineVariationRequest():
            sizes = [len(request.parent.atomic_numbers)] * request.count
    return [n**2 * _forward_evaluations(request.rtol) for n in sizes]


def typical_size(size: Size, typical: int = TYPICAL_ATOMS) -> int:
    """Return the expected number of atoms of a size: `typical` where it is drawn, or the nearest one in its range."""
    if isinstance(size, SizeRange):
        return min(max(typical, size.low), size.high)
    return typical if size is None else size


def pass_evaluations(request: EngineSampleRequest) -> list[float]:
    """Return the expected evaluations of the velocity in each pass of a sample."""
    rtol, whole = request.rtol, _forward_evaluations(request.rtol)
    if not request.refinements:
        return [whole]
    if COARSE.factor * rtol < TIGHTEST_ADAMS:
        first = _path_evaluations(COARSE.factor * rtol)
    else:
        first = COARSE_EVALUATIONS * (TOLERANCE / rtol) ** 0.25
    return [first, *[REFINEMENT_PART * first] * (request.refinements - 1), LAST_PART * whole]


def _forward_evaluations(rtol: float) -> float:
    adams = float(ADAMS_EVALUATIONS * (TOLERANCE / rtol) ** 0.25)
    return adams if rtol >= TIGHTEST_ADAMS else _path_evaluations(rtol)


def _path_evaluations(rtol: float) -> float:
    return float(EVALUATIONS * (TOLERANCE / rtol) ** 0.2) * (DOUBLE_COST if rtol < TIGHTEST_FLOAT32 else 1.0)


def _likelihood_evaluations(options: EstimatorOptions, n_atoms: int) -> float:
    # The exact trace has 8 directions per atom at 0.7 evaluations each; a probe is one evaluation.
    nodes = DIVERGENCE_VALUES * (TOLERANCE / options.rtol) ** 0.15
    values = 5.6 * n_atoms * nodes if options.exact else PROBE_COST * PROBE_NODES * options.probes_per_node
    path = _path_evaluations(min(options.path_tolerances))
    return float(options.first_draws * (path + values))
