"""ParticleFlow against closed forms: a linear velocity's density, a density that integrates to one."""

import math

import pytest
import torch
from torch import Tensor

from enflow.model.config import EGNNConfig, ParticleConfig
from enflow.model.errors import QuadratureWarning, SolverError
from enflow.model.flow import particle_flow
from enflow.model.flow.particle_flow import ParticleFlow
from tests.model.flow.fields import Linear
from tests.model.flow.small_networks import perturbed


def linear(rate: float, scale: float, n_particles: int = 4, n_dims: int = 2) -> ParticleFlow:
    """dx = rate x: a centred Gaussian of standard deviation scale * exp(rate)."""
    flow = ParticleFlow(ParticleConfig(n_particles=n_particles, n_dims=n_dims, scale=scale))
    flow.dynamics = Linear(rate, 0.0)
    return flow.double()


def gaussian(x: Tensor, spread: float) -> Tensor:
    dimensions = (x.shape[1] - 1) * x.shape[2]
    x = x - x.mean(1, keepdim=True)
    return -0.5 * x.square().sum((1, 2)) / spread**2 - 0.5 * dimensions * math.log(2 * math.pi * spread**2)


@pytest.mark.parametrize(("n_particles", "n_dims"), [(4, 2), (3, 3), (2, 1)])
def test_a_linear_velocity_gives_a_gaussian(n_particles: int, n_dims: int) -> None:
    flow = linear(0.4, 1.7, n_particles, n_dims)
    x = 3.0 + 2.0 * torch.randn(5, n_particles, n_dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.log_prob(x), gaussian(x, 1.7 * math.exp(0.4)), rtol=0, atol=1e-4)


def test_samples_carry_their_log_density_and_depend_on_seed_and_place_alone() -> None:
    flow = linear(-0.3, 2.0)
    x, log_prob = flow.sample(700, seed=4)  # more than one group
    torch.testing.assert_close(log_prob, gaussian(x, 2.0 * math.exp(-0.3)), rtol=0, atol=1e-4)
    assert x.mean(1).abs().max() < 1e-12
    torch.testing.assert_close(flow.sample(3, seed=4)[0], x[:3], rtol=0, atol=1e-6)
    assert not torch.allclose(flow.sample(3, seed=5)[0], x[:3])


def test_the_density_of_a_network_integrates_to_one() -> None:
    # Two particles on a line have one dimension without their centre of mass: x = (u, -u) / sqrt(2).
    egnn = EGNNConfig(
        n_features=0, node_dim=8, edge_dim=8, n_layers=2, n_radial=4, n_frequencies=1, layer_norm=False,
        output="velocity",
    )  # fmt: skip
    flow = ParticleFlow(ParticleConfig(n_particles=2, n_dims=1, scale=1.3, dynamics=egnn))
    perturbed(flow)
    u = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    x = torch.stack([u, -u], 1)[..., None] / math.sqrt(2)
    log_prob = flow.log_prob(x, 1e-7, 1e-7)
    assert not torch.allclose(log_prob, gaussian(x, 1.3), atol=0.1), "a velocity of zero would prove nothing"
    assert torch.trapezoid(log_prob.exp(), u).item() == pytest.approx(1.0, abs=1e-3)


def test_an_integral_that_misses_its_tolerance_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = linear(0.3, 1.0)
    monkeypatch.setattr(particle_flow, "quadrature_tolerance", lambda _: -1.0)  # nothing meets it
    with pytest.warns(QuadratureWarning, match="found an error of .* nats in a log-density"):
        flow.log_prob(torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(0)))


def test_a_path_that_ends_nowhere_is_an_error() -> None:
    flow = linear(math.nan, 1.0)
    with pytest.raises(SolverError, match="2 of 2 paths ended with NON_FINITE"):
        flow.log_prob(torch.ones(2, 4, 2))
