"""The truth: figures worked out by hand, molecules whose stability is known, a run that was never interrupted."""

import json

import numpy as np
import pytest
import torch

from model.chem.molecule import Molecule
from model.config import EGNNConfig, FlowConfig
from model.errors import DataError, SolverError
from model.flow.molecule_flow import MoleculeFlow
from model.training.evaluate import (
    Evaluation,
    chosen,
    evaluate,
    likelihood_metrics,
    percentiles,
    sample_metrics,
    table,
)
from model.training.results import Generated, Scored

METHANE = Molecule(
    [6, 1, 1, 1, 1],
    [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]],
)
WATER = Molecule([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])


def generated(index: int, molecule: Molecule | None, n_atoms: int, nfe: int, status: str = "SUCCESS") -> Generated:
    numbers = molecule.atomic_numbers.tolist() if molecule else []
    positions = molecule.positions.tolist() if molecule else []
    return Generated(index, n_atoms, numbers, positions, nfe, status)


def scored(row: int, nll: float | None, n_atoms: int = 5, fluorine: bool = False) -> Scored:
    parts = {} if nll is None else {"base": nll - 1.0, "n_atoms": 1.0}
    return Scored(row, n_atoms, fluorine, nll, parts, 10, "MAX_STEPS" if nll is None else "SUCCESS")


def test_shares_of_molecules_whose_fate_is_known():
    torn = Molecule([6, 1, 1, 1, 1], METHANE.positions * 3)  # five atoms in five pieces: none has its valence
    entries = [
        generated(0, METHANE, 5, 40),
        generated(1, METHANE, 5, 50),
        generated(2, WATER, 3, 60),
        generated(3, torn, 5, 70),
        generated(4, None, 7, 80, "MAX_STEPS"),
    ]
    found = sample_metrics(entries, {"[H]O[H]"}, [METHANE, WATER])
    assert found["samples"] == 5
    assert found["failed"] == 1
    assert found["atom_stability"] == pytest.approx(13 / 25)
    assert found["molecule_stability"] == pytest.approx(3 / 5)
    assert found["inferred_validity"] == pytest.approx(3 / 5)
    assert found["nfe_mean"] == 60
    assert found["en_flows"] == {"validity": 1.0, "uniqueness": pytest.approx(2 / 3), "novelty": pytest.approx(2 / 3)}
    low, high = found["intervals_95"]["molecule_stability"]
    assert low < 3 / 5 < high
    json.dumps(found, allow_nan=False)
    assert "molecule_stability" in table(found)


def test_no_molecule_at_all_says_what_the_solver_said():
    with pytest.raises(SolverError, match=r"none of 2 samples .*MAX_STEPS"):
        sample_metrics([generated(i, None, 5, 9, "MAX_STEPS") for i in range(2)], set(), [WATER])


def test_mean_error_and_the_share_without_fluorine():
    entries = [scored(0, -10.0), scored(1, -20.0), scored(2, 30.0, fluorine=True), scored(3, None)]
    found = likelihood_metrics(entries)
    assert found["test_nll"] == pytest.approx(0.0)
    assert found["test_nll_se"] == pytest.approx(np.sqrt((100 + 400 + 900) / 2 / 3))
    assert found["test_nll_without_f"] == pytest.approx(-15.0)
    assert found["test_nll_without_f_se"] == pytest.approx(np.sqrt(50 / 2))
    assert (found["test_molecules"], found["test_molecules_with_f"], found["test_failed"]) == (3, 1, 1)
    assert sum(found["test_nll_parts"].values()) == pytest.approx(found["test_nll"])


def test_too_few_scores_are_refused():
    with pytest.raises(DataError, match="1 of 2 molecules could be scored"):
        likelihood_metrics([scored(0, 1.0), scored(1, None)])


def test_percentiles_hold_the_scores_by_size_in_order():
    entries = [scored(i, nll, n) for i, (nll, n) in enumerate([(3.0, 5), (-1.0, 5), (2.0, 18), (None, 18)])]
    assert percentiles(entries, "ab") == {"weights_sha256": "ab", "nll": {"5": [-1.0, 3.0], "18": [2.0]}}
    many = percentiles([scored(i, float(i)) for i in range(1001)], "ab")["nll"]["5"]
    assert many == pytest.approx(np.arange(0, 1001, 5))


def test_more_molecules_contain_the_fewer():
    few, many = (chosen(100, Evaluation(molecules=n)).tolist() for n in (10, 40))
    assert many[:10] == few
    assert len(set(many)) == 40
    with pytest.raises(DataError, match="has 100 molecules; found a request for 101"):
        chosen(100, Evaluation(molecules=101))


class Counting(MoleculeFlow):
    """Counts what it is asked for, and breaks after a given number of molecules."""

    asked, left = 0, 10**9

    def samples(self, *args, **kwargs):
        for one in super().samples(*args, **kwargs):
            if self.left == 0:
                raise KeyboardInterrupt
            self.asked, self.left = self.asked + 1, self.left - 1
            yield one


@pytest.fixture
def flow() -> Counting:
    torch.manual_seed(0)
    flow = Counting(FlowConfig(dynamics=EGNNConfig(node_dim=4, edge_dim=4, n_layers=1, n_radial=4)))
    return flow.eval()


@pytest.fixture
def data(tmp_path):
    """A prepared file of twelve molecules, eight of them for the test."""
    molecules = [METHANE, WATER] * 6
    np.savez(
        tmp_path / "qm9.npz",
        num_atoms=np.array([m.n_atoms for m in molecules], np.uint8),
        atomic_numbers=np.concatenate([m.atomic_numbers for m in molecules]).astype(np.uint8),
        positions=np.concatenate([m.positions for m in molecules]).astype(np.float32),
        split=np.array([0, 0, 0, 1] + [2] * 8, np.uint8),
    )
    return tmp_path / "qm9.npz"


def silent(what, done, total, note=""):
    pass


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(flow, data, tmp_path):
    settings = Evaluation(samples=6, molecules=3, tolerance=0.05, probes=1)
    whole, scores = evaluate(flow, "ab", data, tmp_path / "whole", settings, silent)
    assert flow.asked == 6
    flow.asked, flow.left = 0, 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(flow, "ab", data, tmp_path / "parts", settings, silent)
    with (tmp_path / "parts" / "samples.jsonl").open("a") as file:
        file.write('{"index": 5, "n_at')  # what a power cut leaves
    flow.left = 10**9
    again, scores_again = evaluate(flow, "ab", data, tmp_path / "parts", settings, silent)
    assert flow.asked == 6
    assert again == whole
    assert scores_again == scores
    more = Evaluation(samples=7, molecules=3, tolerance=0.05, probes=1)
    evaluate(flow, "ab", data, tmp_path / "parts", more, silent)
    assert flow.asked == 7
    evaluate(flow, "cd", data, tmp_path / "parts", settings, silent)  # other weights: nothing of it holds
    assert flow.asked == 13
