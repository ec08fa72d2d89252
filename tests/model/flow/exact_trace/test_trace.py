"""Traces by tangents of our own against torch's jvp under vmap; `laws.py` has them against the whole Jacobian."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from enflow.model.flow import divergence, dynamics
from enflow.model.flow.exact_trace import trace
from tests.model.flow.fields import states
from tests.model.flow.small_networks import OURS, VECTORS, configs, perturbed, small_flow


@pytest.mark.parametrize("config", [config for config in configs() if config.kind != "fragment"])
def test_a_flow_knows_the_trace_that_its_velocity_has_by_products(config: object) -> None:
    flow = small_flow(config)
    x, h, mask = states([4, 2], config.n_features)
    t = torch.tensor([0.4, 0.7]).double()
    with torch.no_grad():
        known = divergence.exact(flow.velocity, t, x, h, mask)
        products = divergence.exact(partial(flow.velocity), t, x, h, mask)
    torch.testing.assert_close(known, products, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("config", [OURS, VECTORS, replace(VECTORS, odd_types=(0, 2, 4))])
def test_molecules_and_directions_taken_one_by_one_have_the_same_trace(
    config: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    velocity = perturbed(dynamics.build(config))
    x, h, mask = states([4, 2, 3], config.n_features)
    t = torch.tensor([0.4, 0.7, 0.1]).double()
    with torch.no_grad():
        together = velocity.divergence(t, x, h, mask)
        monkeypatch.setattr(trace, "ATOMS", 1)
        monkeypatch.setattr(trace, "TANGENT_PAIRS", 1)
        apart = velocity.divergence(t, x, h, mask)
    assert together.abs().min() > 1e-3
    torch.testing.assert_close(apart, together, rtol=1e-12, atol=1e-12)
