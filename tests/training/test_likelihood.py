"""Maximum likelihood: its value against the served likelihood, its gradient against finite differences."""

import numpy as np
import pytest
import torch

from model.batch import MoleculeBatch, collate
from model.chem.molecule import Molecule
from model.config import DequantizerConfig, EGNNConfig, FlowConfig
from model.errors import ConfigError
from model.flow.molecule_flow import MoleculeFlow
from model.flow.noise import generator
from model.training.likelihood import LikelihoodConfig, draw_noise, likelihood_terms

WATER = Molecule([8, 1, 1], [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
OXYGEN = Molecule([8, 8], [[0, 0, 0.6], [0, 0, -0.6]])
EXACT = LikelihoodConfig(probe="exact", tolerance=1e-6, kinetic=0.1, adjoint=False)


def tiny(kind: str = "argmax") -> MoleculeFlow:
    torch.manual_seed(0)
    config = FlowConfig(
        dynamics=EGNNConfig(node_dim=8, edge_dim=8, n_layers=1, n_radial=3, output="velocity"),
        dequantizer=DequantizerConfig(kind, scale=0.25, sigma=0.3, node_dim=4, n_layers=1),
        act_norm=True,
    )
    return MoleculeFlow(config).double()


def batch_of(flow: MoleculeFlow, *molecules: Molecule) -> MoleculeBatch:
    return collate(molecules, flow.vocabulary, torch.float64)


def generators(n: int) -> list[torch.Generator]:
    return [generator(0, index, "dequantize:0") for index in range(n)]


def test_the_loss_is_the_likelihood_that_is_served() -> None:
    flow = tiny().requires_grad_(False)
    batch = batch_of(flow, WATER, OXYGEN)
    found = likelihood_terms(flow, batch, draw_noise(flow, batch, generators(2), EXACT), EXACT)
    served = flow.log_prob([WATER, OXYGEN], rtol=1e-5, atol=1e-5)
    assert found.nll.tolist() == pytest.approx([one.nll for one in served], abs=0.005)


@pytest.mark.parametrize(
    "config", [EXACT, LikelihoodConfig(tolerance=1e-6, kinetic=0.1, jacobian=0.1)], ids=["exact", "adjoint"]
)
def test_gradients_agree_with_finite_differences(config: LikelihoodConfig) -> None:
    flow = tiny()
    batch = batch_of(flow, OXYGEN)
    noise = draw_noise(flow, batch, generators(1), config)

    def loss() -> torch.Tensor:
        nll, kinetic, jacobian = likelihood_terms(flow, batch, noise, config)
        return (nll + config.kinetic * kinetic + config.jacobian * jacobian).mean()

    loss().backward()
    moved = [parameter for parameter in flow.parameters() if parameter.grad is not None]
    assert len(moved) > 30
    directions = [torch.randn_like(parameter) for parameter in moved]
    slope = sum((p.grad * d).sum().item() for p, d in zip(moved, directions, strict=True) if p.grad is not None)
    values = []
    with torch.no_grad():
        for step in (1e-4, -2e-4):
            for parameter, direction in zip(moved, directions, strict=True):
                parameter.add_(step * direction)
            values.append(loss().item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-3)


def test_the_estimate_averages_to_the_exact_value() -> None:
    flow, config = tiny("truncated").requires_grad_(False), LikelihoodConfig(tolerance=1e-3)
    n = 100
    batch = batch_of(flow, *[OXYGEN] * n)
    noise = draw_noise(flow, batch, [generator(1, index, "probe") for index in range(n)], config)
    same = noise._replace(dequantizer=noise.dequantizer[:1].expand(n, -1, -1))
    estimates = likelihood_terms(flow, batch, same, config).nll
    one = batch_of(flow, OXYGEN)
    exact = likelihood_terms(flow, one, same._replace(dequantizer=same.dequantizer[:1], probe=None), EXACT).nll.item()
    error = estimates.std().item() / n**0.5
    assert estimates.mean().item() == pytest.approx(exact, abs=4 * error)


def test_a_few_steps_lower_the_negative_log_likelihood() -> None:
    flow = tiny("truncated")
    batch = batch_of(flow, WATER, OXYGEN, WATER)
    config = LikelihoodConfig(tolerance=1e-3)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.05)
    history = []
    for step in range(12):
        noise = draw_noise(flow, batch, [generator(step, index, "probe") for index in range(3)], config)
        nll = likelihood_terms(flow, batch, noise, config).nll.mean()
        optimizer.zero_grad()
        nll.backward()
        optimizer.step()
        history.append(nll.item())
    assert np.mean(history[-4:]) < np.mean(history[:4]) - 3.0


def test_an_impossible_estimate_is_refused() -> None:
    with pytest.raises(ConfigError, match="probe is 'cauchy'; expected"):
        LikelihoodConfig(probe="cauchy")
    with pytest.raises(ConfigError, match="tolerance is 0; expected more than 0"):
        LikelihoodConfig(tolerance=0)
