"""The truth: the same velocity on the whole padded batch."""

import pytest
import torch

from enflow.model.config import EGNNConfig
from enflow.model.flow.divergence import exact
from enflow.model.flow.dynamics import build
from enflow.model.flow.geometry import centre
from enflow.model.flow.ode.size_buckets import bucketed, buckets


@pytest.fixture
def state():
    source = torch.Generator().manual_seed(0)
    sizes = torch.tensor([3, 29, 11, 1, 18, 18, 7])
    mask = torch.arange(29) < sizes[:, None]
    x = centre(torch.randn(7, 29, 3, generator=source, dtype=torch.float64), mask)
    h = torch.randn(7, 29, 5, generator=source, dtype=torch.float64) * mask[..., None]
    return torch.rand(7, generator=source, dtype=torch.float64), x, h, mask


@pytest.mark.parametrize("pairs", [1, 400, 2000, 10**9])
def test_the_velocity_is_the_same_in_classes(state, pairs):
    torch.manual_seed(0)
    velocity = build(EGNNConfig(node_dim=16, edge_dim=8, n_layers=2)).double()
    with torch.no_grad():
        whole, parts = velocity(*state), bucketed(velocity, pairs)(*state)
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_every_class_is_within_its_pairs_and_sees_little_padding(state):
    seen = []

    def velocity(t, x, h, mask):
        seen.append((len(t), mask.shape[1], int(mask.sum())))
        return torch.zeros_like(x), torch.zeros_like(h)

    bucketed(velocity, 700)(*state)
    assert seen == [(4, 11, 22), (2, 18, 36), (1, 29, 29)]


def test_a_batch_within_the_pairs_is_passed_on_whole(state):
    seen = []
    bucketed(lambda *state: seen.append(state) or state[1:3], 10**6)(*state)
    assert seen[0] is not None
    assert all(a is b for a, b in zip(seen[0], state, strict=True))


def test_gradients_pass_through_the_classes(state):
    t, x, h, mask = state
    x = x.clone().requires_grad_()
    dx, _ = bucketed(lambda _, x, h, __: (x**2, h), 700)(t, x, h, mask)
    dx.sum().backward()
    assert torch.equal(x.grad, 2 * x.detach())


def test_the_divergence_passes_through_the_classes(state):
    velocity = bucketed(lambda t, x, h, mask: (centre(x * t[:, None, None], mask), 2 * h), 700)
    t, mask = state[0], state[3]
    n = mask.sum(-1)
    assert torch.allclose(exact(velocity, *state), 3 * (n - 1) * t + 5 * 2 * n)


def test_each_row_is_in_exactly_one_class():
    sizes = [5, 9, 3, 29, 18, 18, 18, 4]
    rows = [row for part, _ in buckets(sizes, 500) for row in part]
    assert sorted(rows) == list(range(8))
