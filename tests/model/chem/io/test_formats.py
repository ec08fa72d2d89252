"""Reading and writing through the common functions, for every format."""

import json
import tracemalloc

import numpy as np
import pytest

from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.io.formats import FORMATS, read, sniff, write
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError

WATER = Molecule(
    [8, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], "water", {"nll": -12.5, "seed": 3}
)
METHYL = Molecule([6, 1, 1, 1], [[0.0, 0.0, 0.0], [1.09, 0.0, 0.0], [-0.55, 0.94, 0.0], [-0.55, -0.94, 0.0]])
MOLECULES = [WATER, METHYL]
BONDS = [infer_bonds(molecule) for molecule in MOLECULES]


@pytest.mark.parametrize("form", ["xyz", "sdf"])
def test_what_is_written_is_recognised_and_read(form: str) -> None:
    text = write(MOLECULES, BONDS, form)  # type: ignore[arg-type]
    assert sniff(text) == sniff(text.encode()) == sniff("\ufeff" + text) == sniff(("\ufeff" + text).encode()) == form
    assert read(text) == read(text, form) == MOLECULES


@pytest.mark.parametrize("data", ["hello", "<html>", '{"a": 1}', "CCO", b"\x89PNG\r\n\x1a\n", "1 2 3\n", b"PK\x03\x04"])
def test_what_is_no_structure_file_is_not_guessed(data: str | bytes) -> None:
    assert sniff(data) is None
    with pytest.raises(StructureError, match="found no known format, expected XYZ or SDF"):
        read(data)
    with pytest.raises(StructureError, match="found no known format, expected XYZ or SDF"):
        read(data, "pdb")


def test_json_tells_of_every_molecule() -> None:
    entries = json.loads(write(MOLECULES, BONDS, "json"))["molecules"]
    water, methyl = entries
    assert (water["index"], water["formula"], water["n_atoms"], water["smiles"]) == (0, "H2O", 3, "O")
    assert (water["nll"], water["seed"]) == (-12.5, 3)
    assert read(water["xyz"]) == read(water["sdf"]) == [WATER]
    assert water["bonds"] == {"status": "ok", "method": BONDS[0].method, "reason": None}
    assert (methyl["smiles"], methyl["sdf"]) == (None, None)
    assert methyl["bonds"] == {"status": "failed", "method": None, "reason": BONDS[1].reason}


def test_json_is_json_whatever_the_properties() -> None:
    odd = Molecule([1], [[0, 0, 0]], properties={"nll": np.float32(0.5), "n": np.int64(2), "diverged": float("nan")})
    (entry,) = json.loads(write([odd], [infer_bonds(odd)], "json"), parse_constant=pytest.fail)["molecules"]
    assert (entry["nll"], entry["n"], entry["diverged"]) == (0.5, 2, None)


def test_the_name_of_a_molecule_is_not_an_item_of_its_file() -> None:
    named = [WATER.with_properties(name="ice")]
    (again,) = read(write(named, BONDS[:1], "xyz"))
    assert isinstance(again, Molecule)
    assert again.name == "water"
    assert json.loads(write(named, BONDS[:1], "json"))["molecules"][0]["name"] == "water"


def test_bonds_of_a_gallery_are_not_those_of_a_file() -> None:
    text = write([WATER.with_properties(SMILES="CCO", bonds="by hand")], BONDS[:1], "html")
    assert "<dt>SMILES</dt><dd>O</dd>" in text
    assert "CCO" not in text
    assert "by hand" not in text


def test_every_format_has_a_writer() -> None:
    assert FORMATS == ("xyz", "sdf", "json", "html", "csv")
    assert all(write(MOLECULES, BONDS, form) for form in FORMATS)


CLAIMS = {
    "xyz": "100000000\n\nC 0 0 0\n",
    "sdf": "\n\n\n999999  0  0  0  0  0  0  0  0  0999 V2000\n    0.0000    0.0000    0.0000 C   0  0\nM  END\n",
    "v3000": "\n\n\n  0  0  0  0  0  0  0  0  0  0999 V3000\nM  V30 COUNTS 100000000 0 0 0 0\nM  END\n",
    "long": "1\n\nC 0 0 0" + 4_000_000 * " " + "\n",
    "digits": 1_000_000 * "9" + "\n\nC 0 0 0\n",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_file_takes_no_more_memory_than_it_has_bytes(claim: str) -> None:
    """RDKit took 3.1 GB for the first of these."""
    text = CLAIMS[claim]
    read(text, "xyz" if claim in ("xyz", "long", "digits") else "sdf")  # whatever is made once is made now
    tracemalloc.start()
    (found,) = read(text, "xyz" if claim in ("xyz", "long", "digits") else "sdf")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found, StructureError)
    assert peak < 100_000 + 6 * len(text)
