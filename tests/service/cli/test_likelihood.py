"""`enflow likelihood`: every structure of every file is answered for, on the screen and in a file."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enflow.model.chem.io.formats import read
from enflow.model.chem.molecule import Molecule
from enflow.service.__main__ import main
from enflow.service.cli import likelihood
from enflow.service.model_card import ModelCard
from enflow.service.protocol.events import Event, Scored
from enflow.service.protocol.requests import EngineLikelihoodRequest

METHANE = "5\nmethane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"
WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
FILES = {"two.xyz": METHANE + "1\n\nXe 0 0 0\n" + WATER, "one.smi": "CO methanol\n"}


class Abacus:
    """An engine that finds as many nats as there are atoms."""

    def __init__(self, *_: object) -> None:
        self.heading = {"name": "abacus", "sha256": "0"}
        config = {"vocabulary": [1, 6, 7, 8, 9], "max_atoms": 29}
        self.card = ModelCard({"name": "abacus", "weights_sha256": "0", "config": config}, {})

    def answers(self, wanted: EngineLikelihoodRequest) -> Iterator[Event]:
        for index, each in reversed(list(enumerate(wanted.molecules))):  # in whatever order they finish
            nll = float(len(each.atomic_numbers))
            parts = {"base": nll - 1, "divergence": 0.0, "dequantizer": 1.0, "n_atoms": 0.0}
            yield Scored(wanted.id, index, nll, None, parts, 60, "success", 0.0)


@pytest.fixture
def run_likelihood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> object:
    """Run the command on the files: (exit code, standard output)."""
    monkeypatch.setattr(likelihood, "OfflineEngine", Abacus)
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)

    def run(*options: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["enflow", "likelihood", *FILES, *options])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().out

    return run


def test_every_structure_has_its_line(run_likelihood) -> None:
    code, out = run_likelihood()
    lines = out.splitlines()[1:]
    assert code == 1  # for the xenon
    assert [line.split()[:3] for line in lines if "Xe" not in line] == [
        ["0", "CH4", "5.00"],
        ["2", "H2O", "3.00"],
        ["3", "CH4O", "6.00"],
    ]
    assert "found Xe as atom 1, expected one of H, C, N, O, F" in lines[1]


@pytest.mark.parametrize("ending", ["xyz", "sdf"])
def test_scored_molecules_carry_their_scores(run_likelihood, ending: str) -> None:
    run_likelihood("--out", f"scored.{ending}")
    molecules = read(Path(f"scored.{ending}").read_bytes())
    found = [(m.formula, float(str(m.properties["nll"])), m.properties["file"]) for m in molecules]
    assert found == [("CH4", 5.0, "two.xyz"), ("H2O", 3.0, "two.xyz"), ("CH4O", 6.0, "one.smi")]
    assert [m.name for m in molecules if isinstance(m, Molecule)] == ["methane", "water", "methanol"]


def test_json_on_the_screen_and_in_a_file_are_the_same(run_likelihood) -> None:
    _, out = run_likelihood("--json", "--out", "scores.json")
    assert json.loads(out) == json.loads(Path("scores.json").read_text())
    assert [entry.get("nll") for entry in json.loads(out)["results"]] == [5.0, None, 3.0, 6.0]
