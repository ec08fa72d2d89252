"""Fitting a dequantizer: the truth is a flow of independent Gaussians, which gives each of five types 1/5 exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from enflow.model.config import DequantizerConfig, EGNNConfig, FlowConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.config import TrainConfig
from enflow.model.training.data.qm9 import MoleculeDataset
from enflow.model.training.max_likelihood import LikelihoodConfig
from enflow.model.training.objectives import DequantizerFit
from enflow.model.training.optimizer import OptimizerConfig
from enflow.model.training.trainer import Trainer

LEARNED = DequantizerConfig("argmax", scale=0.25, sigma=0.25, node_dim=8, n_layers=1)
FLOW = FlowConfig(dynamics=EGNNConfig(node_dim=4, edge_dim=4, n_layers=1, output="velocity"), dequantizer=LEARNED)
FIT = TrainConfig(
    objective="dequantizer",
    flow=FLOW,
    start="weights",
    likelihood=LikelihoodConfig(tolerance=1e-2, adjoint=False),
    optimizer=OptimizerConfig(adam_rate=0.05, muon_rate=0.01, warmup_steps=1, ema=0.9),
)


def test_the_fit_closes_the_gap_and_leaves_the_flow_alone():
    trainer = Trainer(FIT)
    assert isinstance(trainer.objective, DequantizerFit)
    start = MoleculeFlow(replace(FLOW, dequantizer=DequantizerConfig("truncated"))).float()
    for parameter in start.dynamics.parameters():
        parameter.data.zero_()  # nothing moves: p(h) = N(0, 1), from which q at the corners is far
    trainer.objective.copy_weights(trainer.network, start)
    for found, expected in zip(trainer.network.dynamics.parameters(), start.dynamics.parameters(), strict=True):
        assert torch.equal(found, expected)
        assert not found.requires_grad
    rng = np.random.default_rng(0)
    x = rng.standard_normal((128, 3)).astype(np.float32)
    data = MoleculeDataset(np.arange(0, 129, 2), rng.integers(0, 5, 128), x, "feed")
    gaps = []
    for step in range(16):
        batch, noise = trainer.draw(data, np.arange(64), step)
        base = trainer.network.base_positions.log_prob(batch.positions, batch.mask).mean()
        log_n_atoms = trainer.network.n_atoms.log_prob(batch.mask.sum(-1)).mean()
        truth = -(base + log_n_atoms) + 2 * np.log(5)
        gaps.append(trainer.update(trainer.network, (batch, noise), 64)["nll"] - float(truth))
    first, last = np.mean(gaps[:3]), np.mean(gaps[-4:])
    assert first > 2.0  # two atoms, nats
    assert -0.05 < last < 0.5 * first  # a bound before and after


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ConfigError, match="expected a start and a kind of argmax, variational"):
        replace(FIT, start=None)
    with pytest.raises(ConfigError, match="expected a start and a kind of argmax, variational"):
        replace(FIT, flow=replace(FLOW, dequantizer=DequantizerConfig("truncated")))
