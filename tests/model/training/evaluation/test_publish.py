"""The results of two commands in one file and one page, without results of other weights."""

import json
from html.parser import HTMLParser

import pytest

from enflow.model.card import Card, Dataset, read_card
from enflow.model.checkpoint import save
from enflow.model.chem.analysis.structures import type_row
from enflow.model.chem.analysis.typed_geometry import TypeComparison
from enflow.model.config import EGNNConfig, FlowConfig
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.evaluation.evaluate import EvaluationResult
from enflow.model.training.evaluation.html_report import own_nll_counts, page
from enflow.model.training.evaluation.publish import publish, publish_card, publish_own_nll
from enflow.model.training.evaluation.records import ScoreRecord

SHARES = {"atom_stability": 0.9, "molecule_stability": 0.5, "validity": 0.7}
SAMPLES = EvaluationResult({"samples": 10, **SHARES}, {"sizes": {"samples": [0, 3, 7], "data": [0, 5, 5]}})
SCORES = EvaluationResult(
    {"test_nll": -1.5, "test_nll_se": 0.1},
    {"nll": [[5, -2.0, 0.3]]},
    [ScoreRecord(0, 5, False, -2.0, {}, 9, "SUCCESS")],
)
POINTS = [
    {"name": name, "method": method, "nfe_mean": nfe, "points_behind_precise": 2.0, "points_behind_precise_se": 1.0}
    | SHARES
    for name, method, nfe in [("heun-8", "heun", 16.0), ("draft", "adaptive", 20.0)]
]


@pytest.fixture
def weights(tmp_path):
    flow = MoleculeFlow(FlowConfig(dynamics=EGNNConfig(node_dim=4, edge_dim=4, n_layers=1, n_radial=4)))
    card = Card("<tiny>", "now", "abc", flow.config, Dataset("QM9", "00", "none"), 0, "MIT", {"training_passes": 7})
    return tmp_path, save(flow, tmp_path, card)


class Page(HTMLParser):
    """A parser that collects the opened tags and the addresses that a browser would load."""

    def __init__(self, text):
        super().__init__()
        self.opened, self.loads = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.opened.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href")]


def test_results_of_two_commands_are_combined(weights):
    folder, card = weights
    publish(folder, card, "enflow evaluate a", SAMPLES, [])
    publish(folder, card, "enflow evaluate b", SCORES, POINTS)
    record = json.loads((folder / "evaluation.json").read_text())
    assert record["metrics"] == SAMPLES.metrics | SCORES.metrics
    assert {part: made["command"] for part, made in record["made"].items()} == {
        "samples": "enflow evaluate a",
        "likelihood": "enflow evaluate b",
        "curve": "enflow evaluate b",
    }
    text = (folder / "evaluation.html").read_text()
    page = Page(text)
    assert page.opened.count("svg") == 3  # sizes, NLL by size, curve
    assert not page.loads  # opens without a network
    assert "&lt;tiny&gt;" in text
    assert "<tiny>" not in text


def test_the_page_shows_the_nll_of_samples_beside_that_of_data(weights):
    folder, card = weights
    nll = {"data": [-120.0, -130.0, -131.0], "standard, 1e-3": [-60.0, 20.0]}
    publish_own_nll(folder, card, "python -m benchmarks.own_samples 2", {"of an older command": [-1.0, 2.0]})
    publish_own_nll(folder, card, "python -m benchmarks.own_samples 3", nll)
    record = json.loads((folder / "evaluation.json").read_text())
    assert record["own_nll"] == nll
    assert record["made"]["NLL of samples"]["command"] == "python -m benchmarks.own_samples 3"
    assert own_nll_counts(nll) == ({"data": [2, 1, 0, 0, 0, 0, 0], "standard, 1e-3": [0, 0, 0, 1, 0, 0, 1]}, -150.0)
    text = (folder / "evaluation.html").read_text()
    assert Page(text).opened.count("svg") == 1
    assert "standard, 1e-3" in text


def test_other_weights_replace_the_results(weights):
    folder, card = weights
    publish(folder, card, "enflow evaluate", SAMPLES, [])
    other = save(MoleculeFlow(card.config), folder, card)
    assert other.weights_sha256 != card.weights_sha256
    publish(folder, other, "enflow evaluate", SCORES, [])
    assert json.loads((folder / "evaluation.json").read_text())["metrics"] == SCORES.metrics


def test_the_card_keeps_its_other_metrics(weights):
    folder, _ = weights
    publish_card(folder, SAMPLES)
    assert not (folder / "percentiles.json").exists()
    publish_card(folder, SCORES)
    assert read_card(folder).metrics == {"training_passes": 7} | SAMPLES.metrics | SCORES.metrics
    assert json.loads((folder / "percentiles.json").read_text())["nll"] == {"5": [-2.0]}


def test_the_page_shows_functional_groups_and_types_of_bonds_beside_the_data():
    plots = {
        "functional_groups": [["alkene", 0.5, 0.25]],
        "bond_types": [type_row(TypeComparison("C-C", (10, 20), (1.5, 1.51), (0.02, 0.03), 0.004))],
        "rings": {"samples": [1, 2], "data": [2, 1]},
    }
    found = page("name", {"plots": plots, "metrics": {"rdkit_validity": 0.9, "data": {"rdkit_validity": 0.95}}})
    assert "<tr><td>alkene</td><td>50.0</td><td>25.0</td></tr>" in found
    assert "<td>C-C</td><td>10</td><td>20</td><td>1.500 ± 0.020</td><td>1.510 ± 0.030</td><td>0.0040</td>" in found
    assert "<td>data rdkit_validity</td><td>0.95</td>" in found
    assert "Rings per molecule" in found
    assert "Angles by type" not in found
