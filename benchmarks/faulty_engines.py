"""The engines of a soak test: a sound one, one that leaks, and one that ends with some molecules."""

import os

import numpy as np

from benchmarks.callers import POISON
from enflow.service.engine.core import Engine
from enflow.service.engine.loading import from_weights
from enflow.service.engine.requests import RowState
from enflow.service.protocol.events import Event


def honest(weights: str) -> Engine:
    """Return the engine of the service."""
    return from_weights(weights, "cpu", threads=1)


def leaky(weights: str) -> Engine:
    """Return an engine that leaks 2 MB in every step."""
    engine, kept = honest(weights), []
    step = engine.step

    def leaking() -> list[Event]:
        kept.append(np.random.default_rng(len(kept)).random(250_000))
        return step()

    engine.step = leaking  # type: ignore[method-assign]
    return engine


def poisoned(weights: str) -> Engine:
    """Return an engine whose process ends when a step holds a molecule with `POISON` atoms."""
    engine = honest(weights)
    submit = engine._submit  # noqa: SLF001

    def checked(batch: list[RowState]) -> None:
        if any(row.molecule.n_atoms == POISON for row in batch):
            os._exit(7)
        submit(batch)

    engine._submit = checked  # type: ignore[method-assign]  # noqa: SLF001
    return engine
