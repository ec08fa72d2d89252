"""A grammar of XYZ and SDF: well-formed files are read as meant, others give errors with a place.

ENFLOW_FUZZ sets the number of examples of each test; `make fuzz` raises it to thousands.
"""

import os
import random
import re

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enflow.model.chem.elements import SYMBOLS
from enflow.model.chem.io.formats import read, sniff
from enflow.model.chem.io.text import ReadLimits
from enflow.model.chem.io.xyz import write_xyz
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError
from tests.memory import resident
from tests.model.chem.io.test_xyz import EXTENDED, RAW_QM9

EXAMPLES = int(os.environ.get("ENFLOW_FUZZ", "30"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="ENFLOW_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
LIMITS = ReadLimits(max_bytes=20_000, max_records=50, max_atoms=40)

# Well-formed XYZ: the same atoms, written as programs write them.

ends = st.sampled_from(["\n", "\r\n", "\r"])
gaps = st.sampled_from([" ", "\t", "   ", " \t "])
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)


@st.composite
def molecules(draw: st.DrawFn) -> Molecule:
    numbers = draw(st.lists(st.integers(1, 118), min_size=1, max_size=6))
    # One angstrom apart along x, so that no two meet.
    steps = draw(st.lists(st.floats(-50, 50), min_size=2 * len(numbers), max_size=2 * len(numbers)))
    along = np.arange(len(numbers)) * 1.0 - draw(st.floats(-10, 10))
    return Molecule(numbers, np.column_stack([along, np.reshape(steps, (-1, 2))]))


def spelled(value: float, how: str) -> str:
    digits = repr(float(value))
    if how == "plain":
        return digits
    mantissa, _, exponent = digits.partition("e")
    return f"{mantissa}{how}{exponent or '+00'}"


@st.composite
def frames(draw: st.DrawFn, molecule: Molecule, end: str) -> str:
    gap, how = draw(gaps), draw(st.sampled_from(["plain", "e", "E", "D", "d", "*^"]))
    names = draw(st.sampled_from([str, lambda z: SYMBOLS[z - 1], lambda z: SYMBOLS[z - 1].lower()]))
    atoms = [
        [names(int(z)), *(spelled(value, how) for value in position)]
        for z, position in zip(molecule.atomic_numbers, molecule.positions.tolist(), strict=True)
    ]
    comment = draw(texts.filter(lambda text: "Properties=" not in text and not text.startswith("gdb ")))
    extra = draw(st.sampled_from(["none", "plain", "first", "last"]))
    if extra == "plain":
        atoms = [[*atom, "0.5", "-1"] for atom in atoms]
    elif extra != "none":
        species = "Z:I:1" if names is str else "species:S:1"
        columns = [species, "pos:R:3", "tag:I:1", "fixed:L:1"]
        comment = f"Properties={':'.join(columns if extra == 'last' else columns[2:] + columns[:2])} energy=1"
        atoms = [[*atom, "7", "T"] if extra == "last" else ["7", "T", *atom] for atom in atoms]
    blank = draw(st.sampled_from(["", end, f" \t{end}{end}"]))
    return end.join([f"{gap}{molecule.n_atoms}", comment, *(gap.join(atom) + gap for atom in atoms), ""]) + blank


@fuzz
@given(st.data())
def test_well_formed_xyz_is_read_as_meant(data: st.DataObject) -> None:
    expected = data.draw(st.lists(molecules(), min_size=1, max_size=3))
    end = data.draw(ends)
    text = data.draw(st.sampled_from(["", "\ufeff"])) + "".join(data.draw(frames(m, end)) for m in expected)
    assert read(text.encode(), "xyz") == expected


texts_of_xyz = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=20)
"""Texts without control characters, which are written as `?`."""


@fuzz
@given(
    molecules(),
    texts_of_xyz,
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True).filter(
            lambda key: key not in ("Properties", "name")
        ),
        st.booleans()
        | st.integers(-(10**15), 10**15)
        | st.floats(allow_nan=False, allow_infinity=False)
        | texts_of_xyz,
        max_size=4,
    ),
)
def test_written_xyz_is_read_back_whole(molecule: Molecule, name: str, properties: dict[str, object]) -> None:
    given_ = Molecule(molecule.atomic_numbers, molecule.positions, name, properties)
    (again,) = read(write_xyz([given_]), "xyz")
    assert again == given_
    assert isinstance(again, Molecule)
    assert (again.name, again.properties) == (name, properties)


# Ill-formed files: every token may be anything.

numbers_like = st.sampled_from(
    "0 1 2 40 41 -1 +2 100000000 1e3 1,5 1.5 .5 5. -.5 1D-3 2*^-6 1e999 -1e-999 nan inf 0x1 1_0 * \u0663 1.2.3".split()
)
words = st.sampled_from(
    "C H O N F D T X * R# A Xx c1 6 0 119 Properties=species:S:1:pos:R:3 $$$$ M END V2000 a=b".split()
)
token = numbers_like | words | st.text(max_size=6)
line = st.lists(token, max_size=6).map(" ".join) | texts
wild_xyz = st.lists(line | numbers_like, max_size=14).map("\n".join)


def check(outcome: list[Molecule | StructureError], text: str) -> None:
    n_lines = len(re.split(r"\r\n|\r|\n", text))
    assert 0 < len(outcome) <= LIMITS.max_records
    for index, entry in enumerate(outcome):
        if isinstance(entry, StructureError):
            assert entry.index == index
            assert entry.line is not None
            assert 1 <= entry.line <= n_lines
            assert len(entry.message) < 200
            assert entry.message.isascii() or "…" in entry.message
        else:
            assert entry.n_atoms <= LIMITS.max_atoms
            assert np.isfinite(entry.positions).all()


def attempt(text: str | bytes, form: str | None) -> list[Molecule | StructureError]:
    try:
        return read(text, form, LIMITS)
    except StructureError:  # the file as a whole
        return []


@fuzz
@given(wild_xyz)
def test_any_xyz_is_answered(text: str) -> None:
    if outcome := attempt(text, "xyz"):
        check(outcome, text.removeprefix("\ufeff"))


@fuzz
@given(st.binary(max_size=400), st.sampled_from(["xyz", "sdf", None]))
def test_any_bytes_are_answered(data: bytes, form: str | None) -> None:
    attempt(data, form)
    sniff(data)


@fuzz
@given(st.data())
def test_a_bad_record_leaves_its_neighbours(data: st.DataObject) -> None:
    first, second = data.draw(molecules()), data.draw(molecules())
    inner = data.draw(st.lists(token.filter(lambda t: not re.fullmatch(r"\s*[+-]?\d+\s*", t, re.ASCII)), max_size=4))
    bad = "\n".join(["2", "", "C 0 0 0", " ".join(["nonsense", *(re.sub(r"[\r\n]", " ", word) for word in inner)]), ""])
    outcome = read(write_xyz([first]) + bad + write_xyz([second]), "xyz", LIMITS)
    assert (outcome[0], outcome[-1]) == (first, second)
    assert isinstance(outcome[1], StructureError)


# SDF: a sound V2000 and V3000 record, lines of which are replaced, removed and repeated.

V2000 = """methanol
     Enflow          3D

  6  5  0  0  0  0  0  0  0  0999 V2000
   -0.3618   -0.0095    0.0080 C   0  0
    0.9131    0.6121    0.0113 O   0  0
   -0.9214    0.3205    0.8850 H   0  0
   -0.8826    0.3221   -0.8921 H   0  0
   -0.2581   -1.0953    0.0139 H   0  0
    1.5107   -0.1498   -0.0261 H   0  0
  1  2  1  0
  1  3  1  0
  1  4  1  0
  1  5  1  0
  2  6  1  0
M  CHG  1   1   0
M  END
>  <nll>
-80.5

$$$$"""
V3000 = """methanol
     Enflow          3D

  0  0  0  0  0  0  0  0  0  0999 V3000
M  V30 BEGIN CTAB
M  V30 COUNTS 3 2 0 0 0
M  V30 BEGIN ATOM
M  V30 1 O 0 0 0.1 0
M  V30 2 H 0 0.76 -0.48 0 CHG=0
M  V30 3 H 0 -0.76 -0.48 -
M  V30 0
M  V30 END ATOM
M  V30 BEGIN BOND
M  V30 1 1 1 2
M  V30 2 1 1 3
M  V30 END BOND
M  V30 END CTAB
M  END
$$$$"""
sdf_line = line | st.sampled_from(
    [*V2000.split("\n"), *V3000.split("\n"), "999999  0  0  0  0  0  0  0  0  0999 V2000"]
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    lines = draw(st.sampled_from([V2000, V3000])).split("\n")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        how = draw(st.sampled_from(["replace", "remove", "repeat", "word", "character"]))
        if how == "replace":
            lines[at] = draw(sdf_line)
        elif how == "remove":
            del lines[at]
        elif how == "repeat":
            lines[at:at] = lines[at : at + draw(st.integers(1, 3))]
        elif how == "word" and lines[at].split():
            word = draw(st.sampled_from(lines[at].split()))
            lines[at] = lines[at].replace(word, draw(token), 1)
        elif lines[at]:
            place = draw(st.integers(0, len(lines[at]) - 1))
            lines[at] = lines[at][:place] + draw(st.characters(codec="utf-8")) + lines[at][place + 1 :]
        lines = lines or [""]
    return "\n".join(lines)


@fuzz
@given(st.lists(damaged(), min_size=1, max_size=3), ends)
def test_any_sdf_is_answered(records: list[str], end: str) -> None:
    text = "\n".join(records).replace("\n", end)
    if outcome := attempt(text, "sdf"):
        check(outcome, text)


@fuzz
@given(damaged())
def test_a_bad_sdf_record_leaves_its_neighbours(bad: str) -> None:
    body = re.sub(r"[$]{4}", "....", bad)
    outcome = read(f"{V2000}\n{body}\n$$$$\n{V3000}\n", "sdf", LIMITS)
    assert len(outcome) == 3
    first, _, last = outcome
    assert isinstance(first, Molecule)
    assert isinstance(last, Molecule)
    assert (first.formula, last.formula) == ("CH4O", "H2O")
    assert first.properties == {"nll": "-80.5"}


def mutated(source: random.Random) -> str:
    """Return a valid file with some characters, lines or tokens replaced."""
    text = source.choice([V2000, V3000, RAW_QM9, EXTENDED])
    for _ in range(source.randrange(6)):
        at = source.randrange(len(text))
        piece = source.choice(["\n", " ", "9", "-", "1e999", "\x00", "M  END", "$$$$\n", "V3000", "COUNTS 9 9", "é"])
        text = text[:at] + piece + text[at + source.randrange(1 + len(piece)) :]
    return text


def test_files_leave_nothing_behind() -> None:
    """Reading leaks no memory, RDKit's objects included, which tracemalloc does not see."""
    source, rounds = random.Random(0), max(500, EXAMPLES)
    for _ in range(200):
        attempt(mutated(source), source.choice(["xyz", "sdf", None]))
    before = resident()
    for _ in range(rounds):
        attempt(mutated(source), source.choice(["xyz", "sdf", None]))
    assert resident() - before < 20_000_000
