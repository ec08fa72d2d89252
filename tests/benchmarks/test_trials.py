"""The trial harness: what it measures of cases whose answer is known."""

import numpy as np
import pytest
import torch

from benchmarks import trial_objectives
from benchmarks.start_time import start_times
from benchmarks.trial_objectives import SEAM, LateExpert, OwnSamples, SeveralDraws
from benchmarks.trial_variants import OBJECTIVES, trials
from benchmarks.trials import came
from enflow.model.chem.molecule import Molecule
from enflow.model.config import EGNNConfig, FlowConfig
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.states import Sample
from enflow.model.training.data.qm9 import MoleculeDataset
from enflow.model.training.flow_matching import MatchingConfig
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
        assert trial.config != other.config or name == trial.against or name in OBJECTIVES
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


ROWS = np.arange(6)


def drawn(kind, flow, data):
    return kind(flow.config, MatchingConfig(), "cpu").draw(None, data, ROWS, 0, 0)


def test_several_draws_repeat_molecules_with_new_noise(flow, data):
    pairs, t = drawn(SeveralDraws, flow, data)
    torch.testing.assert_close(pairs.x1[:3], pairs.x1[3:])
    assert (pairs.x0[:3] != pairs.x0[3:]).any((1, 2)).all()
    assert (t[:3] != t[3:]).all()


def test_a_late_expert_sees_late_times_and_computes_them_alone(flow, data, monkeypatch):
    monkeypatch.setattr(trial_objectives, "load", lambda _: MoleculeFlow(flow.config))
    objective = LateExpert(flow.config, MatchingConfig(), "cpu")
    pairs, t = objective.draw(None, data, ROWS, 0, 0)
    assert ((t >= SEAM) & (t <= 1)).all()
    both = objective.flow(flow.dynamics).dynamics
    at = [torch.full((6,), value) for value in (SEAM - 0.01, SEAM)]
    arguments = pairs.x1, pairs.h1, pairs.mask
    torch.testing.assert_close(both(at[0], *arguments), both.early(at[0], *arguments))
    torch.testing.assert_close(both(at[1], *arguments), both.late(at[1], *arguments))
    assert not torch.equal(both(at[0], *arguments)[1], both.late(at[0], *arguments)[1])


def test_only_own_samples_that_pass_the_filter_are_trained_on(flow, data, monkeypatch):
    methane = Molecule(np.array([6, 1, 1, 1, 1]), 1.01 * np.array(METHANE))
    torn = Molecule(np.array([6, 1, 1, 1, 1]), 2.0 * np.array(TORN))
    unknown = Molecule(np.array([7, 1, 1, 1, 1]), 1.02 * np.array(METHANE))
    samples = [Sample(i, one, Status.SUCCESS, 1) for i, one in enumerate((torn, methane, unknown))]
    own = MoleculeFlow(flow.config)
    own.samples = lambda *_, refinements: iter(samples) if refinements == 0 else iter(())
    monkeypatch.setattr(trial_objectives, "load", lambda _: own)
    pairs, _ = OwnSamples(flow.config, MatchingConfig(), "cpu").draw(None, data, np.zeros(100, int), 0, 0)
    scales = (pairs.x1.square().sum((1, 2)) / float(np.square(METHANE).sum())).sqrt()
    shares = [float((abs(scales - scale) < 1e-3).float().mean()) for scale in (1.0, 1.01)]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[1] == pytest.approx(trial_objectives.OWN_SHARE, abs=0.2)
