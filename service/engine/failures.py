"""Failures of a step: an exception becomes a reason for the caller and a traceback for the log."""

import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch

from enflow.service.problems import public_reason
from enflow.service.protocol.events import Reason
from enflow.service.protocol.status import RowKey

Batch = TypeVar("Batch")


class EngineObserver(Protocol):
    """An observer of the engine's steps."""

    def step_begins(self, rows: Sequence[RowKey]) -> None:
        """Receive the rows on which the device works from now on; a crash is attributed to them."""

    def step_failed(self, rows: Sequence[RowKey], trace: str) -> None:
        """Receive the rows and the traceback of a step that raised an exception."""


class NoObserver:
    """An observer that does nothing."""

    def step_begins(self, rows: Sequence[RowKey]) -> None:
        """Do nothing."""

    def step_failed(self, rows: Sequence[RowKey], trace: str) -> None:
        """Do nothing."""


class Failure(NamedTuple):
    """The reason of a failed step, a sentence for the caller, and the traceback."""

    reason: Reason
    detail: str
    trace: str


def attempt(submit: Callable[[Batch], None], batch: Batch) -> Failure | None:
    """Call `submit(batch)`; return the failure, or None.

    Raises:
        torch.AcceleratorError: the device is lost, and only a new worker can use it again.
    """
    try:
        submit(batch)
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001 - one molecule must not fail the others
        reason = Reason.MEMORY if _out_of_memory(error) else Reason.ENGINE
        return Failure(reason, public_reason(error), "".join(traceback.format_exception(error)))
    return None


def _out_of_memory(error: Exception) -> bool:
    # The CPU allocator of torch has no exception type of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
