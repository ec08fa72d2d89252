"""Failures of a step: an exception becomes a reason for the caller."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from enflow.service.protocol.events import Reason

Batch = TypeVar("Batch")


class Failure(NamedTuple):
    """The reason of a failed step, and a sentence for the caller."""

    reason: Reason
    detail: str


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
        return Failure(Reason.MEMORY if _out_of_memory(error) else Reason.ENGINE, f"{type(error).__name__}: {error}")
    return None


def _out_of_memory(error: Exception) -> bool:
    # The CPU allocator of torch has no exception type of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
