"""The divergence along a path against the augmented solve and the original model; the estimator's bias and error."""

from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from enflow.model.checkpoint import import_en_flows
from enflow.model.chem.molecule import Molecule
from enflow.model.flow import dynamics
from enflow.model.flow.estimate import Draw, combine
from enflow.model.flow.estimator_options import path_tolerance
from enflow.model.flow.likelihood import (
    DrawState,
    Terms,
    complete_draw,
    evaluate_queries,
    quadrature_tolerance,
)
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.batched_solver import FinalState, InitialState, solve_batched
from enflow.model.flow.ode.torchdiffeq_solver import AugmentedOptions, solve
from enflow.model.flow.probes import Probes, draw_probes
from enflow.model.flow.velocity import Velocity
from tests.model.flow.fields import mixing, mixing_divergence, states
from tests.model.flow.small_networks import OURS, perturbed, small_flow

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
    velocity = perturbed(dynamics.build(OURS))
    x, h, mask = states([2], 5)
    with torch.no_grad():
        expected = float(solve(velocity, x, h, mask, (1.0, 0.0), None, AugmentedOptions(1e-6)).ladj)
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


@cache
def estimates(repetitions: int, per_node: int) -> np.ndarray:
    """Return the estimated divergences of `mixing` along one path, and their reported variances."""
    x, h, _ = states([5], 4)
    with torch.no_grad():
        end = path(mixing, x[0], h[0], 1e-6)
        drawn = []
        for index in range(repetitions):
            noise = draw_probes(generator(7, index, "probe"), x[0].numpy(), 4, per_node)
            drawn.append(DrawState(Terms(0.0, 0.0), noise, 0.3, pieces=end.path))
            drawn[-1].finish_path(0.0, end.x, end.h)
        asked = [state.queries(state.open) for state in drawn]
        answers = evaluate_queries(mixing, [query for each in asked for query in each], torch.float64)
    for state, values in zip(drawn, np.array(answers).reshape(repetitions, -1), strict=True):
        state.answer(values.tolist())
    return np.array([(draw.divergence, draw.variance) for draw in (state.result(end.nfe) for state in drawn)])


@pytest.mark.parametrize("per_node", [1, 3])
def test_estimates_along_one_path_are_unbiased_and_their_variance_is_right(per_node: int) -> None:
    values, variances = estimates(400, per_node).T
    assert abs(values.mean() - mixing_divergence(5, 4)) < 3 * values.std() / np.sqrt(400)
    assert 0.8 * values.var(ddof=1) < variances.mean() < 1.25 * values.var(ddof=1)


@pytest.mark.parametrize(
    ("mirrored", "lowest"), [(-0.6, 0.92), (0.0, 0.92), (0.5, 0.9)], ids=["pairs help", "no pairs", "pairs harm"]
)
def test_the_reported_interval_covers_the_truth_in_95_percent_of_repetitions(mirrored: float, lowest: float) -> None:
    """400 likelihoods of 4 draws or pairs: estimated divergences, and normal noise of 1 nat for the dequantizer.

    A pair that harms has 2.6 times the standard deviation that is typical by the prior.
    """
    size = 2 if mirrored else 1
    source, inside, pairs = np.random.default_rng(5), [], []
    rows = iter(np.concatenate([source.permutation(estimates(800, 1)) for _ in range(1600 * size // 800)]).tolist())
    for _ in range(400):
        draws = []
        for unit in range(4):
            noise = source.multivariate_normal([0.0, 0.0], [[1.0, mirrored], [mirrored, 1.0]])[:size]
            draws += [
                Draw(value, divergence, 0.0, variance, pair=unit if mirrored else None)
                for value, (divergence, variance) in zip(noise, islice(rows, size), strict=True)
            ]
        likelihood = combine(draws, 5, 0.0, exact=False)
        inside.append(abs(likelihood.log_prob - mixing_divergence(5, 4)) < 1.96 * likelihood.std_error)
        pairs.append((likelihood.log_prob - mixing_divergence(5, 4), likelihood.std_error))
    errors, reported = np.array(pairs).T
    # The prior of the dequantizer's variance is wide: with four units the error is a little too large.
    assert lowest <= np.mean(inside) <= 0.98
    assert 0.7 < (reported**2).mean() / errors.var() < 1.5


def test_draws_are_added_until_the_target_error_is_reached() -> None:
    flow = small_flow()
    loose, tight = (flow.log_prob([FLUOROMETHANE], target_error=target, probes=1)[0] for target in (50.0, 0.4))
    assert loose.draws == 4
    assert tight.draws > 4
    assert tight.std_error <= 0.4 or tight.draws == 32
    assert abs(loose.log_prob - tight.log_prob) < 3 * (loose.std_error + tight.std_error)
