"""Requests to an engine and the events that they end with, shared by its tests."""

import math
from typing import Any

import numpy as np

from enflow.service.engine.core import Engine
from enflow.service.protocol.events import Encoded, Event, Failed, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineSampleRequest,
    Structure,
)
from tests import stubs

GROWN = math.exp(stubs.RATE)
"""The factor by which the known solution grows positions from the latent to the sample."""

METHANE = Structure(
    np.array([6, 1, 1, 1, 1]),
    0.63 * np.array([[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]),
)


def sample(name: str = "s", n_atoms: tuple[int | None, ...] = (5,), **options: Any) -> EngineSampleRequest:
    return EngineSampleRequest(id=name, seed=7, n_atoms=n_atoms, rtol=1e-6, atol=1e-6, **options)


def drain(engine: Engine, limit: int = 5000) -> list[Event]:
    events: list[Event] = []
    while not engine.idle:
        events += engine.step()
        limit -= 1
        assert limit, "the engine does not come to an end"
    return events


def answers(events: list[Event]) -> list[Sampled | Scored | Encoded | Failed]:
    return [event for event in events if isinstance(event, Sampled | Scored | Encoded | Failed)]


def sampled(events: list[Event]) -> dict[tuple[str, int], Sampled]:
    return {(event.id, event.index): event for event in events if isinstance(event, Sampled)}


def assert_same(one: Sampled, other: Sampled, tolerance: float = 1e-12) -> None:
    assert np.array_equal(one.atomic_numbers, other.atomic_numbers)
    np.testing.assert_allclose(one.positions, other.positions, atol=tolerance, rtol=0)
    assert one.nfe == other.nfe


def molecule_of(structure: Structure) -> Any:
    from enflow.model.chem.molecule import Molecule

    return Molecule(structure.atomic_numbers, structure.positions)
