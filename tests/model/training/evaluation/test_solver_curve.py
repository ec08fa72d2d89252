"""Heun's method against the adaptive solver, which it approaches at second order."""

import numpy as np
import pytest
import torch

from enflow.model.config import EGNNConfig, FlowConfig
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.evaluation.solver_curve import curve, heun_samples


@pytest.fixture
def flow():
    torch.manual_seed(0)
    config = EGNNConfig(node_dim=8, edge_dim=8, n_layers=2, n_radial=4)
    flow = MoleculeFlow(FlowConfig(dynamics=config)).double().eval()
    torch.nn.init.normal_(flow.dynamics.network.layers[0].coordinate_out.weight, std=0.3)
    return flow


def silent(what, done, total, note=""):
    pass


def test_heun_samples_are_those_of_the_adaptive_solver_to_second_order(flow):
    sizes = {7: 3, 2: 5, 4: 3}
    exact = {one.index: one.molecule for one in flow.samples(list(sizes.values()), 1, 1e-9, 1e-9, indices=list(sizes))}
    errors = []
    for steps in (40, 80):
        found = {one.index: one for one in heun_samples(flow, sizes, 1, steps)}
        assert {one.nfe for one in found.values()} == {2 * steps}
        errors.append(max(np.abs(found[i].molecule.positions - exact[i].positions).max() for i in sizes))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)


def test_a_curve_has_a_point_per_solver_and_resumes(flow, tmp_path):
    few = curve(flow, "ab", tmp_path, 2, 0, silent, steps=(4,), tolerances={"draft": 1e-1, "precise": 1e-3})
    many = curve(flow, "ab", tmp_path, 4, 0, silent, steps=(4,), tolerances={"draft": 1e-1, "precise": 1e-3})
    assert [(p["name"], p["method"]) for p in many] == [
        ("draft", "adaptive"),
        ("precise", "adaptive"),
        ("heun-4", "heun"),
    ]
    assert [p["samples"] for p in few + many] == [2] * 3 + [4] * 3
    assert many[2]["nfe_mean"] == 8
    assert many[0]["nfe_mean"] < many[1]["nfe_mean"]
    assert many[1]["points_behind_precise"] == 0
    assert len((tmp_path / "curve-draft.jsonl").read_text().splitlines()) == 1 + 4
