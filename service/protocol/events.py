"""The events by which an engine answers a request."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from enflow.service.protocol.requests import LatentArrays


@dataclass(frozen=True)
class Frame:
    """A state along the path at time t: positions (N, 3) in angstrom, features (N, F) and their atomic numbers (N,)."""

    t: float
    nfe: int
    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    features: NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """The negative log-likelihood of a molecule in nats.

    Attributes:
        parts: negative logarithms that sum to `nll`: "base", "divergence", "dequantizer", "n_atoms".
        std_error: the standard error over probes and draws of the dequantizer; None = a single draw.
        nfe: evaluations of the velocity.
        quadrature_error: the Gauss-Kronrod estimate of an exact divergence, nats.
        path: (t, log p_t) along the trajectory of the draw nearest to the mean.
        atoms: the share of each atom in the part "base", in the same draw.
        draws: draws of the dequantizer.
    """

    id: str
    index: int
    nll: float
    std_error: float | None
    parts: Mapping[str, float]
    nfe: int
    quadrature_error: float
    path: tuple[tuple[float, float], ...] = ()
    atoms: tuple[float, ...] = ()
    draws: int = 1


@dataclass(frozen=True)
class Sampled:
    """A molecule that was generated: atomic numbers (N,), positions (N, 3) in angstrom."""

    id: str
    index: int
    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    nfe: int
    frames: tuple[Frame, ...] = ()

    @property
    def n_atoms(self) -> int:
        """Number of atoms, N."""
        return len(self.atomic_numbers)


@dataclass(frozen=True)
class Encoded:
    """The latent of a molecule."""

    id: str
    index: int
    latent: LatentArrays
    nfe: int


@dataclass(frozen=True)
class Progress:
    """An accepted step of the solver, with the last frame that it passed. After a crash steps may be repeated.

    Attributes:
        t: the time that the solver has reached; a refinement goes back in time.
        nfe: evaluations of the velocity so far.
        share: the part of the work on the sample that is done.
    """

    id: str
    index: int
    t: float
    nfe: int
    share: float = 0.0
    frame: Frame | None = None


class Reason(StrEnum):
    """The reason why a sample failed."""

    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    MAX_STEPS = "max_steps"
    MIN_STEP = "min_step"
    NON_FINITE = "non_finite"
    STRUCTURE = "structure"
    MEMORY = "memory"
    ENGINE = "engine"
    CRASH = "crash"


@dataclass(frozen=True)
class Failed:
    """A sample that failed, with the reason and a sentence for the caller."""

    id: str
    index: int
    reason: Reason
    detail: str = ""

    @property
    def message(self) -> str:
        """The reason, with the detail if there is one."""
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


@dataclass(frozen=True)
class Done:
    """The end of a request: milliseconds before its first step, milliseconds from there to the end, evaluations."""

    id: str
    queue_ms: float
    integrate_ms: float
    nfe: int


SampleEvent = Sampled | Scored | Encoded | Failed
"""The answer to one sample."""

Event = Progress | SampleEvent | Done
