"""Files in the style of ASE, Open Babel, xtb, ORCA and CREST: they are read as meant, or the refusal says why."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.io.formats import format_by_ending, read, sniff, write
from enflow.model.chem.io.text import ReadLimits
from enflow.model.chem.io.xyz import write_xyz
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError

ATOMS = "O 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
WATER = Molecule([8, 1, 1], [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])
LAYOUT = "Properties=species:S:1:pos:R:3"


def molecules(data: str | bytes, form: str | None = None) -> list[Molecule]:
    found = read(data, form)
    assert all(isinstance(each, Molecule) for each in found), found
    return [each for each in found if isinstance(each, Molecule)]


def refusal(data: str | bytes, form: str | None = None) -> StructureError:
    (found,) = read(data, form)
    assert isinstance(found, StructureError)
    return found


@pytest.mark.parametrize(
    ("comment", "properties"),
    [
        ('"total energy"=-76.4 pbc="F F F"', {"total energy": -76.4, "pbc": "F F F"}),
        ("smiles=[CH3]O energy=-1.5", {"smiles": "[CH3]O", "energy": -1.5}),
        ("label=5'-AMP it's", {"label": "5'-AMP", "it's": True}),
        ('note="never closed', {"note": '"never', "closed": True}),
        ('"never closed energy=1', {"closed": True, "energy": 1, "comment": '"never'}),
        ("a={1 2 {3}} b=[1 [2 3]]", {"a": "{1", "2": True, "b": "[1"}),
        ("hessian=" + 40_000 * "x", {"hessian": 40_000 * "x"}),
        ("energy= -76.4 = 5 empty=", {"energy": -76.4, "5": True, "comment": "=", "empty": ""}),
        ('note= energy=-1.5 x= "total energy"=2 y= pbc="T T F"', {"note": "", "energy": -1.5, "x": "", "y": ""}),
        ("method=r2SCAN-3c/def2 charge=0 mult=1 T", {"method": "r2SCAN-3c/def2", "charge": 0, "mult": 1, "T": True}),
    ],
)
def test_what_is_not_understood_in_a_comment_is_kept(comment: str, properties: dict[str, object]) -> None:
    (water,) = molecules(f"3\n{LAYOUT} {comment}\n{ATOMS}")
    assert water == WATER
    assert water.properties.items() >= properties.items()


@pytest.mark.parametrize(
    "comment",
    [
        "Properties= of water at 298 K",
        "see Properties=unknown below",
        " energy: -5.070544 gnorm: 0.000418 xtb: 6.6.1 (8d0f1dd)",  # xtb
        "        -5.07054428",  # CREST
        "Coordinates from ORCA-job scan E -76.323512934",  # ORCA
        "i =       12, time =        6.000, E =       -17.1643447508",  # CP2K
        "Step 1 'unbalanced \"quotes",
        30_000 * "a",
    ],
)
def test_prose_is_the_name(comment: str) -> None:
    (water,) = molecules(f"3\n{comment}\n{ATOMS}")
    assert (water, water.name) == (WATER, comment.strip())
    assert molecules(write_xyz([water]))[0].name == comment.strip()


@pytest.mark.parametrize(
    "atoms",
    [
        ATOMS.replace("\n", " OW\n"),
        ATOMS.replace("\n", " # an atom\n"),
        ATOMS.replace("\n", " 0.1 label -0.2\n"),
        ATOMS.replace("O 0", "8 0"),
        ATOMS.replace(" ", "\t"),
    ],
)
def test_text_after_the_coordinates_is_passed_over(atoms: str) -> None:
    assert molecules(f"3\n\n{atoms}") == [WATER]


def test_a_hash_after_announced_columns_is_passed_over() -> None:
    assert molecules(f"3\n{LAYOUT}\n{ATOMS}".replace("0.1173\n", "0.1173 # oxygen\n")) == [WATER]


def test_frames_with_separators_of_orca() -> None:
    frame = f"3\nscan E -76.1\n{ATOMS}"
    assert molecules(f"{frame}>\n{frame}>\n{frame}") == 3 * [WATER]
    assert molecules(f"{frame} >\n\n{frame}>\n") == 2 * [WATER]


def test_crest_conformers_and_a_trajectory_of_xtb() -> None:
    frame = f"  3\n        -5.07054428\n{ATOMS}"
    assert molecules(10 * frame) == 10 * [WATER]


def test_gzip_is_read_within_the_limits() -> None:
    text = f"3\nwater\n{ATOMS}".encode()
    assert molecules(gzip.compress(text)) == [WATER]
    assert molecules(gzip.compress(text) + gzip.compress(text)) == 2 * [WATER]
    bomb = gzip.compress(20_000_000 * b" ")
    with pytest.raises(StructureError, match="found more than 1000000 bytes after decompression"):
        read(bomb, "xyz", ReadLimits(max_bytes=1_000_000))
    for damaged in (gzip.compress(text)[:-6], gzip.compress(text)[:20], b"\x1f\x8b", b"\x1f\x8bnonsense"):
        with pytest.raises(StructureError, match="found damaged gzip data"):
            read(damaged, "xyz")


@pytest.mark.parametrize("end", ["\x1a", "\r\n\x1a", "\r\n" + 5 * "\x1a"])
def test_ctrl_z_at_the_end_is_passed_over(end: str) -> None:
    """Programs for DOS end a text, or fill its last block, with 0x1A; Open Babel and RDKit read such files."""
    for form in ("xyz", "sdf"):
        text = write([WATER], [infer_bonds(WATER)], form).rstrip().replace("\n", "\r\n")  # type: ignore[arg-type]
        assert read(text + end) == read((text + end).encode()) == read(text)
    with pytest.raises(StructureError, match="found an empty file"):
        read("\x1a")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_every_encoding_is_recognised(encoding: str) -> None:
    text = f"3\nwater\n{ATOMS}"
    assert sniff(text.encode(encoding)) == "xyz"
    assert molecules(text.encode(encoding)) == [WATER]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.xyz", "xyz"),
        ("A.XYZ.GZ", "xyz"),
        ("b.extxyz", "xyz"),
        ("b.sdf.gz", "sdf"),
        ("c.mol", "sdf"),
        ("d.smi", "smiles3d"),
        ("e.pdb", None),
        ("gz", None),
    ],
)
def test_the_format_by_the_ending(name: str, form: str | None) -> None:
    assert format_by_ending(name) == form


def test_the_ending_helps_where_the_content_says_nothing() -> None:
    (found,) = read("hello\n", name="hello.xyz")
    assert str(found) == "structure 1, line 1, column 1: found 'hello', expected a number of atoms"
    with pytest.raises(StructureError, match="found no known format"):
        read("hello\n", name="hello.txt")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"3 water dimer part\n\n{ATOMS}", "line 1, column 3: found 'water'"),
        (ATOMS.replace(" 0 ", " 0.0 "), "line 1, column 1: found 'O', expected a number of atoms"),
    ],
)
def test_almost_xyz_is_recognised_and_says_where(text: str, place: str) -> None:
    text = text.replace(" 0 0 ", " 0.0 0.0 ").replace(" 0 ", " 0.0 ")
    assert place in str(refusal(text))


def test_a_wrapped_molecule_is_unwrapped() -> None:
    comment = f'Lattice="10 0 0 0 10 0 0 0 10" {LAYOUT} pbc="T T T"'
    wrapped = "O 9.9 0 0.1173\nH 9.9 0.7572 9.5308\nH 9.9 9.2428 9.5308\n"
    (water,) = molecules(f"3\n{comment}\n{wrapped}")
    np.testing.assert_allclose(water.centred().positions, WATER.centred().positions, atol=1e-9)
    assert water.properties["unwrapped"] is True
    (whole,) = molecules(f"3\n{comment}\n{ATOMS}")
    assert whole == WATER
    assert "unwrapped" not in whole.properties
    (open_cell,) = molecules(f"3\n{comment.replace('T T T', 'F F F')}\n{wrapped}")
    assert "unwrapped" not in open_cell.properties


@pytest.mark.parametrize("seed", range(5))
def test_unwrapping_undoes_wrapping_in_a_skew_cell(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = np.array([[9.0, 0, 0], [2.0, 8.0, 0], [-1.0, 1.5, 10.0]])
    (ethanol,) = read("CCO\n", "smiles3d")
    assert isinstance(ethanol, Molecule)
    moved = ethanol.positions + rng.uniform(0, 10, 3)
    wrapped = (moved @ np.linalg.inv(cell) % 1) @ cell
    lattice = " ".join(str(value) for value in cell.ravel())
    (found,) = molecules(write_xyz([Molecule(ethanol.atomic_numbers, wrapped, properties={"Lattice": lattice})]))
    np.testing.assert_allclose(found.centred().positions, ethanol.centred().positions, atol=1e-6)


def test_a_crystal_is_left_as_it_is() -> None:
    text = f'2\nLattice="0 1.78 1.78 1.78 0 1.78 1.78 1.78 0" {LAYOUT}\nC 0 0 0\nC 0.89 0.89 0.89\n'
    (diamond,) = molecules(text)
    assert "unwrapped" not in diamond.properties


HEADER = "{title}\n  HANDMADE01012500003D\n\n"
MOL = (
    HEADER.format(title="w")
    + """  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1173 O   0  0
    0.0000    0.7572   -0.4692 H   0  0
    0.0000   -0.7572   -0.4692 H   0  0
  1  2  1  0
  1  3  1  0
M  END
"""
)


def test_a_counts_line_without_version() -> None:
    for counts in ("  3  2  0  0  0  0              1", "  3  2", "  3  2  0  0  0  0  0  0  0  0999"):
        text = MOL.replace("  3  2  0  0  0  0  0  0  0  0999 V2000", counts)
        assert sniff(text) == "sdf"
        assert molecules(text) == [WATER]


def test_molfiles_without_separator_are_an_error() -> None:
    found = refusal(MOL + MOL.replace("w\n", "b\n", 1))
    assert (found.line, found.index) == (11, 0)
    assert "found text after 'M  END', expected data items or a line '$$$$'" in found.message
    assert molecules(f"{MOL}$$$$\n{MOL}$$$$\n") == 2 * [WATER]


def test_missing_hydrogens_are_an_error() -> None:
    methanol = HEADER.format(title="polar hydrogens only") + (
        "  3  2  0  0  0  0  0  0  0  0999 V2000\n"
        "   -0.0466    0.6626    0.0000 C   0  0\n"
        "   -0.0466   -0.7560    0.1000 O   0  0\n"
        "    0.8614   -1.0571    0.0000 H   0  0\n"
        "  1  2  1  0\n  2  3  1  0\nM  END\n"
    )
    found = refusal(methanol)
    assert found.line == 4
    assert "found 1 hydrogen atoms where the bonds ask for 4 (3 more at atom 1)" in found.message


@pytest.mark.parametrize("length", [1.5, 0.825, 1.0])
def test_planar_coordinates_with_the_bonds_of_a_drawing_are_an_error(length: float) -> None:
    rows = "".join(f"{x * length:10.4f}{0:10.4f}{0:10.4f} {s}   0  0\n" for s, x in (("O", 0), ("C", 1), ("O", 2)))
    counts = "  3  2  0  0  0  0  0  0  0  0999 V2000\n"
    text = f"drawn\n\n\n{counts}{rows}  1  2  2  0\n  2  3  2  0\nM  END\n"
    if length == 1.0:  # short, but no drawing: 17 % from carbon dioxide
        assert molecules(text)[0].formula == "CO2"
    else:
        assert "found a drawing in two dimensions" in refusal(text).message


def test_data_items_survive() -> None:
    items = "> <ID>\nA-1\n \n> <NOTE>\nfirst\n\nsecond after a blank\n\n>  <SMILES>  (1)\nO\n\n> DT12\n> x\n\n"
    expected = {"ID": "A-1", "NOTE": "first\n\nsecond after a blank", "SMILES": "O", "DT12": "> x"}
    (water,) = molecules(f"{MOL}{items}$$$$\n")
    assert water.name == "w"
    assert water.properties == expected
    bonds = [infer_bonds(water)]
    for form in ("sdf", "xyz"):
        (again,) = molecules(write([water], bonds, form))  # type: ignore[arg-type]
        assert again.name == "w"
        blank = {"NOTE": "first\n \nsecond after a blank", "DT12": " > x"} if form == "sdf" else {}
        assert again.properties.items() >= (expected | blank).items()


@pytest.mark.parametrize("piece", ['a="', "a={", "a=[", "a='", '"', "=", 'a="\\"', "a=[ [ ", "Lattice  ", "'\"{["])
def test_a_comment_of_a_megabyte_is_read(piece: str) -> None:
    """A reader whose time grows with the square of the length would take hours, more than a test may."""
    for comment in ((piece + " ") * (1_000_000 // (len(piece) + 1)), piece * (1_000_000 // len(piece))):
        assert len(read(f"1\n{LAYOUT} {comment}\nH 0 0 0\n", "xyz")) == 1


CASES = Path(os.environ.get("ENFLOW_SHARED", "")) / "cases"
SHARED_CASES = {  # file -> formulas, or a part of the error
    "a01_ase_key_space.extxyz": ["H2O"],
    "a14_ase_wrapped.extxyz": ["H2O"],
    "l01_same_methanol_x8.xyz": 8 * ["CH4O"],
    "l03_water_permuted.xyz": ["H2O"],
    "s02_no_version.sdf": ["H2O"],
    "s04_items.sdf": ["H2O", "CH4O"],
    "s06_polar_h.sdf": ["found 1 hydrogen atoms where the bonds ask for 4"],
    "s08c_2d_methylamine.sdf": ["found 2 hydrogen atoms where the bonds ask for 5"],
    "s25_cat_mol.sdf": ["found text after 'M  END'"],
    "x02_bare_smiles.extxyz": ["CH4O"],
    "x06_orca_allxyz.xyz": 3 * ["H2O"],
    "x08_text_column.xyz": ["H2O"],
    "x09_count_text.xyz": ["line 1, column 3: found 'water'"],
    "x12_no_header.xyz": ["line 1, column 1: found 'O'"],
    "x13_utf16.xyz": ["H2O"],
    "x19_negzero.xyz": ["H2O"],
    "x20_order.extxyz": ["H2O"],
    "x26_long_comment.extxyz": ["H2O"],
    "x30_water.xyz.gz": ["H2O"],
}


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the cases of ENFLOW_SHARED")
@pytest.mark.parametrize("file", SHARED_CASES)
def test_files_of_bug_reports(file: str) -> None:
    found = read((CASES / file).read_bytes())
    for entry, expected in zip(found, SHARED_CASES[file], strict=True):
        assert expected in (entry.formula if isinstance(entry, Molecule) else str(entry))
