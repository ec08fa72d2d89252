"""Results of an evaluation, one line of JSON per molecule, that outlive an interruption."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.chem.molecule import Molecule
from model.flow.stepper import Status


@dataclass(frozen=True)
class Generated:
    """A generated molecule, one line of the partial file; no atoms where it came to nothing."""

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
class Scored:
    """The likelihood of the test molecule in row `row` of the split, nats; one line of the partial file."""

    row: int
    n_atoms: int
    fluorine: bool
    nll: float | None
    parts: dict[str, float]
    nfe: int
    status: str


class Journal:
    """Lines of JSON that outlive an interruption; the first says what is measured, another evaluation starts anew."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.generated: dict[int, Generated] = {}
        self.scored: dict[int, Scored] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        if not lines or json.loads(lines[0]) != header:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(header) + "\n")
            return
        for line in lines[1:]:
            try:
                self._enter(json.loads(line))
            except ValueError:
                break  # the last line of an interrupted run may be half a line
        self._rewrite(header)

    def write(self, entry: Generated | Scored) -> None:
        """Enter a finished molecule and put it on disk."""
        self._enter(asdict(entry))
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(entry)) + "\n")

    def _enter(self, values: dict[str, Any]) -> None:
        if "row" in values:
            self.scored[values["row"]] = Scored(**values)
        else:
            self.generated[values["index"]] = Generated(**values)

    def _rewrite(self, header: dict[str, Any]) -> None:
        entries: list[Generated | Scored] = [*self.generated.values(), *self.scored.values()]
        lines = [json.dumps(header), *(json.dumps(asdict(entry)) for entry in entries)]
        self.path.write_text("".join(line + "\n" for line in lines))
