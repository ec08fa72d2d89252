"""The state of an engine as its clients see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from enflow.model.errors import EnflowError
from enflow.service.protocol.events import Frame
from enflow.service.protocol.requests import EngineRequest

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

    works: tuple[tuple[EngineRequest, frozenset[int]], ...] = ()
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
