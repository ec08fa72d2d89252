"""SDF, V2000 and V3000: a reader that checks counts and atoms line by line before RDKit sees a record, and a writer."""

import re
from collections.abc import Iterator, Sequence

from rdkit import Chem, rdBase

from enflow.model.chem.bonds import Bonds, to_mol
from enflow.model.chem.io.data_items import one_line, read_items, write_items
from enflow.model.chem.io.molfile_checks import check_hydrogens, check_solid
from enflow.model.chem.io.text import Line, Lines, ReadLimits, Token, atom_count, atomic_number, coordinate, integer
from enflow.model.chem.molecule import Molecule, check_apart
from enflow.model.errors import StructureError

MAX_LINES = 50_000
"""Lines of a record; a file of nothing but line ends would otherwise become objects of a hundred times its size."""


def read_sdf(text: str, limits: ReadLimits) -> Iterator[Molecule | StructureError]:
    """Return the structures of an SDF text in order; a record that cannot be read gives an error in its place.

    Data items become properties, the title the name; bonds are checked and not kept. A single molfile is an SDF of one
    record.

    Raises:
        StructureError: the text has more records than the limit.
    """
    for index, record in enumerate(_records(Lines(text))):
        if index == limits.max_records:
            raise record[0].error(f"found more than {limits.max_records} structures, expected at most so many")
        try:
            outcome: Molecule | StructureError = _molecule(record, limits)
        except StructureError as error:
            line = record[0].number if error.line is None else error.line
            outcome = StructureError(error.message, line=line, column=error.column, index=index)
        yield outcome


def _records(lines: Lines) -> Iterator[list[Line]]:
    record: list[Line] = []
    for line in lines:
        if line.text.startswith("$$$$"):
            yield record or [line]
            record = []
        elif len(record) <= MAX_LINES:
            record.append(line)
    if any(line.text.strip() for line in record):
        yield record


def _molecule(record: list[Line], limits: ReadLimits) -> Molecule:
    block, after = _split(record)
    n_atoms = _check_atoms(block, limits)
    mol = _parsed(block, n_atoms)
    numbers = [mol.GetAtomWithIdx(i).GetAtomicNum() for i in range(n_atoms)]
    positions = mol.GetConformer().GetPositions()
    check_solid(mol, positions, record[1])
    if not limits.open_bonds:
        check_hydrogens(mol, record[3])
    molecule = Molecule(numbers, positions, record[0].text.strip(), read_items(after))
    check_apart(molecule)
    return molecule


def _split(record: list[Line]) -> tuple[list[Line], list[Line]]:
    """Return the molfile of a record and the lines after it."""
    if len(record) > MAX_LINES:
        raise record[0].error(f"found more than {MAX_LINES} lines, expected at most so many in a record")
    if len(record) < 4:
        raise record[-1].error(f"found {len(record)} lines, expected three header lines and a counts line")
    end = next((i for i, line in enumerate(record) if i > 3 and line.text.startswith("M  END")), None)
    if end is None:
        raise record[-1].error("found no 'M  END', expected it after the atoms and bonds")
    return record[: end + 1], record[end + 1 :]


def _parsed(block: list[Line], n_atoms: int) -> Chem.Mol:
    counts = block[3].text
    lines = _capitalized(block, n_atoms)
    if not counts[33:39].strip():  # as old programs write it; V2000 is meant
        lines[3] = f"{counts[:33]:<33} V2000"
    with rdBase.BlockLogs():
        mol: Chem.Mol | None = Chem.MolFromMolBlock("\n".join(lines), sanitize=False, removeHs=False)
    if mol is None or mol.GetNumAtoms() != n_atoms:
        raise block[3].error("found bonds or property lines that RDKit cannot read, expected a valid molfile")
    return mol


V30 = "M  V30 "
"""The beginning of the lines of V3000."""

_V3000_ATOM = re.compile(r"M  V30 +\d+ +[A-Za-z]+", re.ASCII)


def _capitalized(block: list[Line], n_atoms: int) -> list[str]:
    """Return the lines with elements as RDKit knows them; xtb writes `cl` where its input did."""
    lines = [line.text for line in block]
    if block[3].field(33, 39).text == "V3000":
        whole = [_text(parts) for parts in _whole_lines(block)]
        return [_V3000_ATOM.sub(lambda atom: atom[0].title(), line) for line in whole]
    for at in range(4, 4 + n_atoms):
        lines[at] = lines[at][:31] + lines[at][31:34].title() + lines[at][34:]
    return lines


def _check_atoms(block: list[Line], limits: ReadLimits) -> int:
    version = block[3].field(33, 39)
    if version.text in ("V2000", ""):
        return _check_v2000(block, limits)
    if version.text == "V3000":
        return _check_v3000(block, limits)
    raise version.error("V2000 or V3000 at the end of the counts line")


def _check_v2000(block: list[Line], limits: ReadLimits) -> int:
    n_atoms = atom_count(block[3].field(0, 3), limits)
    n_bonds = integer(block[3].field(3, 6), "a number of bonds")
    if len(block) - 5 < n_atoms + n_bonds:
        raise block[-1].error(f"found 'M  END' early, expected {n_atoms} atoms and {n_bonds} bonds before it")
    for line in block[4 : 4 + n_atoms]:
        for start in (0, 10, 20):
            coordinate(line.field(start, start + 10))
        atomic_number(line.field(31, 34))
    return n_atoms


def _check_v3000(block: list[Line], limits: ReadLimits) -> int:
    counts: Token | None = None
    n_atoms = 0
    inside, atoms = False, list[list[Line]]()
    for parts in _whole_lines(block)[4:]:
        line = parts[0]
        words = [word.text for word in line.tokens()]
        if words[:3] == ["M", "V30", "COUNTS"] and counts is None:
            counts = [*line.tokens(), line.field(len(line.text), len(line.text))][3]
            n_atoms = atom_count(counts, limits)
        elif words == ["M", "V30", "BEGIN", "ATOM"]:
            inside = True
        elif words == ["M", "V30", "END", "ATOM"]:
            break
        elif inside:
            atoms.append(parts)
    if counts is None:
        raise block[3].error("found no COUNTS line, expected it in a V3000 molfile")
    if len(atoms) != n_atoms:
        raise counts.error(f"{len(atoms)} atoms, as many as the ATOM block has lines")
    for parts in atoms:
        _check_v3000_atom(parts)
    return n_atoms


def _whole_lines(block: list[Line]) -> list[list[Line]]:
    """Return the lines of a V3000 molfile, each with those that go on with it: a line that ends with a hyphen does."""
    found = [[line] for line in block[:4]]
    goes_on = False
    for line in block[4:]:
        if goes_on and line.text.startswith(V30):
            found[-1].append(line)
        else:
            found.append([line])
        goes_on = line.text.startswith(V30) and line.text.endswith("-")
    return found


def _text(parts: list[Line]) -> str:
    """Return the text of a line and of those that go on with it."""
    first, *rest = [line.text.removesuffix("-") if line is not parts[-1] else line.text for line in parts]
    return first + "".join(text.removeprefix(V30) for text in rest)


def _check_v3000_atom(parts: list[Line]) -> None:
    line = parts[0]
    words = line.tokens() if len(parts) == 1 else Line(_text(parts), line.number).tokens()
    if len(words) < 7:
        raise line.error(f"found {len(words)} words, expected M, V30, index, element, x, y and z")
    atomic_number(words[3])
    for word in words[4:7]:
        coordinate(word)


def write_sdf(molecules: Sequence[Molecule], bonds: Sequence[Bonds], *, v3000: bool = False) -> str:
    """Write SDF, one record per molecule; its properties and the outcome of the search for bonds are data items.

    A molecule whose bonds failed is written as bare atoms with the reason. V2000 keeps four decimals of a coordinate.

    Args:
        molecules: the molecules.
        bonds: bonds of each molecule.
        v3000: write the newer format; records over 999 atoms or bonds use it in any case.
    """
    pairs = zip(molecules, bonds, strict=True)
    return "".join(sdf_record(mol_block(*pair, v3000=v3000), *pair) for pair in pairs)


def mol_block(molecule: Molecule, bonds: Bonds, *, v3000: bool = False) -> str:
    """Return the molfile of a molecule; bare atoms where the bonds failed. Its title, the first line, is empty."""
    return str(Chem.MolToMolBlock(to_mol(molecule, bonds), forceV3000=v3000))


def sdf_record(block: str, molecule: Molecule, bonds: Bonds) -> str:
    """Return the SDF record of a molecule: properties and the outcome of its bonds are data items.

    The title is the name; of a generated molecule without one it is MODEL-SEED-INDEX, such as `qm9-3-0`.
    The property `bonds` is left out where it is that outcome, which `bond_status` and `bond_method` have.
    """
    facts = dict(molecule.properties)
    if facts.get("bonds") == bonds.outcome:
        del facts["bonds"]
    items = {
        **facts,
        "bond_status": bonds.status,
        "bond_method": bonds.method,
        "bond_reason": bonds.reason,
        "smiles": bonds.smiles,
        "rdkit": bonds.rdkit,
    }
    return f"{_title(molecule)}{block}{write_items(items)}$$$$\n"


def _title(molecule: Molecule) -> str:
    """Return the title of a record: at most 80 characters, as the format has it; empty where nothing is known."""
    origin = [molecule.properties.get(name) for name in ("model", "seed", "index")]
    title = molecule.name.strip() or ("" if None in origin else "-".join(map(str, origin)))
    return one_line(title)[:80] if title else ""
