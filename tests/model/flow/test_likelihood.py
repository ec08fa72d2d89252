"""The divergence along a path against the augmented solve and the original model; the estimator's bias and error."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from enflow.model.checkpoint import import_en_flows
from enflow.model.chem.molecule import Molecule
from enflow.model.flow import dynamics
from enflow.model.flow.estimate import combine
from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.likelihood import (
    DrawState,
    Probes,
    Terms,
    complete_draw,
    draw_probes,
    path_tolerance,
    quadrature_tolerance,
)
from enflow.model.flow.likelihood_estimator import LikelihoodEstimator
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.batched_solver import FinalState, InitialState, solve_batched
from enflow.model.flow.ode.torchdiffeq_solver import solve
from enflow.model.flow.velocity import Velocity
from tests.model.flow.fields import states
from tests.model.flow.small_networks import OURS, shaken, small_flow

FLUOROMETHANE = Molecule(
    [6, 9, 1, 1, 1],
    [[0.0, 0.0, -0.63], [0.0, 0.0, 0.76], [1.03, 0.0, -0.99], [-0.52, 0.89, -0.99], [-0.52, -0.89, -0.99]],
)


def path(velocity: Velocity, x: Tensor, h: Tensor, tolerance: float) -> FinalState:
    (end,) = solve_batched(velocity, [InitialState(x, h, 1.0, 0.0, tolerance, tolerance)], record=True)
    return end


def divergence(
    velocity: Velocity, end: FinalState, tolerance: float, probes: Probes | None = None
) -> tuple[float, float]:
    """Return the integral of the divergence from t = 1 to 0 and its variance."""
    state = DrawState(Terms(0.0, 0.0), probes, quadrature_tolerance(tolerance), pieces=end.path)
    state.finish_path(0.0, end.x, end.h)
    complete_draw(state, velocity, end.x.dtype)
    result = state.result(end.nfe)
    return result.divergence, result.variance


def test_the_exact_divergence_agrees_with_the_augmented_solve() -> None:
    velocity = shaken(dynamics.build(OURS))
    x, h, mask = states([2], 5)
    with torch.no_grad():
        expected = float(solve(velocity, x, h, mask, 1.0, 0.0, None, 1e-6, 1e-6).ladj)
        for tolerance, within in ((1e-3, 0.5), (1e-5, 0.02)):
            end = path(velocity, x[0], h[0], path_tolerance(tolerance, exact=True))
            assert abs(divergence(velocity, end, tolerance)[0] - expected) < within


@pytest.mark.parametrize(("tolerance", "within"), [(1e-3, 0.5), (1e-5, 0.02)])
def test_original_models_integrals(shared: Path, tolerance: float, within: float) -> None:
    flow = import_en_flows(shared / "reference" / "en_flows_qm9").double()
    known = np.load(shared / "reference" / "likelihood_exact.npz", allow_pickle=False)
    for row in (4, 6):
        y = torch.from_numpy(known["ode_input_f64"][row, : known["num_atoms"][row]])
        with torch.no_grad():
            end = path(flow.velocity, y[:, :3], y[:, 3:], path_tolerance(tolerance, exact=True))
            found, _ = divergence(flow.velocity, end, tolerance)
        assert abs(found - known["ode_trace_integral_exact"][row]) < within


def test_estimates_along_one_path_are_unbiased_and_their_variance_is_right() -> None:
    flow = small_flow()
    x, h, _ = states([5], 5)
    with torch.no_grad():
        end = path(flow.velocity, x[0], h[0], 1e-6)
        exact, _ = divergence(flow.velocity, end, 1e-6)
        noises = [draw_probes(generator(7, index, "probe"), 5, 5, per_node=1) for index in range(120)]
        values, variances = np.array([divergence(flow.velocity, end, 1e-3, noise) for noise in noises]).T
    assert abs(values.mean() - exact) < 3 * values.std() / np.sqrt(120)
    # The bend of the integrand within a stratum is counted as noise: the variance is never too small.
    assert 0.7 * values.var(ddof=1) < variances.mean() < 6 * values.var(ddof=1)


def test_the_reported_interval_covers_the_bound_in_95_percent_of_repetitions() -> None:
    flow, options, groups = small_flow(), EstimatorOptions(probes=1, draws=4, rtol=1e-2, atol=1e-2), 40
    form = flow.canonical_form(FLUOROMETHANE)
    wanted = [(0, index) for index in range(4 * groups)]
    draws = [draw for _, draw in LikelihoodEstimator(flow, options).draws([form], 3, wanted)]
    bound = np.mean([draw.bound for draw in draws])
    found = [combine(draws[index::groups], 5, 0.0, exact=False) for index in range(groups)]
    inside = np.mean([abs(each.log_prob - bound) < 1.96 * each.std_error for each in found])
    assert inside >= 0.85  # of 40; bench_precision has 200 repetitions of the bundled weights


def test_draws_are_added_until_the_target_error_is_reached() -> None:
    flow = small_flow()
    loose, tight = (flow.log_prob([FLUOROMETHANE], target_error=target, probes=1)[0] for target in (50.0, 1.2))
    assert loose.draws == 4
    assert tight.draws > 4
    assert tight.std_error <= 1.2 or tight.draws == 32
    assert abs(loose.log_prob - tight.log_prob) < 3 * (loose.std_error + tight.std_error)
