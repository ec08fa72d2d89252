"""SDF: counts and atoms are checked by line before RDKit sees a record; a bad record is an error, never None."""

import re

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from enflow.model.chem.bonds import Bonds, infer_bonds
from enflow.model.chem.io.formats import read, sniff
from enflow.model.chem.io.sdf import write_sdf
from enflow.model.chem.io.text import ReadLimits
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError


def conformer(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    return mol


def molecule_of(mol: Chem.Mol, **properties: object) -> Molecule:
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    return Molecule(numbers, mol.GetConformer().GetPositions(), properties=properties)


SMILES = ["CCO", "c1ccccc1", "C[N+](=O)[O-]", "C#N", "[NH3+]CC(=O)[O-]", "OC1CC1F"]
MOLS = {smiles: conformer(smiles) for smiles in SMILES}
ETHANOL = Chem.MolToMolBlock(MOLS["CCO"])
ETHANOL_V3000 = Chem.MolToV3KMolBlock(MOLS["CCO"])


OPEN_BABEL_V2000 = """
 OpenBabel11232621033D

  3  2  0  0  0  0  0  0  0  0999 V2000
    1.1431   -0.0088   -0.0507 C   0  0  0  0  0  0  0  0  0  0  0  0
    2.3031   -0.0088   -0.0507 N   0  0  0  0  0  0  0  0  0  0  0  0
    0.0781   -0.0088   -0.0507 H   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  3  0  0  0  0
  1  3  1  0  0  0  0
M  END
$$$$
"""
OPEN_BABEL_V3000 = """
 OpenBabel11232621033D

  0  0  0     0  0            999 V3000
M  V30 BEGIN CTAB
M  V30 COUNTS 3 2 0 0 0
M  V30 BEGIN ATOM
M  V30 1 C 1.1431 -0.0088 -0.0507 0
M  V30 2 N 2.3031 -0.0088 -0.0507 0
M  V30 3 H 0.0781 -0.0088 -0.0507 0
M  V30 END ATOM
M  V30 BEGIN BOND
M  V30 1 3 1 2
M  V30 2 1 1 3
M  V30 END BOND
M  V30 END CTAB
M  END
$$$$
"""


def error(text: str | bytes, limits: ReadLimits | None = None) -> StructureError:
    (found,) = read(text, "sdf", limits)
    assert isinstance(found, StructureError)
    return found


@pytest.mark.parametrize("smiles", SMILES)
def test_what_rdkit_wrote_is_read(smiles: str) -> None:
    expected = molecule_of(MOLS[smiles])
    for block in (Chem.MolToMolBlock(MOLS[smiles]), Chem.MolToV3KMolBlock(MOLS[smiles])):
        for text in (block, f"{block}$$$$\n", block.replace("\n", "\r\n"), f"\ufeff{block}".encode()):
            (molecule,) = read(text)
            assert isinstance(molecule, Molecule)
            np.testing.assert_array_equal(molecule.atomic_numbers, expected.atomic_numbers)
            np.testing.assert_allclose(molecule.positions, expected.positions, atol=6e-5)


@pytest.mark.parametrize("v3000", [False, True])
def test_round_trip_with_data_items(v3000: bool) -> None:
    molecules = [molecule_of(MOLS[smiles], nll=-80.5, seed=3, note="two\nlines", none=None) for smiles in SMILES]
    bonds = [infer_bonds(molecule) for molecule in molecules]
    text = write_sdf(molecules, bonds, v3000=v3000)
    assert sniff(text) == "sdf"
    supplier = Chem.SDMolSupplier()
    supplier.SetData(text, removeHs=False)
    for smiles, molecule, found, again, seen in zip(SMILES, molecules, bonds, read(text), supplier, strict=True):
        assert isinstance(again, Molecule)
        np.testing.assert_allclose(again.positions, molecule.positions, atol=6e-7 if v3000 else 6e-5)
        assert again.properties == {
            "nll": "-80.5",
            "seed": "3",
            "note": "two\nlines",
            "bond_status": "ok",
            "bond_method": found.method,
            "smiles": found.smiles,
            "rdkit": found.rdkit,
        }
        # RDKit reads from it the molecule that we began with.
        assert Chem.MolToSmiles(Chem.RemoveHs(seen), isomericSmiles=False) == Chem.CanonSmiles(smiles)
        assert seen.GetProp("nll") == "-80.5"


@pytest.mark.parametrize("of_a_file", [False, True])
def test_the_method_of_the_bonds_stands_once(of_a_file: bool) -> None:
    found = infer_bonds(molecule_of(MOLS[SMILES[0]]))
    (again,) = read(write_sdf([molecule_of(MOLS[SMILES[0]], bonds="five" if of_a_file else found.method)], [found]))
    assert isinstance(again, Molecule)
    assert again.properties["bond_method"] == found.method
    assert again.properties.get("bonds") == ("five" if of_a_file else None)


@pytest.mark.parametrize("v3000", [False, True])
def test_the_title_is_the_name_or_says_how_a_molecule_was_generated(v3000: bool) -> None:
    origin = {"model": "qm9", "seed": 3, "index": 0}
    properties = [origin, {"seed": 3, "index": 0}, {**origin, "model": "a\n$$$$"}, {**origin, "model": "m" * 99}]
    methane = molecule_of(MOLS[SMILES[0]])
    molecules = [Molecule(methane.atomic_numbers, methane.positions, " ", each) for each in properties]
    molecules.append(Molecule(methane.atomic_numbers, methane.positions, "methane", origin))
    supplier = Chem.SDMolSupplier()
    supplier.SetData(write_sdf(molecules, [infer_bonds(methane)] * 5, v3000=v3000))
    assert [each.GetProp("_Name") for each in supplier] == ["qm9-3-0", "", "a $$$$-3-0", "m" * 80, "methane"]


def test_a_molecule_without_bonds_is_written_with_the_reason() -> None:
    methylene = Molecule([6, 1, 1], [[0, 0, 0], [1.1, 0, 0], [0, 1.1, 0]])
    bonds = infer_bonds(methylene)
    (again,) = read(write_sdf([methylene], [bonds]))
    assert isinstance(again, Molecule)
    assert again == methylene
    assert again.properties["bond_status"] == "failed"
    assert again.properties["bond_reason"] == bonds.reason


def test_a_value_cannot_end_its_record() -> None:
    spiteful = Molecule(
        [2], [[1, 2, 3]], name="$$$$\n$$$$", properties={"a": "$$$$\n\n>  <b>\nx", "<c>": "M  END\n$$$$"}
    )
    molecules = read(write_sdf([spiteful] * 2, [Bonds("failed", "", reason="none")] * 2))
    assert molecules == [spiteful] * 2
    assert all(
        isinstance(m, Molecule) and set(m.properties) >= {"a", "(c)"} and "b" not in m.properties for m in molecules
    )


def with_counts(counts: str) -> str:
    lines = ETHANOL.split("\n")
    lines[3] = counts + lines[3][6:]
    return "\n".join(lines)


def with_atom(line: str, block: str = ETHANOL, at: int = 4) -> str:
    lines = block.split("\n")
    lines[at] = line
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x", 1, "found 1 lines, expected three header lines and a counts line"),
        (ETHANOL.replace("M  END\n", ""), 21, "found no 'M  END', expected it after the atoms and bonds"),
        ("M  END\n\n\n\n", 4, "found no 'M  END', expected it after the atoms and bonds"),
        (ETHANOL.replace("V2000", "V1000"), 4, "found 'V1000', expected V2000 or V3000"),
        (with_counts("999  8"), 22, "found 'M  END' early, expected 999 atoms and 8 bonds before it"),
        (with_counts("  9999"), 22, "found 'M  END' early, expected 9 atoms and 999 bonds before it"),
        (with_counts("  0  0"), 4, "found '0', expected a number of atoms from 1 to 1000"),
        (with_counts(" -1  0"), 4, "found '-1', expected a number of atoms from 1 to 1000"),
        (with_counts("  x  8"), 4, "found 'x', expected a number of atoms"),
        (with_counts("  8  8"), 4, "found bonds or property lines that RDKit cannot read"),
        (with_atom("    0.0000    0.0000    0.0000 A   0  0"), 5, "found 'A', expected an element"),
        (
            with_atom("    0.0000    0.0000    0.0000 R#  0  0"),
            5,
            "found 'R#', expected an element; write H",
        ),
        (with_atom("    0.0000    0.0000    0.0000 *   0  0"), 5, "found '*', expected an element"),
        (with_atom("    0.0000    0.0000    0.0000 Q   0  0"), 5, "found 'Q', expected an element"),
        (with_atom("       nan    0.0000    0.0000 C   0  0"), 5, "found 'nan', expected a finite number"),
        (with_atom("    0.0000    1,5       0.0000 C   0  0"), 5, "found '1,5', expected a finite number"),
        (with_atom("    0.0000              0.0000 C   0  0"), 5, "found '', expected a finite number"),
        (with_atom(" 12 13  1  0", at=14), 4, "found bonds or property lines that RDKit cannot read"),
        (with_atom("M  V30 1 A 0 0 0 0", ETHANOL_V3000, 7), 8, "found 'A', expected an element"),
        (with_atom("M  V30 1 [C,N] 0 0 0 0", ETHANOL_V3000, 7), 8, "found '[C,N]', expected an element"),
        (with_atom("M  V30 1 C 0 inf 0 0", ETHANOL_V3000, 7), 8, "found 'inf', expected a finite number"),
        (with_atom("M  V30 1 C 0", ETHANOL_V3000, 7), 8, "found 5 words, expected M, V30, index, element, x, y and z"),
        (ETHANOL_V3000.replace("COUNTS 9", "COUNTS 100000000"), 6, "found '100000000', expected a number of atoms"),
        (ETHANOL_V3000.replace("COUNTS 9", "COUNTS 8"), 6, "found '8', expected 9 atoms, as many as the ATOM block"),
        (ETHANOL_V3000.replace("COUNTS 9 8 0 0 0", "COUNTS"), 6, "found '', expected a number of atoms"),
        (ETHANOL_V3000.replace("COUNTS", "COUNT"), 4, "found no COUNTS line, expected it in a V3000 molfile"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, line: int, message: str) -> None:
    found = error(text)
    assert message in str(found)
    assert (found.index, found.line) == (0, line)


def block_of_flat_benzene() -> str:
    angles = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    benzene = Molecule([6] * 6 + [1] * 6, np.concatenate([1.39 * ring, 2.48 * ring]))
    return write_sdf([benzene], [infer_bonds(benzene)])


def test_drawings_and_stripped_hydrogens_are_refused() -> None:
    for smiles, dimensions in (("c1ccccc1", "2D"), ("CCO", "2D"), ("CCO", "3D"), ("CCO", "  ")):
        drawn = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDepictor.Compute2DCoords(drawn)
        block = Chem.MolToMolBlock(drawn).replace("2D", dimensions)
        assert "found a drawing in two dimensions" in error(block).message
    (benzene,) = read(block_of_flat_benzene())
    assert isinstance(benzene, Molecule)
    zero = re.sub(r"(?m)^( *-?\d+\.\d{4}){3}", "    0.0000" * 3, ETHANOL)
    assert "found a drawing in two dimensions" in error(zero).message
    one_place = re.sub(r"(?m)^( *-?\d+\.\d{4}){3}", "    1.0000" * 3, ETHANOL)
    assert "at a distance of 0 angstrom" in error(one_place).message
    stripped = Chem.MolToMolBlock(Chem.RemoveHs(MOLS["CCO"]))
    assert "found no hydrogen atoms where the bonds ask for 6" in error(stripped).message
    carbon_dioxide = Molecule(
        [8, 6, 8], [[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]]
    )  # planar, without hydrogen, and right
    assert read(write_sdf([carbon_dioxide], [infer_bonds(carbon_dioxide)])) == [carbon_dioxide]


def test_one_bad_structure_never_spoils_the_others() -> None:
    good = f"{ETHANOL}$$$$\n"
    bad = [with_counts("900  8"), with_atom("", at=6), "\n\n", "nonsense\n", ETHANOL_V3000.replace("BEGIN", "")]
    molecules = read(good + "".join(f"{text}$$$$\n{good}" for text in bad), "sdf")
    assert [isinstance(m, Molecule) for m in molecules] == [True] + 5 * [False, True]
    assert [m.index for m in molecules if isinstance(m, StructureError)] == [1, 3, 5, 7, 9]


def test_limits_come_first() -> None:
    with pytest.raises(StructureError, match="found more than 2 structures"):
        read(f"{ETHANOL}$$$$\n" * 3, "sdf", ReadLimits(max_records=2))
    assert "expected a number of atoms from 1 to 8" in error(ETHANOL, ReadLimits(max_atoms=8)).message


def test_a_record_of_nothing_but_lines_is_refused() -> None:
    molecules = read("x\n" * 50_001 + f"$$$$\n{ETHANOL}", "sdf")
    assert "found more than 50000 lines" in str(molecules[0])
    assert isinstance(molecules[1], Molecule)


def test_as_open_babel_writes() -> None:
    expected = Molecule([6, 7, 1], [[1.1431, -0.0088, -0.0507], [2.3031, -0.0088, -0.0507], [0.0781, -0.0088, -0.0507]])
    assert read(OPEN_BABEL_V2000 + OPEN_BABEL_V3000) == [expected, expected]


def test_deuterium_is_hydrogen() -> None:
    heavy = ETHANOL.replace(" H   0", " D   0", 1)
    (molecule,) = read(heavy)
    assert isinstance(molecule, Molecule)
    assert molecule.formula == "C2H6O"


def test_control_characters_are_not_written() -> None:
    methanol = molecule_of(conformer("CO"))
    named = Molecule(methanol.atomic_numbers, methanol.positions, "a\x1b[2Jb", {"note\x07": "x\x00\n\x1by"})
    text = write_sdf([named], [infer_bonds(named)])
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    (back,) = read(text, "sdf")
    assert isinstance(back, Molecule)
    assert back.name == "a?[2Jb"
    assert back.properties["note?"] == "x?\n?y"


@pytest.mark.parametrize(
    "atom",
    [
        "M  V30 2 -\nM  V30 N 2.3031 -0.0088 -0.0507 0",
        "M  V30 2 n 2.3031 -\nM  V30 -0.0088 -\nM  V30 -0.0507 0",
        "M  V30 2 N 2.30-\nM  V30 31 -0.0088 -0.0507 0",
        "M  V30 2 -\nM  V30 n 2.3031 -0.0088 -0.0507 0 -\nM  V30 CHG=0",
    ],
)
def test_an_atom_line_of_v3000_goes_on_after_a_hyphen(atom: str) -> None:
    """Anywhere: CTfile formats, "the line is continued"."""
    whole = "M  V30 2 N 2.3031 -0.0088 -0.0507 0"
    assert whole in OPEN_BABEL_V3000
    assert read(OPEN_BABEL_V3000.replace(whole, atom)) == read(OPEN_BABEL_V3000)
    found = error(OPEN_BABEL_V3000.replace(whole, "M  V30 2 -\nM  V30 N 2.3031"))
    assert (found.line, found.message) == (9, "found 5 words, expected M, V30, index, element, x, y and z")


def test_a_data_item_that_stands_twice_is_refused() -> None:
    found = error(f"{ETHANOL}> <ID>\n1\n\n> <ID>\n2\n\n$$$$\n")
    assert found.message == "found a data item 'ID' twice in a record, expected it once"
    assert found.line == ETHANOL.count("\n") + 4
