"""Structure files: which format, reading and writing."""

import json
import math
import re
from collections.abc import Sequence
from typing import Literal, get_args

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.io.gallery import write_gallery
from enflow.model.chem.io.sdf import read_sdf, write_sdf
from enflow.model.chem.io.smiles import read_smiles
from enflow.model.chem.io.text import ReadLimits, decode
from enflow.model.chem.io.xyz import read_xyz, write_xyz
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError

Format = Literal["xyz", "sdf", "json", "html"]

FORMATS: tuple[Format, ...] = get_args(Format)

READERS = {"xyz": read_xyz, "sdf": read_sdf, "smiles3d": read_smiles}


def read(
    data: str | bytes, form: str | None = None, limits: ReadLimits | None = None
) -> list[Molecule | StructureError]:
    """The structures of a file in order: a molecule, or what is wrong with that record; one never spoils the others.

    Args:
        data: the file.
        form: "xyz", "sdf" or "smiles3d" (given a geometry); None looks at the data for one of the first two.
        limits: what the file may ask for.

    Raises:
        StructureError: the file as a whole cannot be read: empty, too large, no known format.
    """
    limits = limits or ReadLimits()
    text = decode(data, limits)
    form = form or sniff(text)
    if form not in READERS:
        raise StructureError("found no known format, expected XYZ or SDF")
    return list(READERS[form](text, limits))


def sniff(data: str | bytes) -> Literal["xyz", "sdf"] | None:
    """The format by the first lines: SDF has a counts line with its version, XYZ starts with the number of atoms."""
    head = data[:4096]
    text = head if isinstance(head, str) else head.decode("latin-1")
    lines = re.split(r"\r\n|\r|\n", text, maxsplit=4)
    if len(lines) > 3 and re.search(r"V[23]000\s*$", lines[3]):
        return "sdf"
    if re.match(r"(?:\ufeff|ï»¿)?\s*\d+[ \t]*(?:\r|\n)", text, re.ASCII):
        return "xyz"
    return None


def write(molecules: Sequence[Molecule], bonds: Sequence[Bonds], form: Format) -> str:
    """Molecules with their bonds as extended XYZ, SDF, JSON or an HTML gallery."""
    if form == "xyz":
        return write_xyz(molecules)
    if form == "sdf":
        return write_sdf(molecules, bonds)
    if form == "json":
        return write_json(molecules, bonds)
    return write_gallery(molecules, bonds)


def write_json(molecules: Sequence[Molecule], bonds: Sequence[Bonds]) -> str:
    """Molecules as JSON, the fields named as in the answers of the service."""
    entries = [_entry(*pair, index) for index, pair in enumerate(zip(molecules, bonds, strict=True))]
    return json.dumps({"molecules": entries}, indent=1) + "\n"


def _entry(molecule: Molecule, bonds: Bonds, index: int) -> dict[str, object]:
    return {
        "index": index,
        **{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in molecule.properties.items()},
        "n_atoms": molecule.n_atoms,
        "formula": molecule.formula,
        "smiles": bonds.smiles,
        "xyz": write_xyz([molecule]),
        "sdf": write_sdf([molecule], [bonds]) if bonds.status == "ok" else None,
        "bonds": {"status": bonds.status, "method": bonds.method, "reason": bonds.reason},
    }
