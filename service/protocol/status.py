"""The state of an engine, for its clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from enflow.model.errors import EnflowError
from enflow.service.protocol.events import Frame
from enflow.service.protocol.requests import EngineRequest

SampleKey = tuple[str, int]
"""The identity of a sample: request, index."""

RowKey = tuple[str, int, int]
"""The identity of a row: request, index, draw."""


@dataclass(frozen=True)
class SavedRow:
    """An unfinished row: the fields of its solver state without padding, and the frames passed so far."""

    state: tuple[NDArray[np.generic], ...]
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """The state from which an engine can continue: requests with the indices already answered, and unfinished rows.

    A row without a saved state starts again from its seed. Both lead to the same molecule. Samples of different
    isolation groups share no step.
    """

    requests: tuple[tuple[EngineRequest, frozenset[int]], ...] = ()
    rows: Mapping[RowKey, SavedRow] = field(default_factory=dict)
    isolation: Mapping[SampleKey, int] = field(default_factory=dict)


COUNTERS = ("steps", "row_steps", "nfe", "step_seconds", "memory_errors")
"""The counters of a worker among `Stats`."""


@dataclass(frozen=True)
class Stats:
    """The present state of an engine, and counters since the start of the service.

    Attributes:
        waiting, running: unfinished samples before and after their first step.
        occupied, slots: rows of the fullest batch key that hold a state on the device, and rows that may.
        requests: unfinished requests.
        queue_units, queue_limit: cost in the queue and its limit, in pairs of atoms times evaluations.
        queue_seconds: the time that the queue will take.
        rate: cost per second of the engine; 0 = not known.
        finished, failed: samples, by kind of answer and by reason.
        memory_errors: steps that did not fit into memory.
        restarts: workers that were replaced.
    """

    waiting: int = 0
    running: int = 0
    occupied: int = 0
    slots: int = 0
    requests: int = 0
    queue_units: float = 0.0
    queue_limit: float = 0.0
    queue_seconds: float = 0.0
    rate: float = 0.0
    memory_bytes: int = 0
    device: str = ""
    steps: int = 0
    row_steps: int = 0
    nfe: int = 0
    step_seconds: float = 0.0
    memory_errors: int = 0
    finished: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    restarts: int = 0


@dataclass(frozen=True)
class Health:
    """The health of an engine.

    Attributes:
        live: the engine is supervised; a worker that fails is replaced.
        ready: requests are accepted, and the device computed a known answer recently.
        reason: why the engine is not ready; empty if it is.
        step_age: seconds since the last sign of life; infinite before the first.
    """

    live: bool
    ready: bool
    reason: str
    step_age: float


class Overloaded(EnflowError):  # noqa: N818 - callers handle a state
    """The queue is full, for this client ("client") or for all ("service"); retry after `retry_after` seconds."""

    def __init__(self, scope: Literal["client", "service"], retry_after: float, message: str) -> None:
        super().__init__(message)
        self.scope = scope
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.scope, self.retry_after, str(self))


class Unavailable(EnflowError):  # noqa: N818 - as above
    """The engine accepts no requests now: it drains, or it crashed too often; retry after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.retry_after)
