"""Weights that come out of training."""

import numpy as np
import torch

from model.checkpoint import load, read_card
from model.config import EGNNConfig, FlowConfig
from model.training.data import Molecules
from model.training.export import export
from model.training.train import TrainConfig, Trainer


def test_exported_weights_are_the_averaged_network_and_the_sizes_of_the_data(tmp_path):
    trainer = Trainer(TrainConfig(flow=FlowConfig(dynamics=EGNNConfig(node_dim=8, edge_dim=4, n_layers=1, n_radial=4))))
    for value in trainer.average:
        value += 0.01  # an average that is not the network
    offsets = np.array([0, 3, 6, 10])
    data = Molecules(offsets, np.zeros(10, np.int64), np.zeros((10, 3), np.float32), "feed")
    export(trainer, data, tmp_path)
    flow = load(tmp_path)
    for loaded, averaged in zip(flow.dynamics.parameters(), trainer.average, strict=True):
        assert torch.equal(loaded, averaged)
    probabilities = flow.n_atoms.log_prob(torch.tensor([3, 4])).exp()
    np.testing.assert_allclose(
        probabilities.tolist(), [2.5 / 17.5, 1.5 / 17.5], rtol=1e-5
    )  # half a count for each size
    assert read_card(tmp_path).dataset.sha256 == "feed"
