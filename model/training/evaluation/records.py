"""The results of an evaluation on disk: one line of JSON per molecule, which survive an interruption."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from enflow.model.chem.molecule import Molecule
from enflow.model.files import replace_file
from enflow.model.flow.ode.solver_state import Status


@dataclass(frozen=True)
class SampleRecord:
    """A generated molecule; without atoms if the sample failed."""

    index: int
    n_atoms: int
    atomic_numbers: list[int]
    positions: list[list[float]]
    nfe: int
    status: str

    @property
    def molecule(self) -> Molecule | None:
        """The molecule; None if the sample failed. Atoms may coincide."""
        succeeded = self.status == Status.SUCCESS.name and self.atomic_numbers
        return Molecule(self.atomic_numbers, self.positions) if succeeded else None


@dataclass(frozen=True)
class ScoreRecord:
    """The likelihood of the test molecule in row `index` of the split, nats.

    Attributes:
        index: row of the molecule.
        n_atoms: number of atoms.
        fluorine: True if the molecule contains fluorine.
        nll: mean of the bounds of all draws; None if the solver failed.
        parts: terms of `nll` by name.
        nfe: number of evaluations of the velocity.
        status: status of the solver.
        gain: `nll` minus the importance-weighted bound of all draws together.
        std_error: Monte Carlo error over probes and draws; None for a single one.
    """

    index: int
    n_atoms: int
    fluorine: bool
    nll: float | None
    parts: dict[str, float]
    nfe: int
    status: str
    gain: float = 0.0
    std_error: float | None = None


Record = TypeVar("Record", SampleRecord, ScoreRecord)


class RecordFile(Generic[Record]):
    """A file of records; its first line, the header, holds the settings that produced them.

    A file with another header is left as it is. The records then go to a file beside it, whose name ends with a hash of
    the header.

    Args:
        path: the file.
        header: settings that determine the records.
        kind: class of the records.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], kind: type[Record]) -> None:
        self.name = path.stem
        self.path = _path_for(path, header)
        self.records: dict[int, Record] = {}
        lines = self.path.read_text(errors="replace").splitlines() if self.path.exists() else []
        for line in lines[1:]:
            try:
                record = kind(**json.loads(line))
            except (ValueError, TypeError):
                continue  # an interruption leaves half of a line, and a broken disk anything: the other records stay
            self.records[record.index] = record
        if len(lines) != 1 + len(self.records):
            content = [dict(header), *map(asdict, self.records.values())]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, "".join(json.dumps(line) + "\n" for line in content).encode())

    def append(self, record: Record) -> None:
        """Write the record of a finished molecule to disk."""
        self.records[record.index] = record
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")


def _path_for(path: Path, header: Mapping[str, Any]) -> Path:
    if not path.exists() or _header_of(path) in (None, header):
        return path
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
    return path.with_stem(f"{path.stem}-{digest[:8]}")


def _header_of(path: Path) -> Any:
    """Return the header of a file; None if not even the header was written in full."""
    with path.open(errors="replace") as file:
        try:
            return json.loads(file.readline())
        except ValueError:
            return None


def update_report(
    path: Path, weights_sha256: str, sections: Mapping[str, Mapping[str, Any]], whole: Collection[str] = ()
) -> dict[str, Any]:
    """Update sections of evaluation.json, beside the results of other commands for the same weights.

    Args:
        path: the file; a new one is written if it is missing or belongs to other weights.
        weights_sha256: hash of the evaluated weights.
        sections: entries by section. Entries of the same name are replaced, others stay.
        whole: the sections of which no other entries stay.

    Returns:
        The whole content of the file.
    """
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("weights_sha256") != weights_sha256:
        known = {"weights_sha256": weights_sha256}
    kept = {name: {} if name in whole else known.get(name, {}) for name in sections}
    report = known | {name: {**kept[name], **entries} for name, entries in sections.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    return report
