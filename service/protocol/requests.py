"""The words between the API and the engine: what is asked for, and what is told back.

Plain values without torch, which cross to the engine's process by pickle. A work holds molecules; each has an index and
is told about exactly once, by `Sampled`, `Scored`, `Encoded` or `Failed`. `Done` ends every work, exactly once.
Times of day are seconds since the epoch (`time.time`), because two processes share no other clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from enflow.model.errors import EnflowError

Divergence = Literal["exact", "hutchinson"]


class Structure(NamedTuple):
    """A molecule to score or encode: atomic numbers (N,), positions (N, 3) in angstrom."""

    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]


class Latent(NamedTuple):
    """A point under the base distribution: positions x (N, 3) with zero mean, features h (N, F)."""

    x: NDArray[np.float64]
    h: NDArray[np.float64]


@dataclass(frozen=True)
class LikelihoodOptions:
    """How a likelihood is computed; probes are Hutchinson's, draws are the dequantizer's."""

    divergence: Divergence = "exact"
    probes: int = 1
    draws: int = 1
    rtol: float = 1e-3
    atol: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class SampleWork:
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
    nll: LikelihoodOptions | None = None
    progress: bool = False
    client: str = ""
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.n_atoms)


@dataclass(frozen=True, kw_only=True)
class LikelihoodWork:
    """Score molecules: -log p(molecule) or rather its bound, with parts and standard error."""

    id: str
    molecules: tuple[Structure, ...]
    seed: int = 0
    options: LikelihoodOptions = field(default_factory=LikelihoodOptions)
    first_index: int = 0
    progress: bool = False
    client: str = ""
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.molecules)


@dataclass(frozen=True, kw_only=True)
class EncodeWork:
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
class DecodeWork:
    """Take latents to molecules; answered by `Sampled`, like a sample with a given latent."""

    id: str
    latents: tuple[Latent, ...]
    first_index: int = 0
    rtol: float = 1e-5
    atol: float = 1e-5
    frames: int = 0
    progress: bool = False
    client: str = ""
    deadline: float | None = None

    def __len__(self) -> int:
        return len(self.latents)


Work = SampleWork | LikelihoodWork | EncodeWork | DecodeWork


@dataclass(frozen=True)
class Frame:
    """A molecule on its way: positions (N, 3) in angstrom, features (N, F), and the atomic numbers they mean by now."""

    t: float
    nfe: int
    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    features: NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A molecule's negative log-likelihood in nats, with its parts (each a negative log, so that they sum to nll).

    parts: "base", "divergence", "dequantizer", "n_atoms". std_error: Monte Carlo error over probes and draws, None
    where there is nothing to estimate it from. quadrature_error: the Gauss-Kronrod estimate, in nats. Of the draw that
    weighs most: path, (t, log p_t of the state there) along the way from data to base, where the divergence is exact;
    atoms, what each atom takes of the part "base".
    """

    id: str
    index: int
    nll: float
    std_error: float | None
    parts: Mapping[str, float]
    nfe: int
    status: str
    quadrature_error: float
    path: tuple[tuple[float, float], ...] = ()
    atoms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Sampled:
    """A finished molecule: atomic numbers (N,), positions (N, 3) in angstrom."""

    id: str
    index: int
    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    nfe: int
    status: str
    frames: tuple[Frame, ...] = ()
    likelihood: Scored | None = None

    @property
    def n_atoms(self) -> int:
        """Number of atoms, N."""
        return len(self.atomic_numbers)


@dataclass(frozen=True)
class Encoded:
    """A molecule's latent."""

    id: str
    index: int
    latent: Latent
    nfe: int
    status: str


@dataclass(frozen=True)
class Progress:
    """A molecule on its way. May be told again after a crash; `frame` is the newest requested frame just passed."""

    id: str
    index: int
    t: float
    nfe: int
    frame: Frame | None = None


class Reason(StrEnum):
    """Why a molecule failed."""

    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    MAX_STEPS = "max_steps"
    MIN_STEP = "min_step"
    NON_FINITE = "non_finite"
    STRUCTURE = "structure"
    MEMORY = "memory"
    ENGINE = "engine"


@dataclass(frozen=True)
class Failed:
    """A molecule that will not come, why, and what was found."""

    id: str
    index: int
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Done:
    """The end of a work: the time its first molecule waited, the time its molecules ran (ms), evaluations over all."""

    id: str
    queue_ms: float
    integrate_ms: float
    nfe: int


Event = Progress | Sampled | Scored | Encoded | Failed | Done


RowKey = tuple[str, int, int]
"""What names a row: work, index, draw."""


@dataclass(frozen=True)
class SavedRow:
    """A molecule half-way: the fields of its solver state for one row without padding, and the frames it has passed."""

    state: tuple[NDArray[np.generic], ...]
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """What an engine needs to go on: works with the indices already answered, and rows half-way.

    A row without a saved state goes on from its seed; either way it ends in the same molecule.
    """

    works: tuple[tuple[Work, frozenset[int]], ...] = ()
    rows: Mapping[RowKey, SavedRow] = field(default_factory=dict)


@dataclass(frozen=True)
class Stats:
    """What the engine counts. Counters grow from the start of the service, over restarts too; the rest is of now."""

    waiting: int = 0
    running: int = 0
    slots: int = 0
    works: int = 0
    queue_units: float = 0.0
    queue_limit: float = 0.0
    queue_seconds: float = 0.0
    memory_bytes: int = 0
    device: str = ""
    steps: int = 0
    row_steps: int = 0
    nfe: int = 0
    step_seconds: float = 0.0
    finished: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    restarts: int = 0


@dataclass(frozen=True)
class Health:
    """live: the loop turns (or is being restarted); ready: the device computed a known answer recently."""

    live: bool
    ready: bool
    reason: str
    step_age: float


class Overloaded(EnflowError):  # noqa: N818 - the state it names is what callers handle
    """The queue has no room, for this client ("client") or for anybody ("service"); retry in `retry_after` seconds."""

    def __init__(self, scope: Literal["client", "service"], retry_after: float, message: str) -> None:
        super().__init__(message)
        self.scope = scope
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.scope, self.retry_after, str(self))


class Unavailable(EnflowError):  # noqa: N818 - as above
    """The engine takes no work now: it drains, or it crashed too often."""
