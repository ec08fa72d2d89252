"""Gauss-Kronrod quadrature against integrals in closed form, also along a recorded path."""

import math
from collections.abc import Callable

import pytest
import torch

from enflow.model.flow import divergence
from enflow.model.flow.ode.dense_output import Trajectory
from enflow.model.flow.ode.methods import DORMAND_PRINCE, solve_rows
from enflow.model.flow.ode.quadrature import (
    GAUSS_WEIGHTS,
    KRONROD_NODES,
    KRONROD_WEIGHTS,
    MAX_GROWTH,
    MAX_PANELS,
    Quadrature,
    Stretch,
    integrate,
)
from enflow.model.flow.velocity import unpack
from tests.model.flow.fields import oscillating, states


def run(integrand: Callable[[float], float], t0: float, t1: float, tolerance: float) -> tuple[Quadrature, int]:
    one, nodes = Quadrature.between(t0, t1, tolerance), 0
    while one.times:
        nodes += len(one.times)
        one = one.update([integrand(t) for t in one.times])
    return one, nodes


@pytest.mark.parametrize(("weights", "degree"), [(GAUSS_WEIGHTS, 5), (KRONROD_WEIGHTS, 11)])
def test_rules_are_exact_to_their_degree_and_no_further(weights: "list[float]", degree: int) -> None:
    for power in range(0, degree + 1, 2):
        assert math.isclose(weights @ KRONROD_NODES**power, 2 / (power + 1), rel_tol=1e-14)
    beyond = degree + 1
    assert not math.isclose(weights @ KRONROD_NODES**beyond, 2 / (beyond + 1), rel_tol=1e-11)


@pytest.mark.parametrize(("t0", "t1"), [(1.0, 0.0), (0.0, 1.0)])
def test_the_cumulative_integral_is_right_at_every_node(t0: float, t1: float) -> None:
    one, _ = run(lambda t: 1 / (1.05 - t), t0, t1, 1e-3)
    assert len(one.panels) > 1
    times = [t for t, _ in one.path]
    assert times == sorted(times, reverse=t0 > t1)
    for t, value in one.path:
        assert math.isclose(value, math.log((1.05 - t0) / (1.05 - t)), abs_tol=1e-3)


@pytest.mark.parametrize(
    ("integrand", "integral"),
    [
        (lambda t: math.exp(3 * t), (math.exp(3) - 1) / 3),
        (lambda t: 1 / (1.05 - t), math.log(21)),
        (lambda t: math.cos(60 * t), math.sin(60) / 60),
    ],
    ids=["exponential", "peak at the data", "oscillation"],
)
def test_closed_integrals_in_both_directions_within_the_tolerance(
    integrand: Callable[[float], float], integral: float
) -> None:
    for tolerance in (1e-1, 1e-6):
        forward, _ = run(integrand, 0.0, 1.0, tolerance)
        backward, _ = run(integrand, 1.0, 0.0, tolerance)
        assert abs(forward.value - integral) <= tolerance
        assert math.isclose(forward.value, -backward.value, rel_tol=1e-9)
        assert forward.error <= tolerance


def test_more_nodes_only_where_they_are_needed() -> None:
    smooth, few = run(math.exp, 0.0, 1.0, 1e-6)
    kink, many = run(lambda t: abs(t - 0.3), 0.0, 1.0, 1e-4)
    assert (few, len(smooth.panels)) == (7, 1)
    assert many > 7
    assert abs(kink.value - (0.3**2 + 0.7**2) / 2) < 1e-4


def test_nodes_are_dense_where_the_steps_are() -> None:
    # Seven nodes over the whole interval miss this spike. The steps of the path near it are as short as it is wide.
    distances = [0.005 * 1.3**i for i in range(15)]
    steps = [0.73 + a for a in distances if a < 0.27] + [0.73 - a for a in distances if a < 0.73]

    def spike(t: float) -> float:
        return math.exp(-(((t - 0.73) / 0.005) ** 2))

    integral = -0.005 * math.sqrt(math.pi)
    blind = Quadrature.between(1.0, 0.0, 1e-5)
    guided = Quadrature.between(1.0, 0.0, 1e-5, steps)
    assert [len(one.times) for one in (blind, guided)] == [7, 35]
    while blind.times:
        blind = blind.update([spike(t) for t in blind.times])
    while guided.times:
        guided = guided.update([spike(t) for t in guided.times])
    assert blind.error < 1e-5 < 1e-3 < abs(blind.value - integral)
    assert math.isclose(guided.value, integral, abs_tol=1e-5)


def test_panels_are_halved_at_the_middle_of_their_steps() -> None:
    # The middle of the steps is the edge of a step function, so that both halves are exact.
    steps = [0.9, 0.73, 0.705, 0.7, 0.695, 0.68, 0.3]

    def edge(t: float) -> float:
        return float(t > 0.7)

    plain = Quadrature.between(1.0, 0.0, 1e-4)
    guided = Quadrature.between(1.0, 0.0, 1e-4, steps)
    while guided.times:
        guided = guided.update([edge(t) for t in guided.times])
    while plain.times:
        plain = plain.update([edge(t) for t in plain.times])
    assert math.isclose(guided.value, -0.3, abs_tol=1e-5)
    assert len(guided.panels) == 2
    assert len(plain.panels) >= 10


def test_the_nodes_of_a_panel_follow_steps_that_grow() -> None:
    # Steps that double: t(s) is a power of two, under which 1 / t is smooth; even nodes need halves.
    steps = [2.0**-i for i in range(1, 4)]
    guided, even = (Quadrature.between(1.0, 2.0**-4, 1e-3, ends) for ends in (steps, ()))
    assert len(guided.pending) == len(even.pending) == 1
    middle = guided.times[3]
    assert math.isclose(middle, 0.25, rel_tol=0.05)
    guided, even = (one.update([1.0 / t for t in one.times]) for one in (guided, even))
    assert not guided.times
    assert even.times
    assert math.isclose(guided.value, -4 * math.log(2), abs_tol=1e-3)


def test_a_stretch_without_length_or_with_few_steps_is_even() -> None:
    for ends in ((), (0.9,), (0.5, 0.5, 0.5)):
        assert Stretch.over(1.0, 0.0, ends).growth == 0.0
    assert Stretch.over(1.0, 0.0, (0.9999, 0.999, 0.99)).growth == MAX_GROWTH
    assert Stretch.over(0.0, 1.0, (0.99, 0.999, 0.9999)).growth == -MAX_GROWTH


def test_an_integral_that_does_not_converge_ends_with_a_large_error() -> None:
    rough, _ = run(lambda t: math.sin(1e6 * t), 0.0, 1.0, 1e-9)
    assert rough.error > 1e-9
    assert len(rough.panels) >= MAX_PANELS
    assert math.isnan(run(lambda t: t * math.nan, 0.0, 1.0, 1e-3)[0].value)


def test_along_a_path_each_row_has_its_own_integral() -> None:
    sizes = [4, 2]
    x, h, mask = states(sizes, 2)
    pieces = []
    solve_rows(
        DORMAND_PRINCE,
        oscillating,
        x,
        h,
        mask,
        (1.0, 0.0),
        (1e-8, 1e-8),
        observe=lambda step: pieces.append((step.accepted, step.interpolant)),
    )

    def integrand(rows: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return divergence.exact(oscillating, t, *unpack(y), mask[rows])

    found = integrate(Trajectory(pieces), integrand, 1.0, 0.0, 1e-8)
    expected = [3 * (n - 1) * math.sin(3) / 3 for n in sizes]  # tr J = -3 (n - 1) cos(3 t)
    torch.testing.assert_close(found.value, torch.tensor(expected).double(), rtol=0, atol=1e-7)
    assert all(nodes >= 21 for nodes in found.nodes.tolist())
