"""The coupling and the regression targets, against brute force and closed forms."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from enflow.model.flow.coupling import rotate_onto
from enflow.model.flow.dynamics import centre_velocity
from enflow.model.training.flow_matching import MatchingConfig, couple, couple_given, draw_times, flow_matching_loss

EYE = np.eye(5, dtype=np.float32)
SCALE, SIGMA = 0.25, 0.05


def molecules(rng, b=3, n=4):
    x = rng.standard_normal((b, n, 3)).astype(np.float32)
    return rng.integers(0, 5, (b, n)), x - x.mean(1, keepdims=True)


def test_kabsch_undoes_a_rotation_and_a_reflection():
    rng = np.random.default_rng(0)
    _, x = molecules(rng, n=6)
    turned = x @ Rotation.random(rng=rng).as_matrix().astype(np.float32)
    for moved in (turned, turned * [-1, 1, 1]):
        np.testing.assert_allclose(rotate_onto(moved.astype(np.float32), x), x, atol=1e-5)


def test_kabsch_agrees_with_scipy_on_noise():
    rng = np.random.default_rng(1)
    noise, target = rng.standard_normal((2, 1, 7, 3)).astype(np.float32)
    ours = np.square(rotate_onto(noise, target) - target).sum()
    best = min(Rotation.align_vectors(target[0], noise[0] * flip)[1] for flip in ([1, 1, 1], [-1, 1, 1]))
    np.testing.assert_allclose(ours, best**2, rtol=1e-5)


def test_the_assignment_is_the_cheapest_of_all_permutations():
    rng = np.random.default_rng(2)
    types, x = molecules(rng, b=1)
    pairs = couple(types, x, SCALE * EYE, SIGMA, np.random.default_rng(3))
    again = np.random.default_rng(3)  # the same draws, in the order that the coupling makes them
    h1 = np.eye(5, dtype=np.float32)[types] * SCALE + SIGMA * again.standard_normal((1, 4, 5), dtype=np.float32)
    x0 = again.standard_normal((1, 4, 3), dtype=np.float32)
    x0 -= x0.mean(1, keepdims=True)
    h0 = again.standard_normal((1, 4, 5), dtype=np.float32)

    def cost(order):
        return np.square(x0[0, order] - x[0]).sum() + np.square(h0[0, order] - h1[0]).sum()

    best = min(itertools.permutations(range(4)), key=lambda order: cost(list(order)))
    np.testing.assert_allclose(pairs.h0[0], h0[0, list(best)], atol=1e-6)
    np.testing.assert_allclose(pairs.x0[0].norm(dim=-1), np.linalg.norm(x0[0, list(best)], axis=-1), rtol=1e-4)


def test_the_coupled_noise_is_centred_and_keeps_its_variance():
    rng = np.random.default_rng(4)
    types, x = molecules(rng, b=2000, n=5)
    pairs = couple(types, x, SCALE * EYE, SIGMA, rng)
    assert pairs.x0.mean(1).abs().max() < 1e-5
    np.testing.assert_allclose(pairs.x0.square().sum((1, 2)).mean(), 3 * (5 - 1), rtol=0.03)
    np.testing.assert_allclose(pairs.h0.square().mean(), 1.0, rtol=0.03)


def test_the_shortest_of_several_rotations_is_shorter_and_its_noise_stays_normal():
    rng = np.random.default_rng(6)
    types, x = molecules(rng, b=1000, n=6)
    one, best = (couple(types, x, SCALE * EYE, SIGMA, np.random.default_rng(3), 3, n) for n in (1, 8))

    def length(pairs):
        return (pairs.x1 - pairs.x0).square().sum((1, 2)) + (pairs.h1 - pairs.h0).square().sum((1, 2))

    torch.testing.assert_close(one.h1, best.h1)  # the same noise
    assert (length(best) <= length(one) + 1e-4).all()
    assert length(best).mean() < 0.97 * length(one).mean()
    radii = best.x0.square().sum((1, 2)).mean() / 15  # a mean of chi squared with 3 (6 - 1) degrees of freedom
    assert float(radii) == pytest.approx(1.0, abs=4 * (2 / 15 / 1000) ** 0.5)
    torch.testing.assert_close(one.h0.sort(1).values, best.h0.sort(1).values)  # only exchanged


def test_the_features_target_is_the_conditional_mean_of_a_joint_gaussian():
    t, c, h = 0.7, 0.25, 0.11
    mix = np.array([[-1.0, SIGMA], [1 - t, t * SIGMA]])  # (v, h_t) - their means, from (h_0, eps)
    covariance = mix @ mix.T
    expected = c + covariance[0, 1] / covariance[1, 1] * (h - t * c)
    values = (torch.full((1, 1, 1), v, dtype=torch.float64) for v in (h, c))
    found = centre_velocity(torch.tensor([t], dtype=torch.float64), *values, SIGMA)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-12)


def test_the_loss_vanishes_at_the_true_velocity_and_counts_a_known_error():
    rng = np.random.default_rng(5)
    pairs = couple(*molecules(rng), SCALE * EYE, SIGMA, rng)

    def velocity(t, x, h, mask):
        return pairs.x1 - pairs.x0, centre_velocity(t, h, pairs.centres, SIGMA)

    def off(t, x, h, mask):
        dx, dh = velocity(t, x, h, mask)
        return dx, dh + 0.5

    t = torch.tensor([0.1, 0.5, 0.9])
    error_x, error_h, _ = flow_matching_loss(velocity, pairs, t, SIGMA)
    assert error_x.max() < 1e-10
    assert error_h.max() < 1e-10
    torch.testing.assert_close(flow_matching_loss(off, pairs, t, SIGMA)[1], torch.full((3,), 5 * 0.25))


def test_given_types_only_exchange_the_noise_of_their_own_kind():
    rng = np.random.default_rng(7)
    types, x = np.array([[0, 0, 1, 1, 2]]), molecules(rng, b=1, n=5)[1]
    pairs = couple_given(types, x, 5, np.random.default_rng(3))
    x0 = np.random.default_rng(3).standard_normal((1, 5, 3), dtype=np.float32)
    x0 -= x0.mean(1, keepdims=True)
    allowed = [[*a, *b, 4] for a in ([0, 1], [1, 0]) for b in ([2, 3], [3, 2])]
    best = min(allowed, key=lambda order: np.square(x0[0, order] - x[0]).sum())
    np.testing.assert_allclose(pairs.x0[0].norm(dim=-1), np.linalg.norm(x0[0, best], axis=-1), rtol=1e-4)
    assert pairs.h0[0].argmax(-1).tolist() == types[0].tolist()


def test_given_types_leave_the_noise_of_each_element_normal():
    """A carbon among hydrogens gets noise of the same width; with exchange between types it would be narrower."""
    tetrahedron = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
    x = np.repeat(tetrahedron[None], 4000, 0)
    types = np.repeat([[1, 0, 0, 0, 0]], 4000, 0)
    width = couple_given(types, x, 5, np.random.default_rng(0)).x0.square().sum(-1).mean(0)
    np.testing.assert_allclose(width, 3 * (1 - 1 / 5), rtol=0.05)
    pooled = couple(np.zeros_like(types), x, 0.0 * EYE, SIGMA, np.random.default_rng(0)).x0.square().sum(-1).mean(0)
    assert pooled[0] < 0.7 * pooled[1:].min()  # exchange between types narrows it


def test_the_times_have_the_density_of_the_configuration():
    power = draw_times(20_000, MatchingConfig(time_power=2.0), np.random.default_rng(5)).double()
    assert (power**3).mean() == pytest.approx(0.5, abs=0.01)  # t^3 is uniform
    assert float(power.min()) >= 0
    assert float(power.max()) <= 1


def test_late_times_are_uniform_in_the_logarithm_of_the_time_that_is_left():
    late = draw_times(20_000, MatchingConfig(late_share=1.0), np.random.default_rng(6)).double()
    logs = torch.log10(1 - late)
    assert float(logs.min()) == pytest.approx(-3.0, abs=0.001)
    assert float(logs.max()) == pytest.approx(-1.0, abs=0.001)
    assert float(logs.mean()) == pytest.approx(-2.0, abs=0.02)


def test_a_share_of_the_times_is_late():
    mixed = draw_times(20_000, MatchingConfig(time_power=1.0, late_share=0.4), np.random.default_rng(7))
    assert (mixed < 0.9).double().mean() == pytest.approx(0.6 * 0.81, abs=0.01)
