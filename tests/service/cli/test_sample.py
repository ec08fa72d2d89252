"""`enflow sample` tries and keeps the molecules that the service tries and keeps."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.io.formats import read
from enflow.model.chem.io.sdf import write_sdf
from enflow.model.chem.molecule import Molecule
from enflow.model.config import DequantizerConfig, EGNNConfig, FragmentConfig
from enflow.model.flow.arguments import SizeRange
from enflow.service.__main__ import main
from enflow.service.cli.sample import read_fragment_text, weights_of
from enflow.service.model_card import ModelCard
from enflow.service.protocol.requests import EngineLikelihoodRequest, EngineSampleRequest, Structure
from enflow.service.schemas.responses import SampleResponse
from enflow.service.settings import BUNDLED_WEIGHTS, FORMULA_WEIGHTS, FRAGMENT_WEIGHTS
from tests.service.cli.conftest import FakeModel
from tests.service.fake_client import METHANE, TORN
from tests.service.serving import some_card

GIVEN = {"dynamics": EGNNConfig(output="still"), "dequantizer": DequantizerConfig("given", capacity=4)}
"""The parts of a model that takes formulas."""

AROUND = {"dynamics": FragmentConfig(), "dequantizer": DequantizerConfig("truncated")}
"""The parts of a model that takes fragments."""

METHANE_XYZ = "5\n\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"


@pytest.fixture
def run_sample(fake_model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """Run the command with an engine whose molecules are known: (exit code, output, error).

    A set has the indices of the molecules with bonds, a list the molecules by index.
    """

    def run(bonded: set[int] | list[Structure], *arguments: str) -> tuple[object, str, str]:
        known = bonded if isinstance(bonded, list) else [METHANE if index in bonded else TORN for index in range(200)]
        fake_model.client.molecule = known.__getitem__
        monkeypatch.setattr(sys, "argv", ["enflow", "sample", "--seed", "1", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_the_json_is_the_response_of_the_service(run_sample, fake_model: FakeModel) -> None:
    """Samples 0 and 2 are rejected, 4 and 1 accepted, as in the test of the service."""
    code, out, _ = run_sample({1, 4, 6, 7}, "-n", "2", "--only", "valid", "--json")
    response = SampleResponse.model_validate_json(out)
    assert (code, out.count("\n")) == (0, 1)
    assert [each.index for each in response.molecules] == [1, 4]
    assert (response.attempts.tried, response.attempts.rejected) == (4, {"not valid": 2})
    tried = [each for each in fake_model.client.submitted if isinstance(each, EngineSampleRequest)]
    assert sorted((each.first_index, len(each)) for each in tried) == [(0, 2), (2, 1), (4, 1)]


def test_any_keeps_all_and_prints_xyz(run_sample) -> None:
    code, out, err = run_sample(set(), "-n", "3")
    assert (code, [each.n_atoms for each in read(out, "xyz")]) == (0, [5, 5, 5])
    assert "3 of 3 molecules kept, 0 valid, 0 stable, seed 1" in err


def test_it_says_how_many_molecules_are_valid_and_stable(run_sample) -> None:
    assert (
        run_sample({0, 2}, "-n", "3", "--out", "three.sdf")[2] == "3 of 3 molecules kept, 2 valid, 2 stable, seed 1\n"
    )
    assert "2 of 3 molecules kept, 2 valid, 2 stable; 1 x " in run_sample({0, 3}, "-n", "2", "--only", "valid")[2]
    assert "2 of 2 molecules kept, 2 stable, seed 1" in run_sample({0, 1}, "-n", "2", "--no-bonds")[2]


@pytest.mark.parametrize(
    ("xyz", "attach", "warned"),
    [
        (METHANE_XYZ, (), True),
        (METHANE_XYZ, ("--attach", "2"), False),
        (METHANE_XYZ.replace("5", "4", 1).rsplit("H", 1)[0], (), False),
    ],
)
def test_a_fragment_without_a_place_to_grow_has_a_warning(
    run_sample, fake_model: FakeModel, xyz: str, attach: tuple[str, ...], warned: bool
) -> None:
    """Methane, and methyl, which lacks a bond."""
    fake_model.card = ModelCard(some_card("fake", **AROUND), {})
    Path("core.xyz").write_text(xyz)
    code, _, err = run_sample({0}, "--fragment", "core.xyz", *attach, "--n-atoms", "9", "--json")
    warning = "enflow: found no atom of the fragment that lacks a bond; the other atoms may make a second molecule"
    assert (code, err.startswith(warning), err.count("\n")) == (0, warned, int(warned))


@pytest.mark.parametrize(("formula", "electrons"), [("CH4", 0), ("CH3N", 0), ("C2H5", 17), ("HNO3F", 41)])
def test_a_formula_with_an_odd_number_of_electrons_has_a_warning(
    run_sample, fake_model: FakeModel, formula: str, electrons: int
) -> None:
    fake_model.card = ModelCard(some_card("fake", **GIVEN), {})
    code, _, err = run_sample(set(), "--formula", formula, "--json")
    warning = f"enflow: found {electrons} electrons in {formula}, an odd number; no molecule of this formula is valid"
    assert (code, err.startswith(warning), err.count("\n")) == (0, electrons > 0, int(electrons > 0))


def test_without_bonds_the_positions_are_the_same(run_sample) -> None:
    (_, plain, _), (_, out, _) = run_sample({0, 1}, "-n", "2"), run_sample({0, 1}, "-n", "2", "--no-bonds")
    assert read(out, "xyz") == read(plain, "xyz")
    assert ("smiles=" in plain, "smiles=" in out, 'bonds="omitted"' in out) == (True, False, True)
    assert ("valid=" in plain, "valid=" in out, "stable=" in out) == (True, False, True)


def test_a_hyphen_as_the_file_prints_xyz_too(run_sample) -> None:
    assert run_sample(set(), "-n", "2", "--out", "-") == run_sample(set(), "-n", "2")


def test_it_stops_after_the_limit_of_attempts(run_sample) -> None:
    code, out, err = run_sample(set(), "-n", "2", "--only", "valid")
    assert (code, out) == (1, "")
    assert "found no molecule to keep: 0 of 100 molecules kept; 100 x no bonds give every atom a closed shell" in err


def test_only_kept_molecules_are_scored_each_by_its_own_index(run_sample, fake_model: FakeModel) -> None:
    _, out, _ = run_sample({1, 4}, "-n", "2", "--only", "valid", "--with-nll", "--json")
    assert [each["nll"] for each in json.loads(out)["molecules"]] == [-0.5, -0.5]
    scored = [each for each in fake_model.client.submitted if isinstance(each, EngineLikelihoodRequest)]
    assert sorted((each.first_index, each.seed) for each in scored) == [(1, 1), (4, 1)]


@pytest.mark.parametrize("ending", ["xyz", "sdf", "csv", "json", "html"])
def test_a_file_holds_the_molecules(run_sample, ending: str) -> None:
    code, out, _ = run_sample({0, 1}, "-n", "2", "--out", f"two.{ending}", "--json")
    assert (code, json.loads(out)["out"]) == (0, f"two.{ending}")
    text = Path(f"two.{ending}").read_text()
    if ending in ("xyz", "sdf"):
        names = ("seed", "valid", "stable")
        assert [[str(each.properties[name]) for name in names] for each in read(text)] == [["1", "True", "True"]] * 2
    else:
        assert "CH4" in text or "CH₄" in text


def test_the_refinements_reach_the_engine(run_sample, fake_model: FakeModel) -> None:
    assert run_sample({0}, "--refinements", "2", "--json")[0] == 0
    (request,) = (each for each in fake_model.client.submitted if isinstance(each, EngineSampleRequest))
    assert request.refinements == 2


def test_a_range_of_sizes_reaches_the_engine(run_sample, fake_model: FakeModel) -> None:
    assert run_sample({0, 1}, "-n", "2", "--n-atoms", "5:40", "--json")[0] == 0
    (request,) = (each for each in fake_model.client.submitted if isinstance(each, EngineSampleRequest))
    assert request.n_atoms == (SizeRange(5, 40),) * 2
    for text in ("9:8", "0:3", "5-9", "nine", "5:"):
        error = run_sample({0}, "--n-atoms", text)[2]
        assert f"found --n-atoms {text}; expected a number of atoms, such as 12" in error
    assert "found 30 atoms; the model knows at most 29" in run_sample({0}, "--n-atoms", "30:40")[2]


def test_the_temperature_reaches_the_engine(run_sample, fake_model: FakeModel) -> None:
    assert run_sample({0}, "--temperature", "0.8", "--json")[0] == 0
    (request,) = (each for each in fake_model.client.submitted if isinstance(each, EngineSampleRequest))
    assert request.temperature == 0.8
    code, _, err = run_sample({0}, "--temperature", "3")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("enflow: temperature: ")


@pytest.mark.parametrize("condition", [("--only", "connected"), ("--where", "connected=true")])
def test_connected_molecules_are_in_one_piece(run_sample, condition: tuple[str, str]) -> None:
    pair = Structure(np.tile(METHANE.atomic_numbers, 2), np.concatenate([METHANE.positions, METHANE.positions + 5.0]))
    code, out, _ = run_sample([pair, TORN, METHANE], *condition, "--json")
    (molecule,) = json.loads(out)["molecules"]
    assert (code, molecule["index"], molecule["smiles"]) == (0, 2, "C")


def test_a_value_out_of_range_is_one_line(run_sample) -> None:
    code, _, err = run_sample(set(), "--first-index", str(2 * 10**9))
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("enflow: first_index: ")


def test_where_unique_and_sort_are_those_of_the_service(run_sample) -> None:
    """Methane has 16.04 g/mol and no ring; of the samples of the first command only 1 and 3 have bonds."""
    code, out, _ = run_sample({1, 3}, "-n", "1", "--where", "weight=16:16.1", "--where", "rings=:0", "--json")
    (molecule,) = json.loads(out)["molecules"]
    assert (code, molecule["index"], molecule["properties"]["inchikey"]) == (0, 1, "VNWKTOKETHGBQD-UHFFFAOYSA-N")
    _, out, err = run_sample({0, 1, 2}, "-n", "2", "--unique", "--sort", "-weight", "--json")
    assert [each["index"] for each in json.loads(out)["molecules"]] == [0, 3]
    assert json.loads(out)["molecules"][0]["properties"]["weight"] == pytest.approx(16.04, abs=0.01)
    assert json.loads(out)["attempts"]["rejected"] == {"duplicate": 1}
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--where", "qed>0.5"), "found --where qed>0.5; expected NAME=LOWER:UPPER"),
        (("--where", "qed=a:b"), "found --where qed=a:b; expected NAME=LOWER:UPPER"),
        (("--where", "rings=1:", "--where", "rings=:2"), "found --where rings=... twice; expected it once"),
        (("--where", "mass=1:2"), "where: found a name that is no property, expected weight, heavy_atoms, logp"),
        (("--sort", "mass"), "sort: found no such key, expected one of weight, heavy_atoms, logp"),
        (("--sort", "nll"), "enflow: found sort by nll without with_nll"),
        (("lj13", "--weights", "dw4"), "enflow: found lj13 and --weights dw4; expected one of them"),
        (("--formula", "CH4", "--fragment", "a.sdf"), "found --formula and --fragment; expected one of them"),
        (("--attach", "3"), "enflow: found attach without fragment"),
        (("--fragment", "empty.sdf"), "enflow: empty.sdf: found an empty file, expected at least one structure"),
    ],
)
def test_a_wrong_value_is_one_line(run_sample, arguments: tuple[str, ...], message: str) -> None:
    Path("empty.sdf").touch()
    code, out, err = run_sample(set(), *arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err


def test_closed_standard_input_is_one_line(run_sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = run_sample(set(), "--fragment", "-")
    assert (code, out, err) == (1, "", "enflow: standard input is closed, expected a file or a pipe behind it\n")


@pytest.mark.parametrize("name", ["core.xyz", "core.sdf", "core.txt", "-"])
def test_the_format_of_a_fragment_is_that_of_its_content(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """The same rule as that of `enflow likelihood`: the ending counts where the content does not say the format."""
    methane = Molecule(METHANE.atomic_numbers, METHANE.positions)
    text = write_sdf([methane], [infer_bonds(methane)])
    monkeypatch.chdir(tmp_path)
    Path("core.xyz" if name == "-" else name).write_text(text)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    assert read_fragment_text(Path(name)) == {"format": "sdf", "data": text}


@pytest.mark.parametrize(
    ("named", "values", "expected"),
    [
        ((None, None), {}, BUNDLED_WEIGHTS),
        ((None, None), {"formula": "CH4"}, FORMULA_WEIGHTS),
        ((None, None), {"fragment": {}}, FRAGMENT_WEIGHTS),
        ((BUNDLED_WEIGHTS, None), {"fragment": {}}, BUNDLED_WEIGHTS),
        ((None, BUNDLED_WEIGHTS), {"formula": "CH4"}, BUNDLED_WEIGHTS),
    ],
)
def test_weights_that_are_named_are_loaded(
    named: tuple[Path | None, Path | None], values: dict[str, object], expected: Path
) -> None:
    assert weights_of(*named, {"formula": None, "fragment": None, **values}) == expected
