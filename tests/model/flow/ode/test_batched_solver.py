"""Molecules that join and leave one stepper arrive where each would alone."""

import pytest
import torch

from enflow.model.flow.ode import batched_solver
from enflow.model.flow.ode.batched_solver import InitialState, solve_batched
from enflow.model.flow.ode.dense_output import Trajectory
from enflow.model.flow.ode.methods import ADAMS, DORMAND_PRINCE, Method, solve_rows
from enflow.model.flow.ode.solver_state import Status
from tests.model.flow.fields import oscillating, states, stiff


@pytest.mark.parametrize(("method", "tolerance"), [(ADAMS, 1e-4), (DORMAND_PRINCE, 5e-7)], ids=["adams", "dopri5"])
def test_everyone_arrives_as_if_alone(monkeypatch, method: Method, tolerance: float) -> None:
    monkeypatch.setitem(batched_solver.BATCH_PAIRS, "cpu", 60)  # room for a few of the smallest only
    sizes = [2, 5, 3, 1, 4, 2, 7, 3, 9]
    x, h, mask = states(sizes, 2)
    times = [(0.1 * (i % 2), 1.0) for i in range(len(sizes))]
    starts = [InitialState(x[i, :n], h[i, :n], *times[i], tolerance, tolerance) for i, n in enumerate(sizes)]
    pairs = []

    def watched(t, x, h, mask):
        pairs.append(x.shape[0] * x.shape[1] ** 2)
        return stiff(t, x, h, mask)

    found = {solution.index: solution for solution in solve_batched(watched, starts)}
    assert sorted(found) == list(range(len(sizes)))
    assert max(pairs) <= 81, "one molecule of nine atoms exceeds the room, nothing else may"
    for i, start in enumerate(starts):
        alone = solve_rows(
            method,
            stiff,
            start.x[None],
            start.h[None],
            mask[i : i + 1, : len(start.x)],
            times[i],
            (tolerance, tolerance),
        )
        torch.testing.assert_close(found[i].x, alone.x[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found[i].h, alone.h[0], rtol=1e-12, atol=1e-12)
        assert (found[i].nfe, found[i].status) == (int(alone.nfe[0]), Status.SUCCESS)


def test_a_recorded_path_begins_at_the_start_and_ends_at_the_end() -> None:
    x, h, _ = states([3, 5], 2)
    starts = [InitialState(x[0, :3], h[0, :3], 1.0, 0.0, 1e-3, 1e-3), InitialState(x[1], h[1], 0.0, 1.0, 1e-3, 1e-3)]
    for solution in solve_batched(oscillating, starts, record=True):
        start = starts[solution.index]
        path = Trajectory([(torch.ones(1, dtype=torch.bool), piece) for piece in solution.path])
        ends = path.at(torch.zeros(2, dtype=torch.int64), torch.tensor([start.t0, start.t1]).double())
        torch.testing.assert_close(ends[0], torch.cat([start.x, start.h], -1))
        torch.testing.assert_close(ends[1], torch.cat([solution.x, solution.h], -1))


def test_failures_leave_with_their_status() -> None:
    x, h, _ = states([3, 3], 2)
    starts = [
        InitialState(x[0] * torch.nan, h[0], 0.0, 1.0, 1e-3, 1e-3),
        InitialState(x[1], h[1], 0.0, 1.0, 1e-3, 1e-3),
    ]
    found = {solution.index: solution.status for solution in solve_batched(stiff, starts, max_steps=2)}
    assert found == {0: Status.NON_FINITE, 1: Status.MAX_STEPS}
    assert list(solve_batched(stiff, [])) == []
