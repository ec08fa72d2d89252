"""`enflow likelihood`: every structure of every file has a result, on the screen and in a file."""

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from enflow.model.chem.io.formats import read
from enflow.model.chem.molecule import Molecule
from enflow.service.__main__ import main
from enflow.service.schemas.requests import rtol
from tests.service.cli.conftest import FakeModel
from tests.service.serving import some_card

METHANE = "5\nmethane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"
WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
FILES = {"two.xyz": METHANE + "1\n\nXe 0 0 0\n" + WATER, "one.smi": "CO methanol\n"}


@pytest.fixture
def run_likelihood(
    fake_model: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> object:
    """Run the command on some files: (exit code, standard output)."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)

    def run(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["enflow", "likelihood", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().out

    return run


def test_every_structure_has_its_line(run_likelihood) -> None:
    code, out = run_likelihood(*FILES)
    lines = out.splitlines()[1:]
    assert code == 1  # for the xenon
    assert [line.split()[:3] for line in lines if "Xe" not in line] == [
        ["1", "CH4", "-0.50"],
        ["3", "H2O", "-0.50"],
        ["4", "CH4O", "-0.50"],
    ]
    assert "found Xe as atom 1, expected one of H, C, N, O, F" in lines[1]


@pytest.mark.parametrize("ending", ["xyz", "sdf"])
def test_scored_molecules_hold_their_scores(run_likelihood, ending: str) -> None:
    run_likelihood(*FILES, "--out", f"scored.{ending}")
    molecules = read(Path(f"scored.{ending}").read_bytes())
    found = [(m.formula, float(str(m.properties["nll"])), m.properties["file"]) for m in molecules]
    assert found == [("CH4", -0.5, "two.xyz"), ("H2O", -0.5, "two.xyz"), ("CH4O", -0.5, "one.smi")]
    assert [m.name for m in molecules if isinstance(m, Molecule)] == ["methane", "water", "methanol"]


def test_json_on_the_screen_and_in_a_file_are_the_same(run_likelihood) -> None:
    _, out = run_likelihood(*FILES, "--json", "--out", "scores.json")
    assert json.loads(out) == json.loads(Path("scores.json").read_text())
    assert [entry.get("nll") for entry in json.loads(out)["results"]] == [-0.5, None, -0.5, -0.5]


@pytest.mark.parametrize("sort", ["nll", "-nll"])
def test_sorted_scores_and_files_have_failures_last(run_likelihood, fake_model: FakeModel, sort: str) -> None:
    fake_model.client.nll = lambda index: [2.0, 3.5, 1.0, -4.0][index]
    given = json.loads(run_likelihood(*FILES, "--json")[1])["results"]
    assert [each.get("name") for each in given] == ["methane", None, "water", "methanol"]
    scored = sorted((each for each in given if "nll" in each), key=lambda each: float(each["nll"]))
    expected = scored if sort == "nll" else scored[::-1]
    names = [each["name"] for each in expected]
    assert names != ["methane", "water", "methanol"]
    code, out = run_likelihood(*FILES, "--sort", sort, "--json", "--out", "scored.csv")
    results = json.loads(out)["results"]
    assert (code, results) == (1, [*expected, *(each for each in given if "error" in each)])
    rows = list(csv.DictReader(io.StringIO(Path("scored.csv").read_text(), newline="")))
    assert [(row["name"], row["nll"]) for row in rows[:3]] == [(each["name"], str(each["nll"])) for each in expected]
    assert "found Xe as atom 1" in rows[3]["error"]
    table = run_likelihood(*FILES, "--sort", sort, "--out", "scored.sdf")[1].splitlines()[1:]
    assert [line.split()[0] for line in table] == [str(each["index"] + 1) for each in results]
    kept = read(Path("scored.sdf").read_bytes())
    assert [(m.name, float(str(m.properties["nll"]))) for m in kept] == [(e["name"], e["nll"]) for e in expected]


def test_a_file_that_cannot_be_read_is_one_error_and_the_others_are_scored(run_likelihood) -> None:
    """Missing, empty, and of no known format."""
    Path("empty.xyz").write_text("")
    Path("unknown.txt").write_text("what is this\n")
    names = ["missing.xyz", "empty.xyz", "two.xyz", "unknown.txt"]
    code, out = run_likelihood(*names, "--json")
    results = json.loads(out)["results"]
    assert code == 1
    assert [each["file"] for each in results] == ["missing.xyz", "empty.xyz", *["two.xyz"] * 3, "unknown.txt"]
    assert [each["index"] for each in results if "nll" in each] == [2, 4]
    assert results[0]["error"] == "cannot read missing.xyz: No such file or directory"
    assert "expected XYZ or SDF" in results[-1]["error"]


def test_a_hyphen_reads_standard_input(run_likelihood, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(WATER.encode())))
    code, out = run_likelihood("-", "--json")
    (result,) = json.loads(out)["results"]
    assert (code, result["file"], result["formula"]) == (0, "-", "H2O")


def test_closed_standard_input_is_said(run_likelihood, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, out = run_likelihood("-", "--json")
    (result,) = json.loads(out)["results"]
    assert (code, result["error"]) == (1, "standard input is closed, expected a file or a pipe behind it")


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--out", "scored.sdf"), ("--out", "scored.json")])
def test_a_name_that_is_not_utf_8_is_shown(run_likelihood, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    name = "b\udce4.xyz"  # as Python shows the byte E4
    (tmp_path / name).write_text(WATER)
    code, out = run_likelihood(name, *arguments)
    shown = ["b\ufffd.xyz" in text or "b\\ufffd.xyz" in text for text in [out, *map(Path.read_text, written(tmp_path))]]
    assert (code, all(shown)) == (0, True)


def written(folder: Path) -> list[Path]:
    """Return the files of scores in a folder."""
    return [*folder.glob("scored.*")]


def test_a_hyphen_as_the_file_prints_the_molecules_alone(run_likelihood) -> None:
    code, out = run_likelihood("two.xyz", "--out", "-")
    assert code == 1  # for the xenon
    assert [each.formula for each in read(out, "xyz")] == ["CH4", "H2O"]


def test_a_compressed_file_is_known_by_its_ending(run_likelihood) -> None:
    """SMILES have no signs of their own."""
    Path("one.smi.gz").write_bytes(gzip.compress(FILES["one.smi"].encode()))
    code, out = run_likelihood("one.smi.gz", "--json")
    (result,) = json.loads(out)["results"]
    assert (code, result["formula"]) == (0, "CH4O")


@pytest.mark.parametrize("ending", ["xyz", "sdf"])
def test_data_items_of_a_file_stay_beside_the_scores(run_likelihood, ending: str) -> None:
    Path("items.xyz").write_text(WATER.replace("water", "Properties=species:S:1:pos:R:3 dipole=1.85 lab=north"))
    run_likelihood("items.xyz", "--out", f"scored.{ending}")
    (molecule,) = read(Path(f"scored.{ending}").read_bytes())
    found = {name: str(molecule.properties[name]) for name in ("dipole", "lab", "nll")}
    assert found == {"dipole": "1.85", "lab": "north", "nll": "-0.5"}


@pytest.mark.parametrize("option", ["--target-error=nan", "--target-error=0", "--draws=100000000000"])
def test_an_option_out_of_range_is_one_line(
    fake_model: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    Path("water.xyz").write_text(WATER)
    monkeypatch.setattr(sys, "argv", ["enflow", "likelihood", "water.xyz", option])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code in (1, 2), out, err.count("\n")) == (True, "", 1)
    assert option.partition("=")[0].strip("-").replace("-", "_") in err.replace("-", "_")


def items_of(file: Path) -> dict[str, str]:
    """Return the properties of the one molecule of a file as text."""
    if file.suffix == ".csv":
        (row,) = csv.DictReader(io.StringIO(file.read_text(), newline=""))
        return row
    (molecule,) = read(file.read_bytes())
    assert isinstance(molecule, Molecule)
    return {name: str(value) for name, value in molecule.properties.items()}


@pytest.mark.parametrize("ending", ["xyz", "sdf", "csv"])
def test_a_scored_file_says_how_its_molecule_was_sampled_and_how_it_was_scored(run_likelihood, ending: str) -> None:
    sampled = {"seed": "8", "index": "3", "model": "qm9", "sha256": "bd605c", "tolerance": "0.01", "refinements": "4"}
    sampled |= {"temperature": "0.9", "nfe": "62", "solver_status": "maximum"}
    said = " ".join(f"{name}={value}" for name, value in {**sampled, "nll": -80.5, "nll_of": "rest"}.items())
    Path("sampled.xyz").write_text(WATER.replace("water", f"Properties=species:S:1:pos:R:3 {said}"))
    out, once_more = f"scored.{ending}", Path(f"again.{ending}")
    run_likelihood("sampled.xyz", "--seed", "1", "--tolerance", "precise", "--out", out)
    found = items_of(Path(out))
    assert sampled.items() <= found.items()
    assert not found.get("nll_of")  # the score is of the whole molecule
    scored = {"score_seed": "1", "score_index": "0", "score_model": "fake", "score_tolerance": str(rtol("precise"))}
    assert scored.items() <= found.items()
    assert found["score_sha256"] == some_card("fake").weights_sha256
    assert (found["nll"], {"score_nfe", "score_solver_status"} <= found.keys()) == ("-0.5", True)
    if ending != "csv":
        run_likelihood(out, "--seed", "2", "--tolerance", "draft", "--out", str(once_more))
        again = {"score_seed": "2", "score_tolerance": str(rtol("draft"))}
        assert items_of(once_more) == found | again | {"file": out}


@pytest.mark.parametrize("ending", ["xyz", "sdf", "csv"])
def test_every_fact_stands_once_in_a_scored_file(run_likelihood, ending: str) -> None:
    Path("water.xyz").write_text(WATER)
    run_likelihood("water.xyz", "--out", f"scored.{ending}")
    found = items_of(Path(f"scored.{ending}"))
    assert "std_error" not in found  # it is nll_std_error, which the fake engine does not know
    assert {"bonds", "bond_method"} & found.keys() == {"bond_method" if ending == "sdf" else "bonds"}
    assert (found["valid"], found["stable"]) == ("True", "True")


@pytest.mark.parametrize("ending", ["xyz", "sdf", "csv"])
def test_a_structure_that_was_not_sampled_gets_no_seed(run_likelihood, ending: str) -> None:
    Path("water.xyz").write_text(WATER)
    run_likelihood("water.xyz", "--seed", "1", "--out", f"scored.{ending}")
    found = items_of(Path(f"scored.{ending}"))
    assert not found.keys() & {"seed", "index", "model", "sha256", "tolerance", "nfe"}
    assert (found["score_seed"], found["score_index"]) == ("1", "0")


@pytest.mark.parametrize("ending", ["xyz", "sdf", "csv"])
def test_what_is_computed_is_not_what_a_file_says(run_likelihood, ending: str) -> None:
    said = 'valid=F formula="XX" n_atoms=77 smiles="C" stable=F model="other" percentile=9 std_error=8 bond_status="no"'
    Path("w.xyz").write_text(WATER.replace("water", f"Properties=species:S:1:pos:R:3 {said}"))
    run_likelihood("w.xyz", "--out", f"scored.{ending}")
    found = items_of(Path(f"scored.{ending}"))
    computed = {"valid": "True", "formula": "H2O", "n_atoms": "3", "smiles": "O", "stable": "True"}
    assert (computed | {"model": "other"}).items() <= found.items()
    assert not found.get("percentile")  # the card of the fake model has no held-out molecules
    assert found.get("std_error") != "8"
    assert found.get("bond_status") != "no"


def test_coordinates_have_six_decimals(run_likelihood) -> None:
    Path("long.xyz").write_text("1\n\nC 0.12345678 1.0 -2.00000049\n")
    _, out = run_likelihood("long.xyz", "--out", "-")
    assert out.splitlines()[2].split() == ["C", "0.123457", "1.0", "-2.0"]


NAMED = METHANE + "1\nchloride\nCl 0 0 0\n" + WATER


def test_a_structure_without_a_score_keeps_its_name_in_a_table_and_in_json(run_likelihood) -> None:
    Path("three.xyz").write_text("1\nxenon\nXe 0 0 0\n" + NAMED)
    run_likelihood("three.xyz", "--out", "scores.csv")
    rows = list(csv.DictReader(io.StringIO(Path("scores.csv").read_text(), newline="")))
    assert [each["name"] for each in rows] == ["xenon", "methane", "chloride", "water"]
    assert [(each["file"], each["score_index"]) for each in rows] == [("three.xyz", str(i)) for i in range(4)]
    assert [each["nll"] for each in rows] == ["", "-0.5", "", "-0.5"]
    assert [each["error"].split(",")[0] for each in rows] == ["found Xe as atom 1", "", "found Cl as atom 1", ""]
    assert (list(rows[0])[:2], list(rows[0])[-1]) == (["name", "formula"], "error")
    _, out = run_likelihood("three.xyz", "--json")
    assert [each["name"] for each in json.loads(out)["results"]] == ["xenon", "methane", "chloride", "water"]


def test_a_table_of_failures_alone_has_their_reasons(run_likelihood) -> None:
    code, _ = run_likelihood("missing.xyz", "--out", "scores.csv")
    (row,) = csv.DictReader(io.StringIO(Path("scores.csv").read_text(), newline=""))
    reason = "cannot read missing.xyz: No such file or directory"
    assert (code, row) == (1, {"file": "missing.xyz", "score_index": "0", "error": reason})


def test_the_table_on_the_screen_has_a_column_of_names_where_there_are_some(run_likelihood) -> None:
    Path("three.xyz").write_text(NAMED)
    _, out = run_likelihood("three.xyz")
    head, *lines = out.splitlines()
    assert head.split()[-2:] == ["name", "file"]
    assert [line.split()[-2:] for line in lines] == [[name, "three.xyz"] for name in ("methane", "chloride", "water")]
    assert {lines[i].index("three.xyz") for i in (0, 2)} == {head.index("file")}
    Path("unnamed.xyz").write_text(WATER.replace("water", ""))
    assert run_likelihood("unnamed.xyz")[1].splitlines()[0].split()[-2:] == ["percentile", "file"]


@pytest.mark.parametrize("out", ["scored.xyz", "scored.sdf", "scored.html", "-"])
def test_it_says_how_many_structures_a_file_of_molecules_lacks(
    fake_model: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    Path("three.xyz").write_text(NAMED)
    monkeypatch.setattr(sys, "argv", ["enflow", "likelihood", "three.xyz", "missing.xyz", "--out", out])
    with pytest.raises(SystemExit):
        main()
    where = "the output" if out == "-" else out
    said = f"enflow: {where} lacks 2 of 4 structures, which could not be scored; the first, number 2: found Cl as atom"
    assert said in capsys.readouterr().err
