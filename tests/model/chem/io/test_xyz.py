"""XYZ files of many programs: valid files are read, and the refusal of others says where and why."""

import numpy as np
import pytest

from enflow.model.chem.io.formats import read
from enflow.model.chem.io.text import ReadLimits
from enflow.model.chem.io.xyz import write_xyz
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError

WATER = "3\nwater\nO 0 0 0\nH 0.76 0 0.59\nH -0.76 0 0.59\n"

# dsgdb9nsd_000001.xyz of QM9, whole: an extra charge column, `*^` exponents, frequencies, SMILES, InChI.
RAW_QM9 = (
    "5\n"
    "gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t"
    "-40.476062\t-40.475117\t-40.498597\t6.469\t\n"
    "C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\n"
    "H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921\n"
    "H\t 1.0117308433\t 1.4637511618\t 2.77*^-4\t 0.133922\n"
    "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\n"
    "H\t-0.5238136345\t 1.4379326443\t 9.063972942*^-1\t 0.133923\n"
    "1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078\n"
    "C\tC\t\n"
    "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)


EXTENDED = """3
Properties=id:I:1:pos:R:3:Z:I:1:fixed:L:1:label:S:1 name=water
7 0 0 0 8 T x
8 .76 0 .59 1 F y
9 -.76 0 .59 1 F z
"""

# As ASE writes it.
PERIODIC = """3
Lattice="9 0 0 0 9 0 0 0 9" Properties=pos:R:3:forces:R:3:species:S:1 name="water" energy=-1.5 pbc="F F F"
0 0 0 1 1 1 O
.76 0 .59 1 1 1 H
-.76 0 .59 1 1 1 H
"""


def one(text: str | bytes, limits: ReadLimits | None = None) -> Molecule:
    (molecule,) = read(text, "xyz", limits)
    assert isinstance(molecule, Molecule), molecule
    return molecule


def error(text: str | bytes, limits: ReadLimits | None = None) -> StructureError:
    (found,) = read(text, "xyz", limits)
    assert isinstance(found, StructureError)
    return found


def test_plain() -> None:
    water = one(WATER)
    assert (water.formula, water.name) == ("H2O", "water")
    np.testing.assert_array_equal(water.positions, [[0, 0, 0], [0.76, 0, 0.59], [-0.76, 0, 0.59]])


def test_raw_qm9() -> None:
    methane, again = read(2 * RAW_QM9)
    assert methane == again
    assert isinstance(methane, Molecule)
    assert methane.formula == "CH4"
    assert methane.positions[3, 2] == -0.8766437152
    assert methane.positions[2, 2] == 2.77e-4
    assert methane.positions[4, 2] == 0.9063972942
    assert methane.properties == {"smiles": "C", "inchi": "InChI=1S/CH4/h1H4"}
    assert methane.name.startswith("gdb 1\t157.7118")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + WATER,
        ("\ufeff" + WATER).encode(),
        WATER.encode("utf-16"),
        WATER.replace("\n", "\r\n"),
        WATER.replace("\n", "\r"),
        WATER.rstrip("\n"),
        "\n\n" + WATER + "\n \t\n",
        WATER.replace(" ", "\t"),
        WATER.replace(" ", "   "),
        WATER.replace("0.76", "7.6D-1").replace("0.59", ".59d0"),
        WATER.replace("0.76", "76*^-2").replace("0.59", "0.059E+1"),
        WATER.replace("O ", "8 ").replace("H ", "1 "),
        WATER.replace("O ", "o ").replace("H ", "h "),
        WATER.replace("H 0", "D 0").replace("H -", "T -"),
        WATER.replace("0.59\n", "0.59 0.1 -0.2 3e-1\n"),
        WATER.replace("3\n", " +3  \n", 1),
        WATER.replace("water", "Properties=species:S:1:pos:R:3 name=water"),
        EXTENDED,
        PERIODIC,
    ],
)
def test_one_molecule_written_in_many_ways(text: str | bytes) -> None:
    assert one(text) == one(WATER)


def test_comment_in_another_code_page() -> None:
    assert one(WATER.replace("water", "2.5 \xc5").encode("latin-1")).name == "2.5 \xc5"


def test_comment_of_extended_xyz() -> None:
    molecule = one(
        "1\nProperties=species:S:1:pos:R:3 energy=-1.5e3 step=12 ok=T frozen single='x y' "
        'quoted="a \\"b\\" \\\\ \\n" braces={1 2} brackets=[3,4] name="the name" empty=""\nH 0 0 0\n'
    )
    assert molecule.name == "the name"
    assert molecule.properties == {
        "energy": -1500.0,
        "step": 12,
        "ok": True,
        "frozen": True,
        "quoted": 'a "b" \\ \n',
        "single": "x y",
        "braces": "1 2",
        "brackets": "3,4",
        "empty": "",
    }


def test_multi_frame_with_blank_lines_between() -> None:
    molecules = read(f"{WATER}{WATER}\n\n{RAW_QM9}\n{WATER}")
    assert [m.formula for m in molecules if isinstance(m, Molecule)] == ["H2O", "H2O", "CH4", "H2O"]


ATOM = "1\n\n"


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("1,5\n\nH 0 0 0\n", 1, 1, "found '1,5', expected a number of atoms"),
        ("1.0\n\nH 0 0 0\n", 1, 1, "found '1.0', expected a number of atoms"),
        ("-1\n\nH 0 0 0\n", 1, 1, "found '-1', expected a number of atoms from 1 to 1000"),
        ("0\n\n", 1, 1, "found '0', expected a number of atoms from 1 to 1000"),
        ("1_0\n\nH 0 0 0\n", 1, 1, "found '1_0', expected a number of atoms"),
        ("\u0661\n\nH 0 0 0\n", 1, 1, "found '\\u0661', expected a number of atoms"),
        ("100000000\n", 1, 1, "found '100000000', expected a number of atoms from 1 to 1000"),
        ("9" * 5000 + "\n", 1, 1, "found '9999999999999999…', expected a number of atoms"),
        ("1 atom\n\nH 0 0 0\n", 1, 3, "found 'atom', expected nothing after the number of atoms"),
        ("no xyz at all", 1, 1, "found 'no', expected a number of atoms"),
        ("1", 1, None, "found the end of the file, expected a comment line and 1 atoms"),
        ("2\n\nH 0 0 0\n", 1, None, "found the end of the file, expected atom 2 of 2"),
        ("2\n\nH 0 0 0\n\n", 4, None, "found 0 columns, expected element, x, y and z of atom 2 of 2"),
        (ATOM + "H 0 0\n", 3, None, "found 3 columns, expected element, x, y and z of atom 1 of 1"),
        (ATOM + "H 0 0 0\nH 0 0 1\n", 4, None, "found a line after the 1 atoms announced"),
        (ATOM + "H 1,5 0 0\n", 3, 3, "found '1,5', expected a finite number with a decimal point"),
        (ATOM + "H 0 NaN 0\n", 3, 5, "found 'NaN', expected a finite number"),
        (ATOM + "H 0 -inf 0\n", 3, 5, "found '-inf', expected a finite number"),
        (ATOM + "H 0 0 1e999\n", 3, 7, "found '1e999', expected a finite number within 1e+06 angstrom"),
        (ATOM + "H 0 0 ******\n", 3, 7, "found '******', expected a finite number"),
        (ATOM + "H 0 0 0x10\n", 3, 7, "found '0x10', expected a finite number"),
        (ATOM + "H 0 0 \u22121\n", 3, 7, "found '\\u22121', expected a finite number"),
        (ATOM + "Xx 0 0 0\n", 3, 1, "found 'Xx', expected an element"),
        (ATOM + "C1 0 0 0\n", 3, 1, "found 'C1', expected an element"),
        (ATOM + "0 0 0 0\n", 3, 1, "found '0', expected an element symbol or an atomic number from 1 to 118"),
        (ATOM + "119 0 0 0\n", 3, 1, "found '119', expected an element symbol or an atomic number from 1 to 118"),
        (ATOM + "H\u00a00 0 0\n", 3, None, "found 3 columns, expected element, x, y and z of atom 1 of 1"),
        ("2\n\nH 0 0 0\nH 0 0 0.05\n", 1, None, "found atoms 1 and 2 at a distance of 0.05 angstrom"),
        ("1\nProperties=species:S:1\nH 0 0 0\n", 2, 1, "expected species:S:1 (or Z:I:1) and pos:R:3 in Properties"),
        ("1\na Properties=species:S:pos\nH 0 0 0\n", 2, 3, "expected Properties=name:kind:count:..."),
        ("1\nProperties=species:Q:1:pos:R:3\nH 0 0 0\n", 2, 1, "expected the kinds S, R, I and L in Properties"),
        ("1\nProperties=species:S:1:pos:R:99999\nH 0 0 0\n", 2, 1, "expected Properties=name:kind:count:..."),
        ("1\nProperties=species:S:1:pos:R:3\nH 0 0 0 1\n", 3, 9, "found '1', expected 4 columns as Properties says"),
        ("1\nProperties=species:S:1:pos:R:3:ok:L:1\nH 0 0 0 1\n", 3, 9, "found '1', expected T or F"),
        ("1\nProperties=species:S:1:pos:R:3:n:I:1\nH 0 0 0 1.5\n", 3, 9, "found '1.5', expected an integer"),
        (RAW_QM9.replace("1341.307", "1341,307"), 8, 1, "found '1341,307', expected a finite number"),
        (RAW_QM9[: RAW_QM9.index("C\tC\t")], 1, None, "found no SMILES, expected it after the frequencies"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, line: int, column: int | None, message: str) -> None:
    found = error(text)
    assert message in str(found)
    assert (found.index, found.line, found.column) == (0, line, column)


@pytest.mark.parametrize("text", ["", b"", "\ufeff", " \r\n\t\n", b"\xff\xfe"])
def test_an_empty_file_is_an_error(text: str | bytes) -> None:
    with pytest.raises(StructureError, match="found an empty file, expected at least one structure"):
        read(text, "xyz")


def test_one_bad_structure_never_spoils_the_others() -> None:
    bad = [
        "3\n\nO 0 0 0\nH 0 0 1,0\nH 0 1 0\n",
        "9\n\nO 0 0 0\n",
        "500000000\nx\nO 0 0 0\n",
        "1\n\nH 0 0 0\nH 0 0 1\nH 0 1 0\n",
    ]
    molecules = read("".join(text + WATER for text in bad), "xyz")
    assert [isinstance(m, Molecule) for m in molecules] == 4 * [False, True]
    assert [m.index for m in molecules if isinstance(m, StructureError)] == [0, 2, 4, 6]
    assert all(m == one(WATER) for m in molecules[1::2])


def test_limits_come_first() -> None:
    limits = ReadLimits(max_bytes=200, max_records=3, max_atoms=3)
    assert len(read(3 * WATER, "xyz", limits)) == 3
    with pytest.raises(StructureError, match="line 16: found more than 3 structures"):
        read(4 * WATER, "xyz", limits)
    with pytest.raises(StructureError, match="found 201 bytes, expected at most 200"):
        read(b"9" * 201, "xyz", limits)
    assert "expected a number of atoms from 1 to 3" in error(RAW_QM9[:100], limits).message


def test_a_line_of_a_megabyte_is_refused_before_it_is_split() -> None:
    for text in ("1\n\nC 0 0 0" + " 1" * 500_000, "1" + " 1" * 500_000):
        assert "characters, expected at most 20000" in error(text).message


def test_an_upload_is_never_echoed() -> None:
    secret = "<script>alert(1)</script>" * 10
    for text in (
        secret,
        f"1\n\n{secret} 0 0 0",
        f"1\n\nH {secret} 0 0",
        f"1\nProperties=species:S:1:{secret}\nH 0 0 0",
    ):
        assert len(error(text).message) < 120
        assert "<script>alert(1)</script>" not in error(text).message
    assert "\udc80" not in str(error("1\n\nH 0 \udc80 0"))


def test_round_trip_keeps_every_digit_and_the_provenance() -> None:
    rng = np.random.default_rng(5)
    properties = {
        "seed": 7,
        "nll": -85.25,
        "tiny": 1e-300,
        "valid": True,
        "stable": False,
        "model": 'qm9 "v1" = C:\\weights\n',
        "number_in_text": "12",
    }
    molecules = [
        Molecule(rng.integers(1, 119, n), 3.0 * rng.normal(size=(n, 3)), name=f"molecule {n}", properties=properties)
        for n in (1, 2, 29)
    ]
    again = read(write_xyz(molecules))
    assert again == molecules
    assert [m.properties for m in again if isinstance(m, Molecule)] == 3 * [properties]
    assert [m.name for m in again if isinstance(m, Molecule)] == ["molecule 1", "molecule 2", "molecule 29"]


def test_properties_of_other_types_are_written_as_what_they_are() -> None:
    molecule = Molecule(
        [1], [[0, 0, 0]], properties={"n": np.int64(3), "x": np.float32(0.5), "none": None, "list": [1, 2]}
    )
    assert one(write_xyz([molecule])).properties == {"n": 3, "x": 0.5, "list": "[1, 2]"}


def test_control_characters_are_not_written() -> None:
    molecule = Molecule([1], [[0, 0, 0]], "a\x1b[2Jb\u2028\x85c", {"note\x07": "x\x00\ty", "lines": "1\n2"})
    text = write_xyz([molecule])
    assert len(text.splitlines()) == 3
    assert all(sign.isprintable() or sign in "\n\t" for sign in text)
    back = one(text)
    assert (back.name, back.properties) == ("a?[2Jb??c", {"note?": "x?\ty", "lines": "1\n2"})


def test_properties_of_any_name_are_written_and_read_back() -> None:
    properties = {"a b": 1, 'with "quotes" \\ ': "x", "=": "y", "5'": "z", "Lattice": "no cell", "Ångström": 2.5}
    assert one(write_xyz([Molecule([1], [[0, 0, 0]], properties=properties)])).properties == properties
    layout = Molecule([1], [[0, 0, 0]], properties={"Properties": "species:S:1"})
    assert one(write_xyz([layout])).properties == {"Properties_": "species:S:1"}
