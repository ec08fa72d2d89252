"""Widening: the same function, and new weights that learn."""

from dataclasses import replace

import pytest
import torch

from enflow.model.config import EGNNConfig, FlowConfig, VectorEGNNConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.widen import widened

SMALL = FlowConfig(dynamics=VectorEGNNConfig(node_dim=24, edge_dim=8, n_vectors=4, n_layers=2, n_radial=7))
CHANGES = {
    "node_dim": {"node_dim": 40},
    "edge_dim": {"edge_dim": 20},
    "n_vectors": {"n_vectors": 9},
    "n_layers": {"n_layers": 4},
    "move_scale": {"move_scale": 0.03},
    "all": {"node_dim": 32, "edge_dim": 16, "n_vectors": 6, "n_layers": 3, "move_scale": 0.1},
}


def trained() -> MoleculeFlow:
    """A flow none of whose weights, biases and scales are those of a fresh one."""
    flow = MoleculeFlow(SMALL).double()
    with torch.no_grad():
        for parameter in flow.dynamics.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return flow


def molecules() -> tuple[torch.Tensor, ...]:
    """Random states of 9, 7 and 2 atoms: t, x, h, mask."""
    mask = torch.arange(9) < torch.tensor([9, 7, 2])[:, None]
    x, h = torch.randn(3, 9, 3).double(), torch.randn(3, 9, 5).double()
    return torch.rand(3).double(), x * mask[..., None], h * mask[..., None], mask


def larger(changes) -> FlowConfig:
    return replace(SMALL, dynamics=replace(SMALL.dynamics, **changes))


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_widened_network_has_the_same_velocity(changes):
    flow, state = trained(), molecules()
    wide = widened(flow, larger(changes))
    assert wide.config == larger(changes)
    for found, expected in zip(wide.velocity(*state), flow.velocity(*state), strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # LayerNorm's epsilon counts a little less


def test_what_is_no_velocity_is_taken_over():
    flow = trained()
    flow.n_atoms.log_probs[5] = -1.25
    assert widened(flow, larger(CHANGES["all"])).n_atoms.log_probs[5] == -1.25


def test_every_new_weight_learns():
    wide, state = widened(trained(), larger(CHANGES["all"])), molecules()
    before = {name: parameter.detach().clone() for name, parameter in wide.dynamics.named_parameters()}
    optimizer = torch.optim.Adam(wide.dynamics.parameters(), lr=0.01)
    for _ in range(3):
        dx, dh = wide.velocity(*state)
        (dx.square().sum() + dh.square().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    unused = ("layers.0.receive_vectors", "layers.0.send_vectors", "layers.2.scales")  # no vectors yet, or any more
    for name, parameter in wide.dynamics.named_parameters():
        moved = (parameter.detach() != before[name]).double().mean()
        assert moved > 0.99 or any(part in name for part in unused), f"{name}: {moved:.2f} of it learns"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (larger({"node_dim": 16}), "node_dim 24"),
        (larger({"n_radial": 9}), "n_radial 7"),
        (replace(SMALL, max_atoms=30), "another model"),
        (replace(SMALL, dynamics=EGNNConfig()), "another model"),
    ],
)
def test_another_model_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        widened(trained(), config)
