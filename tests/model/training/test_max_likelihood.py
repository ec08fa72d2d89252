"""Maximum likelihood: its value against the served likelihood, its gradient against finite differences."""

import pytest
import torch

from enflow.model.batch import MoleculeBatch, collate
from enflow.model.chem.molecule import Molecule
from enflow.model.config import DequantizerConfig, EGNNConfig, FlowConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.noise import generator
from enflow.model.training.max_likelihood import LikelihoodConfig, draw_noise, likelihood_terms

OXYGEN = Molecule([8, 8], [[0, 0, 0.6], [0, 0, -0.6]])
EXACT = LikelihoodConfig(probe="exact", tolerance=1e-4, kinetic=0.1, adjoint=False)


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
    form = flow.canonical_form(OXYGEN)  # its key seeds the noise of a score
    batch = batch_of(flow, form.molecule)
    noise = draw_noise(flow, batch, [generator(0, form.key, "dequantize:0")], EXACT)
    found = likelihood_terms(flow, batch, noise, EXACT)
    (served,) = flow.log_prob([OXYGEN], divergence="exact", draws=1, rtol=1e-5, atol=1e-5)
    assert found.nll.item() == pytest.approx(served.nll, abs=0.06)


def test_gradients_agree_with_finite_differences() -> None:
    # Through the adjoint; gradients of the divergences themselves are tested with them.
    flow, config = tiny(), LikelihoodConfig(tolerance=1e-5, kinetic=0.1, jacobian=0.1)
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
        for step in (1e-3, -2e-3):
            for parameter, direction in zip(moved, directions, strict=True):
                parameter.add_(step * direction)
            values.append(loss().item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-2)


def test_the_estimate_averages_to_the_exact_value() -> None:
    flow, config = tiny("truncated").requires_grad_(False), LikelihoodConfig(tolerance=1e-2)
    n = 32
    batch = batch_of(flow, *[OXYGEN] * n)
    noise = draw_noise(flow, batch, [generator(1, index, "probe") for index in range(n)], config)
    same = noise._replace(dequantizer=noise.dequantizer[:1].expand(n, -1, -1))
    estimates = likelihood_terms(flow, batch, same, config).nll
    one = batch_of(flow, OXYGEN)
    exact = likelihood_terms(flow, one, same._replace(dequantizer=same.dequantizer[:1], probe=None), EXACT).nll.item()
    error = estimates.std().item() / n**0.5
    assert estimates.mean().item() == pytest.approx(exact, abs=4 * error)


def test_an_impossible_estimate_is_refused() -> None:
    with pytest.raises(ConfigError, match="probe is 'cauchy'; expected"):
        LikelihoodConfig(probe="cauchy")
    with pytest.raises(ConfigError, match=r"tolerance is 0\.0; expected more than 0"):
        LikelihoodConfig(tolerance=0.0)
