"""The trial harness: what it measures of cases whose answer is known."""

import numpy as np
import pytest
import torch

from benchmarks.start_time import start_times
from benchmarks.trial_variants import trials
from benchmarks.trials import came
from enflow.model.config import EGNNConfig, FlowConfig
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.data.qm9 import MoleculeDataset
from enflow.model.training.widen import check_grows

METHANE = [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]
TORN = 3.0 * np.array(METHANE)


@pytest.fixture
def flow() -> MoleculeFlow:
    return MoleculeFlow(FlowConfig(dynamics=EGNNConfig(node_dim=8, edge_dim=4, n_layers=1, n_radial=4))).eval()


@pytest.fixture
def data() -> MoleculeDataset:
    """Eight molecules, six of them stable."""
    positions = np.concatenate([METHANE] * 6 + [TORN] * 2).astype(np.float32)
    return MoleculeDataset(5 * np.arange(9), np.array([1, 0, 0, 0, 0] * 8), positions, "")


def test_a_start_at_the_data_finds_the_data_and_noise_is_lost_by_an_untrained_flow(flow, data):
    found = start_times(flow, data, 8, (1.0, 0.5))
    assert (found[1.0].count, found[1.0].total) == (6, 8)
    assert found[0.5].count < 6


def test_the_exact_velocity_loses_nothing(flow, data):
    """With one molecule in all the world, (x1 - x) / (1 - t) carries every noise to it."""
    only, corners = torch.tensor(METHANE), 0.25 * torch.eye(5)[torch.tensor([1, 0, 0, 0, 0])]

    def velocity(t, x, h, mask):
        left = (1.0 - t).clamp(min=1e-3)[:, None, None]
        u, _, v = torch.linalg.svd(x.mT @ only.expand_as(x))
        return (only @ (u @ v).mT - x) / left, (corners - h) / left

    flow.dynamics.forward = velocity
    one = MoleculeDataset(data.offsets[:2], data.atom_types[:5], data.positions[:5], "")
    assert start_times(flow, one, 1, (0.9, 0.5, 0.2))[0.2].count == 1


def test_every_trial_can_be_built_and_differs_from_what_it_is_compared_with():
    found = trials()
    for name, trial in found.items():
        other = found[trial.against]
        assert trial.config != other.config or name in (trial.against, "charge channel")
        if trial.config.start is not None:
            assert trial.expected
            check_grows(other.config.flow, trial.config.flow)


@pytest.mark.parametrize(
    ("interval", "word"), [((0.80, 0.84), "as many"), ((0.84, 0.88), "more"), ((0.7, 0.78), "fewer")]
)
def test_intervals_that_do_not_overlap_decide(interval, word):
    base = {"molecule_stability": 0.81, "intervals_95": {"molecule_stability": [0.79, 0.83]}, "errors": [9.0, 4.0, 2.0]}
    trial = base | {"intervals_95": {"molecule_stability": list(interval)}, "errors": [9.0, 3.0, 3.0]}
    assert came(trial, base) == f"{word} stable molecules; error -25.0 % at t from 0.25 to 0.5, +50.0 % later"
    assert came(trial, None) == ""
