"""`enflow sample` and `enflow likelihood` as a shell sees them; the truth is the flow itself, asked directly."""

import json
import sys

import pytest
import torch

from model.checkpoint import Card, Dataset, load, save
from model.chem.formats import read
from model.config import DequantizerConfig, EGNNConfig, FlowConfig
from model.flow.molecule_flow import MoleculeFlow
from service.__main__ import main

WATER = "3\nwater\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n"
SILANE = "2\nno such element here\nSi 0 0 0\nH 1.5 0 0\n"
CONFIG = FlowConfig(
    dynamics=EGNNConfig(node_dim=8, edge_dim=4, n_layers=1, n_radial=4), dequantizer=DequantizerConfig(), max_atoms=6
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small model that was never trained."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("weights")
    flow = MoleculeFlow(CONFIG)
    save(flow, place, Card("tiny", "2026-01-01", "none", CONFIG, Dataset("none", "", ""), 0, "MIT", {}))
    return place


@pytest.fixture
def enflow(monkeypatch, capsys, weights):
    """Run a command on the small model: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["enflow", *map(str, arguments), "--weights", str(weights)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_samples_are_those_of_the_flow(enflow, weights, tmp_path):
    code, out, err = enflow("sample", "-n", 3, "--seed", 5, "--n-atoms", 4, "--out", tmp_path / "m.xyz")
    assert (code, out) == (0, "")
    assert "3 of 3 molecules kept, seed 5" in err
    written = read((tmp_path / "m.xyz").read_bytes())
    for one, other in zip(written, load(weights).sample([4, 4, 4], seed=5), strict=True):
        assert one.atomic_numbers.tolist() == other.atomic_numbers.tolist()
        assert one.positions == pytest.approx(other.positions, abs=1e-3)


def test_json_is_one_line_that_says_how_to_get_the_same_again(enflow):
    code, out, err = enflow("sample", "-n", 2, "--json", "--tolerance", "draft")
    assert (code, err, out.count("\n")) == (0, "", 1)
    told = json.loads(out)
    again = json.loads(enflow("sample", "-n", 2, "--json", "--tolerance", "draft", "--seed", told["seed"])[1])
    assert again == told
    later = enflow("sample", "--json", "--tolerance", "draft", "--seed", told["seed"], "--first-index", 1)[1]
    assert json.loads(later)["molecules"][0]["formula"] == told["molecules"][1]["formula"]


def test_what_nothing_satisfies_ends_with_the_counts(enflow):
    code, out, err = enflow("sample", "--n-atoms", 6, "--only", "stable", "--tolerance", "draft", "--seed", 0)
    assert (code, out) == (1, "")
    assert err == "enflow: none of 50 molecules is to be kept: {'not stable': 50}\n"


def test_scores_are_those_of_the_flow_and_a_bad_structure_spoils_no_other(enflow, weights, tmp_path):
    (tmp_path / "two.xyz").write_text(SILANE + WATER)
    code, out, _ = enflow("likelihood", tmp_path / "two.xyz", "--seed", 3, "--json")
    assert code == 1
    bad, good = json.loads(out)["results"]
    assert "Si" in bad["error"]
    (direct,) = load(weights).log_prob(read(WATER), seed=3)
    assert good["nll"] == pytest.approx(direct.nll, abs=0.05)
    assert sum(good["parts"].values()) == pytest.approx(good["nll"], abs=1e-3)
    assert (good["formula"], good["percentile"]) == ("H2O", None)


def test_scores_for_people_stand_in_a_table(enflow, tmp_path):
    (tmp_path / "water.xyz").write_text(WATER)
    code, out, _ = enflow("likelihood", tmp_path / "water.xyz")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == ["NLL", "H2O"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sample", "-n", 0], "greater than or equal to 1"),
        (["sample", "--n-atoms", 30], "found 30 atoms; the model knows at most 6"),
        (["sample", "--tolerance", "sharp"], "found tolerance 'sharp'; expected draft, standard, precise, or a number"),
        (["sample", "--out", "molecules.pdf"], "found the ending 'pdf' of molecules.pdf; expected one of .xyz"),
        (["likelihood", "nowhere.xyz"], "cannot read nowhere.xyz: No such file or directory"),
        (["sample", "--device", "tpu"], "found device 'tpu'; expected auto, cpu or cuda"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(enflow, arguments, says):
    code, out, err = enflow(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert says in err
