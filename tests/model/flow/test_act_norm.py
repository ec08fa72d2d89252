"""ActNorm against the Jacobian in coordinates of the subspace."""

import numpy as np
import pytest
import torch
from scipy.linalg import null_space

from enflow.model.flow.act_norm import ActNorm
from enflow.model.flow.geometry import centre
from enflow.model.flow.noise import generator


def example(n_dims: int) -> tuple[ActNorm, torch.Tensor, torch.Tensor, torch.Tensor]:
    act_norm = ActNorm(2, n_dims).double()
    with torch.no_grad():
        act_norm.x_log_scale.fill_(0.7)
        act_norm.h_shift.copy_(torch.tensor([0.3, -1.2]))
        act_norm.h_log_scale.copy_(torch.tensor([-0.4, 0.9]))
    mask = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    source = generator(0, 0, "test")
    x = centre(torch.randn(3, 4, n_dims, generator=source, dtype=torch.float64), mask)
    h = torch.randn(3, 4, 2, generator=source, dtype=torch.float64) * mask[..., None]
    return act_norm, x, h, mask


def test_inverse_undoes_forward_and_padding_stays_zero() -> None:
    act_norm, x, h, mask = example(3)
    there = act_norm(x, h, mask)
    back = act_norm.inverse(*there, mask)
    assert not there[1][~mask].any()
    torch.testing.assert_close(back[0], x, rtol=0, atol=1e-14)
    torch.testing.assert_close(back[1], h, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_ladj_is_that_of_the_jacobian_in_the_subspace(n_dims: int) -> None:
    act_norm, x, h, mask = example(n_dims)
    found = act_norm.ladj(mask)
    for row, n in enumerate([4, 2]):
        basis = torch.from_numpy(np.kron(null_space(np.ones((1, n))), np.eye(n_dims)))
        real = torch.ones(1, n, dtype=torch.bool)

        def coordinates(y: torch.Tensor, n: int = n, basis: torch.Tensor = basis, real: torch.Tensor = real):
            split = basis.shape[1]
            x, h = act_norm((basis @ y[:split]).reshape(1, n, n_dims), y[split:].reshape(1, n, 2), real)
            return torch.cat([basis.T @ x.reshape(-1), h.reshape(-1)])

        y = torch.cat([basis.T @ x[row, :n].reshape(-1), h[row, :n].reshape(-1)])
        _, expected = torch.linalg.slogdet(torch.autograd.functional.jacobian(coordinates, y))
        assert found[row].item() == pytest.approx(expected.item(), abs=1e-12)
    assert found[2] == 0


def test_initialize_gives_the_batch_unit_variance_in_the_subspace() -> None:
    act_norm, x, h, mask = example(3)
    act_norm.initialize(3.0 * x, 0.2 * h + 5.0 * mask[..., None], mask)
    x, h = act_norm(3.0 * x, 0.2 * h + 5.0 * mask[..., None], mask)
    assert (x.square().sum() / (3 * (3 + 1))).item() == pytest.approx(1.0)
    assert h[mask].mean(0).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    assert h[mask].std(0, correction=0).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
