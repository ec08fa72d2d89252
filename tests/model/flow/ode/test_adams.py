"""Adams' method: its order, its cost, and the choice between the methods."""

import math

import pytest
import torch
from torch import Tensor

from enflow.model.flow.ode.adams import error_at
from enflow.model.flow.ode.methods import ADAMS, DORMAND_PRINCE, method_for, solve_rows
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.ode.step_control import Step
from enflow.model.flow.ode.tolerances import FINAL_SCALE, FINE, TIGHTEST_ADAMS, Ending
from tests.model.flow.fields import oscillating, oscillating_solution, states
from tests.model.flow.ode.fixed_steps import fixed_steps


def test_third_order_with_its_start_and_fourth_without() -> None:
    coarse, fine = fixed_steps(ADAMS, 64), fixed_steps(ADAMS, 128)
    assert 2.8 < math.log2(coarse[0] / fine[0]) < 3.2
    assert 2.8 < math.log2(coarse[1] / fine[1]) < 3.2
    assert 3.8 < math.log2(from_known_derivatives(64) / from_known_derivatives(128)) < 4.3


def from_known_derivatives(count: int) -> float:
    """Return the largest error of equal steps from 0 to 1 that begin with the Taylor coefficients of the solution."""
    x, h, mask = states([3], 1)
    state = ADAMS.init(oscillating, x, h, mask, (0.0, 1.0), (1e9, 1e9))
    orders = [torch.cat(each, -1) for each in ((-x, 0 * h), (x / 2, 0 * h + 5 / 2), (8 * x / 6, 0 * h))]
    state = state._replace(derivatives=torch.cat(orders, -1), order=state.order + 2)
    while state.running.any():
        state = ADAMS.step(oscillating, state._replace(dt=torch.full((1,), 1.0 / count).double())).state
    exact = oscillating_solution(x, h, torch.zeros(1).double(), torch.ones(1).double())
    return float((torch.cat([state.x, state.h], -1) - torch.cat(exact, -1)).abs().max())


@pytest.mark.parametrize("changes", [(1.0, 2.0, 0.5), (0.7, 1.0, 1.4, 2.0, 0.25)])
def test_the_order_survives_changes_of_the_step_size(changes: tuple[float, ...]) -> None:
    """A solution t^3 is reproduced whatever the steps, once three derivatives are known."""
    x, h, mask = states([3], 2)

    def cubic(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x), (3.0 * t * t)[:, None, None] * torch.ones_like(h) * mask[..., None]

    state = ADAMS.init(cubic, x, h, mask, (0.0, 10.0), (1e9, 1e9))
    begins = h
    for number, change in enumerate([0.1, 0.1, 0.1, *(0.1 * each for each in changes)]):
        if number == 3:
            begins = state.h - (state.t**3)[:, None, None]
        state = ADAMS.step(cubic, state._replace(dt=torch.tensor([change]).double())).state
    torch.testing.assert_close(state.h, begins + (state.t**3)[:, None, None], rtol=0, atol=1e-12)


def test_a_step_is_one_evaluation_and_a_start_another() -> None:
    calls = 0

    def counted(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return oscillating(t, x, h, mask)

    end = solve_rows(ADAMS, counted, *states([4], 2), (0.0, 1.0), (1e-5, 1e-5))
    assert end.nfe.tolist() == [calls] == [1 + int(end.n_steps[0])]


def test_the_allowed_error_falls_with_the_noise() -> None:
    times = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(error_at(times, torch.full((3,), FINAL_SCALE)), torch.tensor([1.96, 1.0, 0.04]))
    torch.testing.assert_close(error_at(times, torch.ones(3)), torch.ones(3))


def test_a_small_final_scale_makes_the_first_step_longer_and_late_ones_shorter() -> None:
    def steps(ending: Ending) -> tuple[float, int]:
        state = ADAMS.init(oscillating, *states([4], 2), (0.0, 1.0), (1e-4, 1e-4), ending)
        first, times = float(state.dt[0]), []
        while state.running.any():
            state = ADAMS.step(oscillating, state).state
            times.append(float(state.t))
        return first, sum(t > 0.8 for t in times)

    (first, late), (first_of_equal, late_of_equal) = steps(FINE), steps(Ending(1.0))
    assert first > 1.3 * first_of_equal
    assert late > late_of_equal


def test_a_straight_line_along_the_velocity_ends_a_path() -> None:
    start, straight_from, last = states([4, 3, 2], 2), [0.8, math.inf, 0.3], list[Step]()
    end = solve_rows(
        ADAMS, oscillating, *start, (0.0, 1.0), (1e-5, 1e-5), last.append, ending=(1.0, torch.tensor(straight_from))
    )
    assert end.status.tolist() == [Status.SUCCESS] * 3
    torch.testing.assert_close(end.t, torch.tensor([0.8, 1.0, 0.3]).to(end.t))
    steps = solve_rows(ADAMS, oscillating, *start, (0.0, end.t), (1e-5, 1e-5), ending=Ending(1.0))
    velocity = torch.cat(oscillating(end.t, steps.x, steps.h, start[2]), -1)
    line = (1 - end.t)[:, None, None] * velocity
    torch.testing.assert_close(torch.cat([end.x - steps.x, end.h - steps.h], -1), line, rtol=1e-3, atol=1e-5)
    assert end.nfe[2] < end.nfe[0] < end.nfe[1]


def test_adams_goes_from_noise_to_molecules_and_dormand_prince_back() -> None:
    assert method_for(0.0, 1.0, 1e-3) is ADAMS
    assert method_for(0.45, 1.0, TIGHTEST_ADAMS) is ADAMS
    assert method_for(0.0, 1.0, 0.9 * TIGHTEST_ADAMS) is DORMAND_PRINCE
    assert method_for(1.0, 0.0, 1e-3) is DORMAND_PRINCE
