"""The quadrature along a path against the augmented solve and the original model; bounds, their parts and errors."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from enflow.model.checkpoint import import_en_flows
from enflow.model.flow import dynamics
from enflow.model.flow.divergence import rademacher
from enflow.model.flow.likelihood import Draw, combine, divergence_along, path_tolerance, quadrature_tolerance
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.batched_solver import InitialState, travel
from enflow.model.flow.ode.dopri5 import Status
from enflow.model.flow.ode.torchdiffeq_solver import solve
from enflow.model.flow.velocity import Velocity
from tests.model.flow.fields import states
from tests.model.flow.small_networks import OURS, shaken


def integral(velocity: Velocity, x: Tensor, h: Tensor, tolerance: float, probes: Tensor | None = None) -> Tensor:
    tight = path_tolerance(tolerance)
    (arrival,) = travel(velocity, [InitialState(x, h, 1.0, 0.0, tight, tight)], record=True)
    return divergence_along(velocity, arrival.path, probes, quadrature_tolerance(tolerance, probes is None)).value


@pytest.mark.parametrize("estimated", [False, True])
def test_quadrature_agrees_with_the_augmented_solve(estimated: bool) -> None:
    velocity = shaken(dynamics.build(OURS))
    x, h, mask = states([2], 5)
    probe = rademacher([generator(0, 0, "probe")], mask, 5) if estimated else None
    with torch.no_grad():
        expected = solve(velocity, x, h, mask, 1.0, 0.0, probe, 1e-6, 1e-6).ladj
        assert abs(integral(velocity, x[0], h[0], 1e-3, probe) - expected) < 0.5
        assert abs(integral(velocity, x[0], h[0], 1e-5, probe) - expected) < (0.08 if estimated else 0.02)


@pytest.mark.parametrize(("tolerance", "within"), [(1e-3, 0.5), (1e-5, 0.02)])
def test_original_models_integrals(shared: Path, tolerance: float, within: float) -> None:
    flow = import_en_flows(shared / "reference" / "en_flows_qm9").double()
    known = np.load(shared / "reference" / "likelihood_exact.npz", allow_pickle=False)
    for row in (4, 6):
        y = torch.from_numpy(known["ode_input_f64"][row, : known["num_atoms"][row]])
        with torch.no_grad():
            found = integral(flow.velocity, y[:, :3], y[:, 3:], tolerance)
        assert abs(float(found[0]) - known["ode_trace_integral_exact"][row]) < within


def draw(base: float = 0.0, divergence: tuple[float, ...] = (0.0,), log_q: float = 0.0, **changes: object) -> Draw:
    values = {"quadrature_error": 0.1, "nfe": 20, "nodes": 15, "status": Status.SUCCESS} | changes
    return Draw(base, divergence, log_q, **values)


def test_one_draws_parts_are_its_terms() -> None:
    found = combine([draw(-3.0, (2.0, 4.0), -1.5)], -0.5, exact=False)
    assert found.parts == {"base": 3.0, "divergence": -3.0, "dequantizer": -1.5, "n_atoms": 0.5}
    assert found.nll == sum(found.parts.values())
    assert math.isclose(found.std_error, 1.0)  # of two values two apart


def test_exact_draws_enter_by_the_mean_of_their_weights() -> None:
    found = combine([draw(math.log(1.0)), draw(math.log(3.0))], 0.0, exact=True)
    assert math.isclose(found.log_prob, math.log(2.0))
    assert math.isclose(sum(found.parts.values()), found.nll)
    assert math.isclose(found.std_error, math.sqrt(2.0) / math.sqrt(2) / 2.0)  # of the mean, by the mean
    assert (found.nfe, found.nodes) == (40, 30)


def test_estimated_draws_enter_by_the_mean_of_their_bounds() -> None:
    found = combine([draw(1.0), draw(3.0)], 0.0, exact=False)
    assert math.isclose(found.log_prob, 2.0)
    assert math.isclose(found.std_error, 1.0)


def test_a_single_exact_draw_has_no_error_and_a_failed_path_no_value() -> None:
    assert combine([draw()], 0.0, exact=True).std_error is None
    failed = combine([draw(), draw(status=Status.MAX_STEPS)], 0.0, exact=True)
    assert math.isnan(failed.log_prob)
    assert failed.status == Status.MAX_STEPS
