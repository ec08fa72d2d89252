"""Weights that come out of training."""

import numpy as np
import pytest
import torch

from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.config import DequantizerConfig, EGNNConfig, FlowConfig
from enflow.model.training.config import TrainConfig
from enflow.model.training.data.qm9 import MoleculeDataset
from enflow.model.training.export import export
from enflow.model.training.optimizer import OptimizerConfig
from enflow.model.training.trainer import Trainer


def test_exported_weights_are_the_averaged_network_and_the_sizes_of_the_data(tmp_path):
    trainer = Trainer(TrainConfig(flow=FlowConfig(dynamics=EGNNConfig(node_dim=8, edge_dim=4, n_layers=1, n_radial=4))))
    for value in trainer.average:
        value += 0.01  # an average that is not the network
    offsets = np.array([0, 3, 6, 10])
    data = MoleculeDataset(offsets, np.zeros(10, np.int64), np.zeros((10, 3), np.float32), "feed")
    export(trainer, trainer.config, data, tmp_path)
    flow = load(tmp_path)
    for loaded, averaged in zip(flow.dynamics.parameters(), trainer.average, strict=True):
        assert torch.equal(loaded, averaged)
    probabilities = flow.n_atoms.log_prob(torch.tensor([3, 4])).exp()
    np.testing.assert_allclose(
        probabilities.tolist(), [2.5 / 17.5, 1.5 / 17.5], rtol=1e-5
    )  # half a count for each size
    assert read_card(tmp_path).dataset.sha256 == "feed"


def test_a_formula_model_learns_is_exported_and_obeys(tmp_path):
    """Fourteen steps on one molecule: the loss falls, and what is asked for comes out of the file."""
    small = EGNNConfig(node_dim=16, edge_dim=8, n_layers=2, n_radial=4, output="still")
    flow = FlowConfig(dynamics=small, dequantizer=DequantizerConfig("given", capacity=4))
    trainer = Trainer(TrainConfig(flow=flow, optimizer=OptimizerConfig(warmup_steps=2, ema=0.5)))
    water = np.array([[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]], np.float32)
    data = MoleculeDataset(np.arange(0, 97, 3), np.tile([3, 0, 0], 32), np.tile(water, (32, 1)), "feed")
    losses = [
        trainer.update(trainer.network, trainer.draw(data, np.arange(32), step), 32)["loss_x"] for step in range(14)
    ]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    export(trainer, trainer.config, data, tmp_path)
    loaded = load(tmp_path)
    assert [m.formula for m in loaded.sample(["H2O", "CH4", 3], seed=0)][:2] == ["H2O", "CH4"]
    drawn = [loaded.draw_latent(3, 0, index).h.sum(0).tolist() for index in range(64)]
    assert drawn.count([2, 0, 0, 1, 0]) > 56  # 32 of 33 were water
    (score,) = loaded.log_prob(loaded.sample("H2O", seed=0), rtol=1e-4, atol=1e-4)
    possible = 35  # compositions of three atoms of five elements
    assert score.parts["dequantizer"] == pytest.approx(np.log(3) - np.log((32 + 1 / possible) / 33), abs=1e-4)
