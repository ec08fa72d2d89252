"""XYZ and extended XYZ: a strict streaming reader, and a writer that keeps every digit."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from enflow.model.chem.io.text import Line, Lines, ReadLimits, Token, atom_count, coordinate, element, integer, number
from enflow.model.chem.molecule import Molecule, check_apart
from enflow.model.errors import StructureError


def read_xyz(text: str, limits: ReadLimits) -> Iterator[Molecule | StructureError]:
    """The structures of an XYZ text in order, each a molecule or what is wrong with it.

    A record is the number of atoms, a comment, and one line per atom: element, x, y, z in angstrom. Taken as well:
    extended XYZ (`Properties=species:S:1:pos:R:3:...` in the comment, any order of columns), further numeric columns,
    the raw files of QM9 (trailing frequencies, SMILES and InChI), and Open Babel's `%PBC` with its cell. After an error
    reading goes on at the next line that is a number of atoms.

    Raises:
        StructureError: more records than the limit.
    """
    lines = Lines(text)
    lines.skip_blank()
    index = 0
    while start := lines.next:
        if index == limits.max_records:
            raise start.error(f"found more than {limits.max_records} structures, expected at most so many")
        yield _attempt(lines, start, index, limits)
        index += 1
        lines.skip_blank()


@dataclass(frozen=True)
class _Columns:
    """What stands in which column of an atom line."""

    kinds: str
    """One letter per column: S text, R number, I integer, L logical."""
    element: int
    position: int
    more: bool
    """Whether further numeric columns may follow."""


_PLAIN = _Columns("SRRR", element=0, position=1, more=True)
_COUNT = re.compile(r"[ \t]*[+-]?\d+[ \t]*", re.ASCII)
_CELL = re.compile(r"Vector[123][ \t]|Offset[ \t]")
_LOGICAL = {"T", "F", "true", "false", "True", "False", "TRUE", "FALSE"}


def _attempt(lines: Lines, start: Line, index: int, limits: ReadLimits) -> Molecule | StructureError:
    try:
        return _record(lines, limits)
    except StructureError as error:
        while lines.next and not _COUNT.fullmatch(lines.next.text):
            lines.take()
        return StructureError(error.message, line=error.line or start.number, column=error.column, index=index)


def _record(lines: Lines, limits: ReadLimits) -> Molecule:
    n_atoms = _count(lines, limits)
    comment = lines.take()
    if comment is None:
        raise StructureError(f"found the end of the file, expected a comment line and {n_atoms} atoms")
    columns, name, properties = _header(comment)
    atomic_numbers, positions = [], []
    for atom in range(1, n_atoms + 1):
        if lines.next is None:
            raise StructureError(f"found the end of the file, expected atom {atom} of {n_atoms}")
        z, position = _atom(lines.next, columns, f"atom {atom} of {n_atoms}")
        atomic_numbers.append(z)
        positions.append(position)
        lines.take()  # only now: a line that is no atom may be where the next record starts
    if comment.text.rstrip().endswith("%PBC"):
        _skip_cell(lines)
    properties.update(_trailer(lines, raw_qm9=comment.text.startswith("gdb "), n_atoms=n_atoms))
    molecule = Molecule(atomic_numbers, positions, name, properties)
    check_apart(molecule)
    return molecule


def _count(lines: Lines, limits: ReadLimits) -> int:
    line = lines.take()
    assert line is not None
    first, *rest = line.tokens()
    n_atoms = atom_count(first, limits)
    if rest:
        raise rest[0].error("nothing after the number of atoms")
    return n_atoms


def _atom(line: Line, columns: _Columns, which: str) -> tuple[int, list[float]]:
    tokens = line.tokens()
    if len(tokens) < len(columns.kinds):
        expected = "element, x, y and z" if columns is _PLAIN else f"{len(columns.kinds)} columns"
        raise line.error(f"found {len(tokens)} column{'s' * (len(tokens) != 1)}, expected {expected} of {which}")
    for kind, token in zip(columns.kinds, tokens, strict=False):
        _check(kind, token)
    for token in tokens[len(columns.kinds) :]:
        if not columns.more:
            raise token.error(f"{len(columns.kinds)} columns as Properties says")
        number(token)
    place = tokens[columns.position : columns.position + 3]
    return element(tokens[columns.element]), [coordinate(token) for token in place]


_NOT_KNOWN = {"nan", "inf", "+inf", "-inf"}
"""How programs fill a column of which they know nothing; a coordinate is never that."""


def _check(kind: str, token: Token) -> None:
    if kind == "R":
        if token.text.lower() not in _NOT_KNOWN:
            number(token)
    elif kind == "I":
        integer(token)
    elif kind == "L" and token.text not in _LOGICAL:
        raise token.error("T or F")


def _skip_cell(lines: Lines) -> None:
    """Pass over the unit cell that Open Babel's extended XYZ writes after the atoms: a molecule has none."""
    while lines.next and (not lines.next.text.strip() or _CELL.match(lines.next.text)):
        lines.take()


def _trailer(lines: Lines, *, raw_qm9: bool, n_atoms: int) -> Mapping[str, object]:
    """What raw QM9 says after the atoms; anything else there means that the count was wrong."""
    line = lines.next
    if line is None or not line.text.strip() or _COUNT.fullmatch(line.text):
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


def _header(comment: Line) -> tuple[_Columns, str, dict[str, object]]:
    if not re.search(r"(?:^|[ \t])Properties=", comment.checked()):
        return _PLAIN, comment.text.strip(), {}
    properties = _key_values(comment)
    layout = Token(str(properties.pop("Properties", "")), comment.number, comment.text.index("Properties=") + 1)
    columns = _columns(layout)
    return columns, str(properties.pop("name", "")), properties


def _columns(token: Token) -> _Columns:
    """The columns of `Properties=name:kind:count:...`."""
    parts = token.text.split(":")
    if len(parts) % 3 or not all(re.fullmatch("[1-9][0-9]?", count) for count in parts[2::3]):
        raise token.error("Properties=name:kind:count:..., such as species:S:1:pos:R:3")
    kinds, starts = "", {}
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if kind not in ("S", "R", "I", "L"):
            raise token.error("the kinds S, R, I and L in Properties")
        starts[name, kind, int(count)] = len(kinds)
        kinds += kind * int(count)
    species = starts.get(("species", "S", 1), starts.get(("Z", "I", 1)))
    position = starts.get(("pos", "R", 3))
    if species is None or position is None:
        raise token.error("species:S:1 (or Z:I:1) and pos:R:3 in Properties")
    return _Columns(kinds, species, position, more=False)


_PAIR = re.compile(
    r"""([^\s="'{}\[\]]+)  # the key
    (?:[ ]*=[ ]*(?:
        "((?:[^"\\]|\\.)*)"      # quoted, with \" and \\ and \n
      | '([^']*)' | \{([^}]*)\} | \[([^\]]*)\]
      | ([^\s"'{}\[\]]+)         # bare
    ))?(?=[ \t]|$)""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.)")


def _key_values(comment: Line) -> dict[str, object]:
    """The pairs of an extended XYZ comment; a key alone is true."""
    found: dict[str, object] = {}
    text, at = comment.text.rstrip(), 0
    while at < len(text):
        if text[at] in " \t":
            at += 1
            continue
        match = _PAIR.match(text, at)
        if not match:
            raise Token(text[at:], comment.number, at + 1).error("key=value, the value quoted where it holds blanks")
        key, quoted, *others, bare = match.groups()
        held = next((value for value in others if value is not None), None)
        if quoted is not None:
            found[key] = _ESCAPED.sub(lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), quoted)
        elif held is not None:
            found[key] = held
        else:
            found[key] = True if bare is None else _value(bare)
        at = match.end()
    return found


def _value(bare: str) -> object:
    if re.fullmatch(r"[+-]?\d{1,18}", bare, re.ASCII):
        return int(bare)
    if bare in _LOGICAL:
        return bare[0] in "Tt"
    try:
        return number(Token(bare, 1, 1))
    except StructureError:
        return bare


def write_xyz(molecules: Iterable[Molecule]) -> str:
    """Extended XYZ, one frame per molecule; its name and properties stand in the comment as key=value.

    Every digit of a coordinate is kept: reading gives back equal molecules.

    Raises:
        ValueError: the name of a property is not a word.
    """
    return "".join(_frame(molecule) for molecule in molecules)


def _frame(molecule: Molecule) -> str:
    pairs = {"name": molecule.name, **molecule.properties} if molecule.name else molecule.properties
    comment = " ".join(["Properties=species:S:1:pos:R:3", *(_pair(k, v) for k, v in pairs.items() if v is not None)])
    rows = zip(molecule.symbols, molecule.positions.tolist(), strict=True)
    atoms = "".join(f"{symbol:<2} {x!r:>23} {y!r:>23} {z!r:>23}\n" for symbol, (x, y, z) in rows)
    return f"{molecule.n_atoms}\n{comment}\n{atoms}"


def _pair(key: str, value: object) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.\-]*", key, re.ASCII) or key == "Properties":
        raise ValueError(f"found the property {key!r}, expected a word of letters, digits, '_', '.' and '-'")
    if isinstance(value, bool):
        return f"{key}={'T' if value else 'F'}"
    if isinstance(value, int | float):
        return f"{key}={value!r}"
    text = value if isinstance(value, str) else json.dumps(value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'{key}="{escaped}"'
