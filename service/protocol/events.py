"""What the engine reports about a request."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from enflow.service.protocol.requests import LatentArrays


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

    parts: "base", "divergence", "dequantizer", "n_atoms". std_error: standard error over probes and draws of the
    dequantizer, None for a single draw. quadrature_error: the Gauss-Kronrod estimate of an exact divergence, in nats.
    Of the draw nearest to the mean: path, (t, log p_t of the state at t) from data to base; atoms, each atom's own part
    of "base". draws: draws of the dequantizer.
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
    draws: int = 1


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
    latent: LatentArrays
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
