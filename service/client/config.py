"""The configuration of an engine client, and the description of the engine that it starts."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the client need not load torch
    from enflow.service.engine.core import Engine


@dataclass(frozen=True)
class EngineSpec:
    """A function that makes an engine, in a form that crosses to another process.

    Attributes:
        target: "module:function".
        arguments: the keyword arguments of the function.
    """

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> "Engine":
        module, _, function = self.target.partition(":")
        engine: Engine = getattr(importlib.import_module(module), function)(**self.arguments)
        return engine


@dataclass(frozen=True)
class ClientConfig:
    """The time limits of a worker, the rules for its restart, and the limits of the queue.

    Attributes:
        start_s: seconds that a worker may take to be ready; it loads torch and the weights. Twice as many after each
            crash in a row.
        hang_s: seconds without a heartbeat after which a worker is replaced; longer than the longest step.
        max_crashes: crashes in a row, without an answer between them, that open the circuit breaker.
        breaker_s: seconds that the circuit breaker stays open before another worker is tried.
        queue_s: seconds of computing that the queue may hold.
        client_share: the part of the queue that one client may hold.
    """

    start_s: float = 180.0
    hang_s: float = 60.0
    max_crashes: int = 5
    breaker_s: float = 30.0
    queue_s: float = 600.0
    client_share: float = 0.5
