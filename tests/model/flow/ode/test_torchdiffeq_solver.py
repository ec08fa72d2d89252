"""The augmented solve against closed forms, and its gradients against finite differences."""

import math

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from enflow.model.flow.divergence import rademacher
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.torchdiffeq_solver import AugmentedOptions, solve
from tests.model.flow.fields import Linear, states

A, B = 0.3, -0.8


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_gathers_log_density_and_regularisers(t0: float, t1: float) -> None:
    (x, h, mask), way = states([3, 1], 2), t1 - t0
    probe = rademacher([generator(0, row, "probe") for row in range(2)], mask, 2)
    n = mask.sum(1).double()
    exact, estimated = (
        solve(Linear(A, B), x, h, mask, (t0, t1), noise, AugmentedOptions(1e-9)) for noise in (None, probe)
    )
    torch.testing.assert_close(exact.x, x * math.exp(A * way), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(exact.ladj, way * (3 * (n - 1) * A + 2 * n * B), rtol=1e-7, atol=1e-7)
    # The probe sees 3 n positions, and of a diagonal Jacobian random signs see the trace without error.
    torch.testing.assert_close(estimated.ladj, way * (3 * n * A + 2 * n * B), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(estimated.frobenius, 3 * n * A**2 + 2 * n * B**2, rtol=1e-7, atol=1e-7)
    energy = [z.square().sum((1, 2)) * r * (math.exp(2 * r * way) - 1) / 2 for z, r in ((x, A), (h, B))]
    for found in (exact, estimated):
        torch.testing.assert_close(found.kinetic, way * (energy[0] + energy[1]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("with_adjoint", [False, True])
@pytest.mark.parametrize("with_probe", [False, True])
def test_gradients_of_all_that_is_gathered(with_adjoint: bool, with_probe: bool) -> None:
    x, h, mask = states([2], 1)
    probe = rademacher([generator(0, 0, "probe")], mask, 1) if with_probe else None

    def loss(field: Linear) -> Tensor:
        adjoint = list(field.parameters()) if with_adjoint else None
        found = solve(field, x, h, mask, (1.0, 0.0), probe, AugmentedOptions(1e-8, adjoint))
        return (found.x.square().sum() + found.ladj + 0.3 * found.kinetic + 0.5 * found.frobenius).sum()

    field = Linear(A, B)
    loss(field).backward()
    for which, step in ((0, (1e-4, 0.0)), (1, (0.0, 1e-4))):
        above, below = (loss(Linear(A + s * step[0], B + s * step[1])).item() for s in (1, -1))
        assert math.isclose(field.rates.grad[which].item(), (above - below) / 2e-4, rel_tol=1e-4, abs_tol=1e-4)


def test_only_what_is_gathered_shortens_the_steps() -> None:
    (x, h, mask), rate = states([3, 4], 0), 6.0

    def evaluations(squares: bool) -> int:
        nfe = 0

        def field(_: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            nonlocal nfe
            nfe += 1
            v = rate * state[0]
            return (v, 3.0 * rate * (mask.sum(1).double() - 1.0), *([v.square().sum((1, 2))] if squares else []))

        start = (x, *([x.new_zeros(2)] * (2 if squares else 1)))
        odeint(field, start, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=1e-6, atol=1e-6)
        return nfe

    found = [
        solve(Linear(rate, 0.0), x, h, mask, (0.0, 1.0), options=AugmentedOptions(1e-6, regularised=squares))
        for squares in (False, True)
    ]
    assert [each.nfe for each in found] == [evaluations(squares=False), evaluations(squares=True)]
    assert found[0].nfe < found[1].nfe
    assert [each.kinetic.all().item() for each in found] == [False, True]
    torch.testing.assert_close(found[0].ladj, found[1].ladj, rtol=1e-6, atol=1e-6)
