"""The report of a run: which stages passed, how long each took, and what it found."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from enflow.model.files import replace_file

NAME = "report.json"


class Skipped(Exception):  # noqa: N818 - no error
    """The reason why a stage has nothing to do."""


def require(holds: bool, message: str) -> None:
    """Raise an AssertionError with the message unless the condition holds; an `assert` may be switched off."""
    if not holds:
        raise AssertionError(message)


@dataclass
class StageResult:
    """The outcome of a stage, "PASS", "FAIL" or "SKIP", its seconds and its findings."""

    name: str
    outcome: str
    seconds: float
    facts: dict[str, Any]

    @property
    def line(self) -> str:
        """The stage as a line for a terminal."""
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items() if not isinstance(value, dict | list))
        return f"{self.outcome} {self.name} ({self.seconds:.1f} s): {facts}"


@dataclass
class Report:
    """The report file of a run.

    Attributes:
        folder: the folder of the file.
        stages: the finished stages.
        running: the stage in progress; None = none.
        since: the time of day at which it began.
    """

    folder: Path
    stages: list[StageResult] = field(default_factory=list)
    running: str | None = None
    since: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> "Report":
        """Return the report of a folder; an empty one if there is none."""
        path = folder / NAME
        if not path.exists():
            return cls(folder)
        content = json.loads(path.read_text())
        stages = [StageResult(**one) for one in content["stages"]]
        return cls(folder, stages, content["running"], content["since"])

    def begin(self, stage: str) -> None:
        """Note the stage that begins."""
        self.running, self.since = stage, time.time()
        self._write()

    def end(self, outcome: str, facts: dict[str, Any]) -> None:
        """Note the outcome of the stage in progress, and print its line."""
        assert self.running is not None, "a stage has begun"
        result = StageResult(self.running, outcome, round(time.time() - self.since, 2), facts)
        self.stages.append(result)
        self.running = None
        self._write()
        print(result.line, flush=True)

    def _write(self) -> None:
        content = {"stages": [asdict(one) for one in self.stages], "running": self.running, "since": self.since}
        replace_file(self.folder / NAME, (json.dumps(content, indent=1) + "\n").encode())
