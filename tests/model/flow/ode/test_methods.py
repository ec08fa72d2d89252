"""Both methods: agreement with other solvers, independence of rows, and what becomes of rows that fail."""

import math

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from enflow.model.flow.ode import solver_state
from enflow.model.flow.ode.dense_output import Trajectory
from enflow.model.flow.ode.methods import ADAMS, DORMAND_PRINCE, Method, solve_rows
from enflow.model.flow.ode.solver_state import SolverState, Status
from enflow.model.flow.velocity import Velocity
from tests.model.flow.fields import oscillating, oscillating_solution, states, stiff

STARTS = {ADAMS: 1, DORMAND_PRINCE: 2}
"""The evaluations of the velocity before the first step."""

TIGHT = {ADAMS: 1e-8, DORMAND_PRINCE: 1e-11}
"""Tolerances that each method reaches in less than a thousand steps."""

METHODS = pytest.mark.parametrize("method", [ADAMS, DORMAND_PRINCE], ids=["adams", "dopri5"])


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
@METHODS
def test_forward_and_backward_rows_reach_the_closed_solution(method: Method, tolerance: float) -> None:
    x, h, mask = states([4, 2, 3], 2)
    t0, t1 = torch.tensor([0.0, 1.0, 0.2]).double(), torch.tensor([1.0, 0.0, 0.9]).double()
    end = solve_rows(method, oscillating, x, h, mask, (t0, t1), (tolerance, tolerance))
    exact = oscillating_solution(x, h, t0, t1)
    assert end.status.tolist() == [Status.SUCCESS] * 3
    assert torch.equal(end.t, t1)
    assert float((end.x - exact[0]).abs().max()) < 10 * tolerance
    assert float(((end.h - exact[1]) * mask[..., None]).abs().max()) < 10 * tolerance


@METHODS
def test_linear_field_is_the_matrix_exponential(method: Method) -> None:
    x, h, mask = states([3, 3], 4)
    matrix = torch.randn(7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def linear(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.cat([x, h], -1) @ matrix.T
        return y[..., :3], y[..., 3:]

    tight, times = TIGHT[method], (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    end = solve_rows(method, linear, x, h, mask, times, (tight, tight))
    forth, back = torch.linalg.matrix_exp(matrix), torch.linalg.matrix_exp(-matrix)
    start = torch.cat([x, h], -1)
    expected = torch.stack([start[0] @ forth.T, start[1] @ back.T])
    torch.testing.assert_close(torch.cat([end.x, end.h], -1), expected, rtol=1000 * tight, atol=1000 * tight)


@METHODS
def test_agrees_with_torchdiffeq_at_tight_tolerance(method: Method) -> None:
    x, h, mask = states([4, 4], 2)
    tight = TIGHT[method]
    end = solve_rows(method, stiff, x, h, mask, (0.0, 1.0), (tight, tight))
    theirs = odeint(
        lambda t, y: stiff(t.expand(2), y[0], y[1], mask),
        (x, h),
        torch.tensor([0.0, 1.0]).double(),
        rtol=1e-11,
        atol=1e-11,
    )
    torch.testing.assert_close(end.x, theirs[0][-1], rtol=1000 * tight, atol=1000 * tight)
    torch.testing.assert_close(end.h, theirs[1][-1], rtol=1000 * tight, atol=1000 * tight)


@METHODS
def test_a_row_is_the_same_alone_in_company_padded_and_joining_late(method: Method) -> None:
    x, h, mask = states([3, 9, 1], 2)
    alone = solve_rows(method, stiff, x[:1, :3], h[:1, :3], mask[:1, :3], (0.0, 1.0), (1e-5, 1e-5))
    company = solve_rows(method, stiff, x, h, mask, (0.0, 1.0), (1e-5, 1e-5))
    assert company.nfe[1] > 1.5 * company.nfe[0], "the company is meant to be stiffer"

    state = method.init(stiff, x[1:], h[1:], mask[1:], (0.0, 1.0), (1e-5, 1e-5))
    for _ in range(3):
        state = method.step(stiff, state).state
    late = solver_state.concatenate(
        state, method.init(stiff, x[:1, :3], h[:1, :3], mask[:1, :3], (0.0, 1.0), (1e-5, 1e-5))
    )
    while late.running.any():
        late = method.step(stiff, late).state

    for end, row in ((company, 0), (late, 2)):
        torch.testing.assert_close(end.x[row, :3], alone.x[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(end.h[row, :3], alone.h[0], rtol=1e-12, atol=1e-12)
        assert (end.nfe[row], end.n_steps[row]) == (alone.nfe[0], alone.n_steps[0])
        assert not end.x[row, 3:].any()


@METHODS
def test_tolerance_is_each_rows_own(method: Method) -> None:
    x, h, mask = states([3, 3], 2)
    x, h = x[:1].expand(2, -1, -1), h[:1].expand(2, -1, -1)
    end = solve_rows(method, stiff, x, h, mask, (0.0, 1.0), (torch.tensor([1e-3, 1e-9]),) * 2)
    assert end.nfe[1] > 3 * end.nfe[0]


@METHODS
def test_turning_a_molecule_turns_its_steps_with_it(method: Method) -> None:
    x, h, mask = states([5], 2)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    end = solve_rows(method, stiff, x, h, mask, (0.0, 1.0), (1e-3, 1e-3))
    other = solve_rows(method, stiff, x @ turn, h, mask, (0.0, 1.0), (1e-3, 1e-3))
    torch.testing.assert_close(other.x, end.x @ turn, rtol=1e-11, atol=1e-11)


@METHODS
def test_places_and_selects_without_touching_other_rows(method: Method) -> None:
    x, h, mask = states([4, 2], 2)
    fresh = method.init(oscillating, x, h, mask, (0.0, 1.0), (1e-6, 1e-6))
    pool = solver_state.empty(4, 6, 2, torch.float64, torch.device("cpu"), method.orders)
    pool = solver_state.insert(pool, torch.tensor([3, 1]), fresh)
    assert pool.running.tolist() == [False, True, False, True]
    stepped = method.step(oscillating, pool).state
    for ours, theirs in zip(
        solver_state.select(stepped, torch.tensor([3, 1]), 4), method.step(oscillating, fresh).state, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    vacant = solver_state.select(stepped, torch.tensor([0, 2]))
    assert not vacant.x.any()
    assert vacant.nfe.tolist() == [0, 0]


@METHODS
def test_recorded_steps_give_the_path_everywhere(method: Method) -> None:
    x, h, mask = states([3, 2], 1)
    t0, t1 = torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 0.25]).double()
    pieces = []
    solve_rows(
        method,
        oscillating,
        x,
        h,
        mask,
        (t0, t1),
        (1e-8, 1e-8),
        observe=lambda step: pieces.append((step.accepted, step.interpolant)),
    )
    rows = torch.tensor([0, 1, 1, 0, 1, 0])
    t = torch.tensor([0.0, 1.0, 0.25, 1.0, 0.6, 0.123]).double()
    found = Trajectory(pieces).at(rows, t)
    exact = torch.cat(oscillating_solution(x[rows], h[rows], t0[rows], t), -1) * mask[rows][..., None]
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)
    slopes = Trajectory(pieces).steps_at(rows, t).slope(t)
    velocity = torch.cat(oscillating(t, x[rows], h[rows], mask[rows]), -1)  # -cos(3 t) x with x at t0
    decay = torch.exp((torch.sin(3 * t0[rows]) - torch.sin(3 * t)) / 3)[:, None, None]
    velocity[..., :3] *= decay
    torch.testing.assert_close(slopes, velocity, rtol=1e-4, atol=1e-4)


def non_finite(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the velocity of `oscillating`, but NaN for molecules of two atoms after t = 0.5."""
    dx, dh = oscillating(t, x, h, mask)
    return dx, torch.where(((mask.sum(1) == 2) & (t > 0.5))[:, None, None], torch.nan, dh)


def solved(method: Method, velocity: Velocity, sizes: list[int], t1: float = 1.0) -> SolverState:
    x, h, mask = states(sizes, 2)
    return solve_rows(method, velocity, x, h, mask, (0.0, t1), (1e-6, 1e-6))


@METHODS
def test_a_row_that_turns_non_finite_stops_where_it_was_and_spares_its_neighbours(method: Method) -> None:
    end, finite = solved(method, non_finite, [3, 2]), solved(method, oscillating, [3, 2])
    assert end.status.tolist() == [Status.SUCCESS, Status.NON_FINITE]
    assert end.x.isfinite().all()
    assert 0.0 < end.t[1] <= 0.5
    torch.testing.assert_close(end.x[0], finite.x[0], rtol=1e-13, atol=1e-13)
    assert end.nfe[0] == finite.nfe[0]


@METHODS
def test_a_row_that_begins_non_finite_does_not_move(method: Method) -> None:
    x, h, mask = states([3, 3], 2)
    x[0, 0, 0] = torch.nan
    end = solve_rows(method, oscillating, x, h, mask, (0.0, 1.0), (1e-6, 1e-6))
    assert end.status.tolist() == [Status.NON_FINITE, Status.SUCCESS]
    assert (end.nfe[0], end.t[0]) == (STARTS[method], 0.0)


@METHODS
def test_a_field_that_no_step_is_small_enough_for_ends_in_the_smallest_step(method: Method) -> None:
    def chatter(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x), -1e14 * torch.sign(h)

    assert solved(method, chatter, [2]).status.tolist() == [Status.MIN_STEP]


@METHODS
def test_too_many_steps_and_nowhere_to_go(method: Method) -> None:
    x, h, mask = states([9], 2)
    end = method.init(stiff, x, h, mask, (0.0, 1.0), (1e-6, 1e-6))
    while end.running.any():
        end = method.step(stiff, end, max_steps=3).state
    assert (end.status.tolist(), end.n_steps.tolist()) == ([Status.MAX_STEPS], [3])
    still = solved(method, oscillating, [2], t1=0.0)
    assert (still.status.tolist(), still.nfe.tolist()) == ([Status.SUCCESS], [STARTS[method]])


@METHODS
def test_a_decision_that_rounding_turns_moves_the_result_by_less_than_the_tolerance(method: Method) -> None:
    """Two tolerances that differ by rounding, with another number of steps: so may one molecule in two batches."""
    x, h, mask = states([4], 2)

    def solved(tolerance: float) -> SolverState:
        return solve_rows(method, oscillating, x, h, mask, (0.0, 1.0), (tolerance, tolerance))

    fine, coarse = 1e-4, 1e-2
    while coarse / fine - 1 > 1e-12:
        middle = math.sqrt(fine * coarse)
        fine, coarse = (middle, coarse) if solved(middle).nfe == solved(fine).nfe else (fine, middle)
    first, second = solved(fine), solved(coarse)
    assert first.nfe != second.nfe
    moved = float((first.x - second.x).abs().max())
    assert 0 < moved < coarse
    exact = oscillating_solution(x, h, torch.zeros(1).double(), torch.ones(1).double())[0]
    assert max(float((end.x - exact).abs().max()) for end in (first, second)) < 10 * coarse
