"""Results of an evaluation, one line of JSON per molecule, that outlive an interruption."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from enflow.model.chem.molecule import Molecule
from enflow.model.flow.ode.dopri5 import Status


@dataclass(frozen=True)
class SampleRecord:
    """A generated molecule, one line of a journal; no atoms where it came to nothing."""

    index: int
    n_atoms: int
    atomic_numbers: list[int]
    positions: list[list[float]]
    nfe: int
    status: str

    @property
    def molecule(self) -> Molecule | None:
        """The molecule, None where the solver did not reach the end or two atoms stand at one point."""
        reached = self.status == Status.SUCCESS.name and self.atomic_numbers
        return Molecule(self.atomic_numbers, self.positions) if reached else None


@dataclass(frozen=True)
class ScoreRecord:
    """The likelihood of the test molecule in row `index` of the split, nats; one line of a journal.

    Attributes:
        nll: the mean of its draws' bounds, which more draws do not move but make surer.
        gain: what the importance-weighted bound of all draws together takes off it.
        std_error: Monte Carlo error over probes and draws, where there is more than one.
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


JournalEntry = TypeVar("JournalEntry", SampleRecord, ScoreRecord)


class Journal(Generic[JournalEntry]):
    """Lines of JSON that outlive an interruption; the first says what is measured, another evaluation starts anew."""

    def __init__(self, path: Path, header: dict[str, Any], kind: type[JournalEntry]) -> None:
        self.path = path
        self.entries: dict[int, JournalEntry] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        if lines and json.loads(lines[0]) == header:
            for line in lines[1:]:
                try:
                    self._enter(kind(**json.loads(line)))
                except ValueError:
                    break  # the last line of an interrupted run may be half a line
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = [header, *map(asdict, self.entries.values())]
        path.write_text("".join(json.dumps(line) + "\n" for line in whole))

    def write(self, entry: JournalEntry) -> None:
        """Enter a finished molecule and put it on disk."""
        self._enter(entry)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(entry)) + "\n")

    def _enter(self, entry: JournalEntry) -> None:
        self.entries[entry.index] = entry


def record(path: Path, weights_sha256: str, sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Enter sections into the evaluation's JSON file, beside what other commands entered for the same weights.

    Args:
        path: of the file, made where there is none and anew for other weights.
        weights_sha256: that were evaluated.
        sections: name -> entries; entries of the same name are replaced, others stay.

    Returns:
        Everything in the file.
    """
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("weights_sha256") != weights_sha256:
        known = {"weights_sha256": weights_sha256}
    whole = known | {name: {**known.get(name, {}), **entries} for name, entries in sections.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")
    path.with_suffix(".part").replace(path)
    return whole
