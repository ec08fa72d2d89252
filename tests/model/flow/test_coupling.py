"""The random rotations of a coupling are uniform."""

import numpy as np
import pytest

from enflow.model.flow.coupling import random_rotations


def test_random_rotations_are_orthogonal_and_uniform() -> None:
    rotations = random_rotations(20000, 3, np.random.default_rng(0))
    identity = np.broadcast_to(np.eye(3), rotations.shape)
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), identity, atol=1e-5)
    assert np.abs(rotations.mean(0)).max() < 0.02
    assert np.mean(np.linalg.det(rotations) > 0) == pytest.approx(0.5, abs=0.02)
