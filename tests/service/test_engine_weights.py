"""The engine on the bundled weights, float32: the same seed is the same molecule, alone and in a crowd."""

from pathlib import Path

import numpy as np
import torch

from service.engine import from_weights, run
from service.work import Sampled, SampleWork

WEIGHTS = Path(__file__).parents[2] / "weights" / "qm9"


def test_a_molecule_of_the_bundled_weights_is_the_same_in_a_crowd() -> None:
    torch.set_num_threads(1)
    engine = from_weights(str(WEIGHTS), "cpu")
    wanted = SampleWork(id="wanted", seed=11, n_atoms=(7,))
    (alone,) = [event for event in run(engine, wanted) if isinstance(event, Sampled)]
    engine.add(SampleWork(id="crowd", seed=5, n_atoms=(5, 6, 8, 9, 9)))
    for _ in range(3):
        engine.step()
    (crowded,) = [event for event in run(engine, wanted) if isinstance(event, Sampled)]
    assert np.array_equal(crowded.atomic_numbers, alone.atomic_numbers)
    np.testing.assert_allclose(crowded.positions, alone.positions, atol=1e-3)
