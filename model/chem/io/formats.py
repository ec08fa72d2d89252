"""Structure files of every format: recognition, reading and writing."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Literal, get_args

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.io.csv_table import write_csv
from enflow.model.chem.io.gallery import write_gallery
from enflow.model.chem.io.sdf import read_sdf, write_sdf
from enflow.model.chem.io.smiles import read_smiles
from enflow.model.chem.io.text import ReadLimits, decode, decode_head
from enflow.model.chem.io.xyz import read_xyz, write_xyz
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError

Format = Literal["xyz", "sdf", "json", "html", "csv"]
"""A format that is written."""

FileFormat = Literal["xyz", "sdf", "smiles3d"]
"""A format that is read."""

FORMATS: tuple[Format, ...] = get_args(Format)

READERS: Mapping[str, Callable[[str, ReadLimits], Iterator[Molecule | StructureError]]] = {
    "xyz": read_xyz,
    "sdf": read_sdf,
    "smiles3d": read_smiles,
}


ENDINGS: Mapping[str, FileFormat] = {
    ".xyz": "xyz",
    ".extxyz": "xyz",
    ".exyz": "xyz",
    ".sdf": "sdf",
    ".sd": "sdf",
    ".mol": "sdf",
    ".smi": "smiles3d",
    ".smiles": "smiles3d",
}
"""File ending -> format."""


def read(
    data: str | bytes, form: str | None = None, limits: ReadLimits | None = None, name: str = ""
) -> list[Molecule | StructureError]:
    """Return the structures of a file in order; a record that cannot be read gives an error in its place.

    Args:
        data: the file; gzip and UTF-16 are recognised.
        form: "xyz", "sdf" or "smiles3d" (SMILES, given a geometry); None = by the content, then by the ending.
        limits: limits of the file.
        name: name of the file, for its ending.

    Raises:
        StructureError: the file as a whole cannot be read: it is empty, too large, or of no known format.
    """
    limits = limits or ReadLimits()
    text = decode(data, limits)
    reader = READERS.get(form or recognized(text, name) or "")
    if reader is None:
        raise StructureError("found no known format, expected XYZ or SDF")
    return list(reader(text, limits))


def recognized(data: str | bytes, name: str) -> FileFormat | None:
    """Return the format of a file by its content, or else by the ending of its name; None if neither says it."""
    return sniff(data) or format_by_ending(name)


def format_by_ending(name: str) -> FileFormat | None:
    """Return the format of a file by the ending of its name, before `.gz` if it has that."""
    path = PurePath(name.lower())
    return ENDINGS.get(PurePath(path.stem).suffix if path.suffix == ".gz" else path.suffix)


def sniff(data: str | bytes) -> Literal["xyz", "sdf"] | None:
    """Return the format by the first lines, or None.

    SDF has a counts line with its version as the fourth line, or one without a version before an atom line. XYZ starts
    with a number alone in a line, or has an atom line as the first or third line.
    """
    head = decode_head(data)
    lines = _LINE_END.split(head, maxsplit=5)
    if len(lines) > 3 and re.search(r"V[23]000\s*$", lines[3]):
        return "sdf"
    if len(lines) > 4 and _COUNTS.match(lines[3]) and _SDF_ATOM.match(lines[4]):
        return "sdf"
    lines = _LINE_END.split(head.lstrip(), maxsplit=3)
    if len(lines) > 1 and re.fullmatch(r"\d+[ \t]*", lines[0], re.ASCII):
        return "xyz"
    return "xyz" if any(_XYZ_ATOM.match(line) for line in lines[0:3:2]) else None


_LINE_END = re.compile(r"\r\n|\r|\n")
_COUNTS = re.compile(r"[ \d]{2}\d[ \d]{2}\d", re.ASCII)
_SDF_ATOM = re.compile(r"(?:[ ]*-?\d+\.\d+){3}[ ]+[A-Z]", re.ASCII)
_XYZ_ATOM = re.compile(r"[ \t]*[A-Za-z]{1,2}(?:[ \t]+[+-]?\d*\.\d+){3}", re.ASCII)


def write(molecules: Sequence[Molecule], bonds: Sequence[Bonds], form: Format) -> str:
    """Write molecules with their bonds as extended XYZ, SDF, CSV, JSON or an HTML gallery."""
    if form == "xyz":
        return write_xyz(molecules)
    if form == "sdf":
        return write_sdf(molecules, bonds)
    if form == "csv":
        return write_csv(molecules, bonds)
    if form == "json":
        return write_json(molecules, bonds)
    return write_gallery(molecules, bonds)


def write_json(molecules: Sequence[Molecule], bonds: Sequence[Bonds]) -> str:
    """Write molecules as JSON; the fields have the names of the answers of the service."""
    entries = [_entry(*pair, index) for index, pair in enumerate(zip(molecules, bonds, strict=True))]
    return json.dumps({"molecules": entries}, indent=1) + "\n"


def _entry(molecule: Molecule, bonds: Bonds, index: int) -> dict[str, object]:
    named = {"name": molecule.name} if molecule.name else {}
    return {
        "index": index,
        **{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in molecule.properties.items()},
        **named,
        "n_atoms": molecule.n_atoms,
        "formula": molecule.formula,
        "smiles": bonds.smiles,
        "xyz": write_xyz([molecule]),
        "sdf": write_sdf([molecule], [bonds]) if bonds.status == "ok" else None,
        "bonds": {"status": bonds.status, "method": bonds.method, "reason": bonds.reason},
    }
