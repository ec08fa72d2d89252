"""The engine on the bundled weights, float32: one seed gives one molecule, alone and beside others."""

from pathlib import Path

import numpy as np
import pytest
import torch

from enflow.service.engine.loading import from_weights
from enflow.service.protocol.events import Sampled
from enflow.service.protocol.requests import EngineSampleRequest
from tests.stubs import run

WEIGHTS = Path(__file__).parents[3] / "weights"


@pytest.mark.parametrize(("name", "size", "crowd"), [("qm9", 7, (5, 6, 8, 9, 9)), ("dw4", 4, (4,) * 9)])
def test_a_molecule_of_the_bundled_weights_is_the_same_in_a_crowd(name: str, size: int, crowd: tuple[int, ...]) -> None:
    torch.set_num_threads(1)
    engine = from_weights(str(WEIGHTS / name), "cpu")
    wanted = EngineSampleRequest(id="wanted", seed=11, n_atoms=(size,))
    (alone,) = [event for event in run(engine, wanted) if isinstance(event, Sampled)]
    engine.add(EngineSampleRequest(id="crowd", seed=5, n_atoms=crowd))
    for _ in range(3):
        engine.step()
    (crowded,) = [event for event in run(engine, wanted) if isinstance(event, Sampled)]
    assert np.array_equal(crowded.atomic_numbers, alone.atomic_numbers)
    np.testing.assert_allclose(crowded.positions, alone.positions, atol=1e-3)
