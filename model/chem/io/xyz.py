"""XYZ and extended XYZ: a reader that checks every line, and a writer that keeps every digit."""

import re
from collections.abc import Iterable, Iterator

from enflow.model.chem.io.extxyz import LOGICAL, PLAIN, Columns, comment_line, read_header
from enflow.model.chem.io.text import (
    MAX_LINE,
    Line,
    Lines,
    ReadLimits,
    Token,
    atom_count,
    coordinate,
    element,
    integer,
    number,
)
from enflow.model.chem.molecule import Molecule, check_apart
from enflow.model.chem.periodic import unwrapped
from enflow.model.errors import StructureError


def read_xyz(text: str, limits: ReadLimits) -> Iterator[Molecule | StructureError]:
    """Return the structures of an XYZ text in order; a record that cannot be read gives an error in its place.

    A record is the number of atoms, a comment, and one line per atom: element, x, y, z in angstrom. Read as well:
    extended XYZ (`Properties=species:S:1:pos:R:3:...` in the comment, any order of columns), text after the
    coordinates, the separators `>` of ORCA, the raw files of QM9 (with frequencies, SMILES and InChI), and Open
    Babel's `%PBC` with its cell. A molecule that is wrapped over a periodic cell is unwrapped. After an error reading
    goes on at the next line that is a number of atoms.

    Raises:
        StructureError: the text has more records than the limit.
    """
    lines = Lines(text)
    _skip_separators(lines)
    index = 0
    while start := lines.next:
        if index == limits.max_records:
            raise start.error(f"found more than {limits.max_records} structures, expected at most so many")
        yield _attempt(lines, start, index, limits)
        index += 1
        _skip_separators(lines)


_COUNT = re.compile(r"[ \t]*[+-]?\d+[ \t]*", re.ASCII)
_CELL = re.compile(r"Vector[123][ \t]|Offset[ \t]")
_NUMBERED = re.compile(r"[ \t]*\d")
_SEPARATOR = re.compile(r"[ \t]*>?[ \t]*")


def _attempt(lines: Lines, start: Line, index: int, limits: ReadLimits) -> Molecule | StructureError:
    try:
        return _record(lines, limits)
    except StructureError as error:
        while lines.next and not _COUNT.fullmatch(lines.next.text):
            lines.take()
        return StructureError(error.message, line=error.line or start.number, column=error.column, index=index)


def _skip_separators(lines: Lines) -> None:
    while lines.next and _SEPARATOR.fullmatch(lines.next.text):
        lines.take()


def _record(lines: Lines, limits: ReadLimits) -> Molecule:
    n_atoms = _count(lines, limits)
    comment = lines.take()
    if comment is None:
        raise StructureError(f"found the end of the file, expected a comment line and {n_atoms} atoms")
    header = read_header(comment)
    _check_columns(comment, lines.next)
    atomic_numbers, positions = _atoms(lines, header.columns, n_atoms)
    if comment.text.rstrip().endswith("%PBC"):
        _skip_cell(lines)
    trailer = _trailer(lines, raw_qm9=comment.text.startswith("gdb "), n_atoms=n_atoms)
    molecule = Molecule(atomic_numbers, positions, header.name, header.properties | trailer)
    check_apart(molecule)
    return unwrapped(molecule)


_OF_IPI = re.compile(r"\b(?!cell\{|(?:positions|x_centroid)\{(?:angstrom|automatic)\})\w+\{\w+\}", re.ASCII)
_OF_ORCA = re.compile(r"\bUnit is (?!Angstrom(?!/))[^ \t]+")


def _check_columns(comment: Line, first: Line | None) -> None:
    """Raise where the comment says that the columns are something else than elements and positions in angstrom.

    In the XYZ of LAMMPS 1, 2, 3 are types of its input, unless it was told the elements. i-PI and the dynamics of ORCA
    write positions in other units, velocities and forces as XYZ, too.
    """
    if comment.text.startswith("Atoms. Timestep:") and first and _NUMBERED.match(first.text):
        raise comment.error("found the atom types of LAMMPS, expected elements (dump_modify element)")
    named = _OF_IPI if comment.text.startswith("# CELL(") else _OF_ORCA
    if other := named.search(comment.text[:MAX_LINE]):
        raise Token(other[0], comment.number, other.start() + 1).error("positions in angstrom")


def _atoms(lines: Lines, columns: Columns, n_atoms: int) -> tuple[list[int], list[list[float]]]:
    atomic_numbers, positions = [], []
    for atom in range(1, n_atoms + 1):
        if lines.next is None:
            raise StructureError(f"found the end of the file, expected atom {atom} of {n_atoms}")
        z, position = _atom(lines.next, columns, f"atom {atom} of {n_atoms}")
        atomic_numbers.append(z)
        positions.append(position)
        lines.take()  # only now: a line that is no atom may be where the next record starts
    return atomic_numbers, positions


def _count(lines: Lines, limits: ReadLimits) -> int:
    line = lines.take()
    assert line is not None
    first, *rest = line.tokens()
    n_atoms = atom_count(first, limits)
    if rest:
        raise rest[0].error("nothing after the number of atoms")
    return n_atoms


def _atom(line: Line, columns: Columns, which: str) -> tuple[int, list[float]]:
    tokens = line.tokens()
    if len(tokens) < len(columns.kinds):
        expected = "element, x, y and z" if columns is PLAIN else f"{len(columns.kinds)} columns"
        raise line.error(f"found {len(tokens)} column{'s' * (len(tokens) != 1)}, expected {expected} of {which}")
    for kind, token in zip(columns.kinds, tokens, strict=False):
        _check(kind, token)
    after = tokens[len(columns.kinds) :]
    if after and not columns.more and not after[0].text.startswith("#"):
        raise after[0].error(f"{len(columns.kinds)} columns as Properties says")
    place = tokens[columns.position : columns.position + 3]
    return element(tokens[columns.element]), [coordinate(token) for token in place]


_NOT_KNOWN = {"nan", "inf", "+inf", "-inf"}
"""The words that programs write into a column without a value; a coordinate is never one of them."""


def _check(kind: str, token: Token) -> None:
    if kind == "R":
        if token.text.lower() not in _NOT_KNOWN:
            number(token)
    elif kind == "I":
        integer(token)
    elif kind == "L" and token.text not in LOGICAL:
        raise token.error("T or F")


def _skip_cell(lines: Lines) -> None:
    """Skip the unit cell that Open Babel writes after the atoms of a periodic structure."""
    while lines.next and (not lines.next.text.strip() or _CELL.match(lines.next.text)):
        lines.take()


def _trailer(lines: Lines, *, raw_qm9: bool, n_atoms: int) -> dict[str, object]:
    """Read the lines after the atoms of a raw QM9 file; in another file such a line means that the count is wrong."""
    line = lines.next
    if line is None or _SEPARATOR.fullmatch(line.text) or _COUNT.fullmatch(line.text):
        return {}
    if not raw_qm9:
        raise line.error(
            f"found a line after the {n_atoms} atoms announced, expected an empty line or the next structure"
        )
    for token in line.tokens():
        number(token)
    lines.take()
    smiles, inchi = (_texts(lines, what) for what in ("SMILES", "InChI"))
    return {"smiles": smiles, "inchi": inchi}


def _texts(lines: Lines, what: str) -> str:
    line = lines.take()
    if line is None or not line.tokens():
        raise StructureError(f"found no {what}, expected it after the frequencies of a raw QM9 file")
    return line.tokens()[0].text


def write_xyz(molecules: Iterable[Molecule]) -> str:
    """Write extended XYZ, one frame per molecule; its name and properties stand in the comment as key=value.

    Every digit of a coordinate is kept: reading gives back equal molecules.
    """
    return "".join(_frame(molecule) for molecule in molecules)


def _frame(molecule: Molecule) -> str:
    rows = zip(molecule.symbols, molecule.positions.tolist(), strict=True)
    atoms = "".join(f"{symbol:<2} {x!r:>23} {y!r:>23} {z!r:>23}\n" for symbol, (x, y, z) in rows)
    return f"{molecule.n_atoms}\n{comment_line(molecule.name, molecule.properties)}\n{atoms}"
