"""`enflow variations` gives the answer of the service."""

import sys
from pathlib import Path

import pytest

from enflow.model.chem.io.formats import read
from enflow.service.__main__ import main
from enflow.service.protocol.requests import EngineVariationRequest
from enflow.service.schemas.responses import VariationsResponse
from tests.service.cli.conftest import FakeModel
from tests.service.fake_client import METHANE, TORN

PARENT = "5\nmethane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"


@pytest.fixture
def run_variations(fake_model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command on a file with a text: (exit code, output, error)."""

    def run(text: str, *arguments: str) -> tuple[object, str, str]:
        Path("parent.xyz").write_text(text)
        monkeypatch.setattr(sys, "argv", ["enflow", "variations", "parent.xyz", "--seed", "1", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_the_json_is_the_response_of_the_service(run_variations, fake_model: FakeModel) -> None:
    fake_model.client.molecule = lambda index: TORN if index == 0 else METHANE
    code, out, _ = run_variations(PARENT, "-n", "2", "--keep", "graph", "--strength", "0.3", "--json")
    response = VariationsResponse.model_validate_json(out)
    assert code == 0
    assert [(each.index, each.kept) for each in response.molecules] == [(1, "graph"), (2, "graph")]
    assert response.attempts.rejected == {"other graph": 1}
    requests = [each for each in fake_model.client.submitted if isinstance(each, EngineVariationRequest)]
    assert [(each.first_index, each.count, each.strength) for each in requests] == [(0, 2, 0.3), (2, 1, 0.3)]


@pytest.mark.parametrize("strength", ["nan", "inf", "-0.1", "1.5"])
def test_a_strength_out_of_range_is_one_line(run_variations, strength: str) -> None:
    code, out, err = run_variations(PARENT, "--strength", strength)
    assert (code in (1, 2), out, err.count("\n")) == (True, "", 1)
    assert "strength" in err


def test_they_are_written_to_a_file(run_variations) -> None:
    code, out, err = run_variations(PARENT, "--out", "near.xyz")
    assert (code, out) == (0, "")
    assert "8 of 8 molecules kept, 8 valid, 8 stable, seed 1" in err
    assert len(list(read(Path("near.xyz").read_text(), "xyz"))) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (2 * PARENT, "found 2 structures, expected 1"),
        ("1\n\nXe 0 0 0\n", "Xe"),
        ("2\n\nC 0 0 0\nO 1,5 0 0\n", ".xyz: structure 1, line 4"),
        ("", ".xyz: found an empty file"),
    ],
)
def test_a_file_that_is_not_one_molecule_is_one_line(run_variations, text: str, message: str) -> None:
    code, out, err = run_variations(text)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
