"""The adaptive methods, and which of them solves a row."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from enflow.model.flow.ode import adams, dopri5
from enflow.model.flow.ode.solver_state import SolverState
from enflow.model.flow.ode.step_control import PerRow, Step
from enflow.model.flow.ode.tolerances import FINE, TIGHTEST_ADAMS
from enflow.model.flow.velocity import Velocity


class Method(NamedTuple):
    """An adaptive method for a batch of rows; the states of two methods do not mix.

    Attributes:
        init: returns the state at the start; see `dopri5.init`.
        step: attempts one step; see `dopri5.step`.
        evaluations: evaluations of the velocity in one attempt.
        orders: the number of Taylor coefficients in a state.
    """

    init: Callable[..., SolverState]
    step: Callable[..., Step]
    evaluations: int
    orders: int


ADAMS = Method(adams.init, adams.step, evaluations=1, orders=3)
DORMAND_PRINCE = Method(dopri5.init, dopri5.step, evaluations=6, orders=1)


def method_for(t0: float, t1: float, tolerance: float) -> Method:
    """Return the method that needs the fewest evaluations.

    Args:
        t0, t1: times of the start and of the end.
        tolerance: the smaller one of the relative and the absolute tolerance.
    """
    return ADAMS if t1 > t0 and tolerance >= TIGHTEST_ADAMS else DORMAND_PRINCE


def solve_rows(
    method: Method,
    velocity: Velocity,
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    times: PerRow,
    tolerances: PerRow,
    observe: Callable[[Step], None] = lambda _: None,
    ending: PerRow = FINE,
) -> SolverState:
    """Solve a batch of rows until the last one has stopped.

    Args:
        method: the method.
        velocity, x, h, mask, times, tolerances: see `dopri5.init`.
        observe: a function that is called with every attempted step.
        ending: the values of `Ending`, per row or for all.
    """
    state = method.init(velocity, x, h, mask, times, tolerances, ending)
    while state.running.any():
        attempt = method.step(velocity, state)
        observe(attempt)
        state = attempt.state
    return state
