"""Other packages change PyTorch's default dtype; a loaded model samples and scores all the same."""

from collections.abc import Iterator
from math import isfinite

import numpy as np
import pytest
import torch

from enflow.model.checkpoint import load_any


@pytest.fixture
def double_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize(("name", "n_atoms"), [("qm9", 3), ("dw4", 4)])
def test_sample_and_log_prob_work_with_another_default_dtype(name: str, n_atoms: int) -> None:
    flow = load_any(name)
    (molecule,) = flow.sample([n_atoms], seed=1, rtol=0.1, atol=0.1)
    (score,) = flow.log_prob([molecule], seed=1, draws=1, probes=1, target_error=100.0, rtol=0.1, atol=0.1)
    assert isfinite(score.nll)
    torch.set_default_dtype(torch.float32)
    (expected,) = flow.sample([n_atoms], seed=1, rtol=0.1, atol=0.1)
    np.testing.assert_allclose(molecule.positions, expected.positions, atol=1e-5)
