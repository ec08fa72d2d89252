"""The errors of a method with equal steps."""

import torch

from enflow.model.flow.ode.methods import Method
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.velocity import unpack
from tests.model.flow.fields import oscillating, oscillating_solution, states


def fixed_steps(method: Method, count: int) -> tuple[float, float]:
    """Return the largest errors at the end, and half-way through a step, of `count` equal steps from 0 to 1."""
    (x, h, mask), start, end = states([3], 1), torch.zeros(1).double(), torch.ones(1).double()
    state = method.init(oscillating, x, h, mask, (0.0, 1.0), (1e9, 1e9))  # a tolerance that accepts everything
    between = 0.0
    for k in range(count):
        step = method.step(oscillating, state._replace(dt=torch.full((1,), 1.0 / count).double()))
        middle = torch.tensor([(k + 0.5) / count]).double()
        found, exact = unpack(step.interpolant.at(middle))[0], oscillating_solution(x, h, start, middle)[0]
        between = max(between, float((found - exact).abs().max()))
        state = step.state
    assert state.status.tolist() == [Status.SUCCESS]
    return float((state.x - oscillating_solution(x, h, start, end)[0]).abs().max()), between
