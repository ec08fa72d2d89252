"""Compact states: small files from which a run goes on."""

import torch

from enflow.model.config import FlowConfig, VectorEGNNConfig
from enflow.model.training.compact import compacted
from enflow.model.training.config import TrainConfig
from enflow.model.training.trainer import Trainer

CONFIG = TrainConfig(flow=FlowConfig(dynamics=VectorEGNNConfig(node_dim=48, edge_dim=16, n_vectors=4, n_layers=2)))


def stepped() -> Trainer:
    """A run after two steps of random gradients."""
    trainer = Trainer(CONFIG)
    for _ in range(2):
        for parameter in trainer.network.parameters():
            parameter.grad = 0.01 * torch.randn_like(parameter)
        trainer.optimizer.step(1.0)
    trainer.step, trainer.passes = 2, 128
    return trainer


def test_a_run_goes_on_from_a_compact_state(tmp_path):
    whole, trainer = tmp_path / "state.pt", stepped()
    trainer.save(whole)
    small = tmp_path / "small.pt"
    torch.save(compacted(trainer.state()), small)
    assert small.stat().st_size < 0.75 * whole.stat().st_size
    found = Trainer(CONFIG)
    found.load(small)
    assert (found.step, found.passes) == (2, 128)
    for mine, theirs in zip(found.average, trainer.average, strict=True):
        assert torch.equal(mine, theirs)
    pairs = zip(found.network.parameters(), trainer.network.parameters(), found.average, strict=True)
    for mine, theirs, average in pairs:
        torch.testing.assert_close(mine - average, theirs - average, rtol=2**-7, atol=1e-6)
    momenta = [list(t.optimizer.rates[1][0].state.values()) for t in (found, trainer)]
    for mine, theirs in zip(*momenta, strict=True):
        assert mine["momentum"].dtype == torch.float32
        torch.testing.assert_close(mine["momentum"], theirs["momentum"], rtol=2**-8, atol=0.0)
