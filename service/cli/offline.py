"""What the commands `enflow sample` and `enflow likelihood` share: the engine of the service, without the service."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from enflow.model.chem.io.formats import FORMATS, Format
from enflow.model.cli.options import pick_device
from enflow.model.config import TOLERANCES
from enflow.model.errors import ConfigError, DataError
from enflow.service.model_card import ModelCard, read_card
from enflow.service.protocol.events import Event
from enflow.service.protocol.requests import EngineRequest
from enflow.service.settings import BUNDLED_WEIGHTS

Weights = Annotated[
    Path, typer.Option(help="Folder with weights.safetensors and card.json, or the name of bundled ones, such as lj13.")
]
ToleranceOption = Annotated[str, typer.Option(help="Of the solver: draft, standard, precise, or a number.")]


class OfflineEngine:
    """An engine with the card of its weights."""

    def __init__(self, weights: Path, device: str) -> None:
        from enflow.model.checkpoint import load_any
        from enflow.service.engine.core import Engine as Loop

        place = _bundled(weights)
        self.card: ModelCard = read_card(place)
        self._loop = Loop(load_any(place, pick_device(device)))

    @property
    def heading(self) -> dict[str, str]:
        """The model as every answer names it."""
        return {"name": self.card.name, "sha256": self.card.sha256}

    def answers(self, *works: EngineRequest) -> Iterator[Event]:
        """What becomes of each molecule of these works, as soon as it is known."""
        for each in works:
            self._loop.add(each)
        while not self._loop.idle:
            yield from self._loop.step()


def _bundled(weights: Path) -> Path:
    """A folder; that of bundled weights where only their name is given."""
    named = BUNDLED_WEIGHTS.with_name(weights.name)
    return named if not weights.exists() and weights == Path(weights.name) and named.is_dir() else weights


def refuse_bonds(card: ModelCard, out: "Target | None") -> None:
    """Raise where particles would be written with bonds.

    Raises:
        ConfigError: as SDF, which is made of them.
    """
    if card.system and out and out.form == "sdf":
        raise ConfigError(f"found the ending sdf, but {card.name} is of particles; expected .xyz, .json or .html")


@dataclass(frozen=True)
class Target:
    """Where an answer is written, and in which format."""

    path: Path
    form: Format

    def write(self, text: str) -> None:
        """Write the answer.

        Raises:
            DataError: the file cannot be written.
        """
        try:
            self.path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}") from None


def target(out: Path | None) -> Target | None:
    """The file that --out names, checked before anything is computed for it; None = standard output.

    Raises:
        ConfigError: its ending names no format, or it cannot be written there.
    """
    if out is None:
        return None
    ending = out.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise ConfigError(
            f"found the ending {ending!r} of {out}; expected one of {', '.join('.' + f for f in FORMATS)}"
        )
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ConfigError(f"cannot write {out}: expected a file in a folder that exists and can be written")
    return Target(out, FORMATS[FORMATS.index(ending)])


def number(tolerance: str) -> float:
    """The tolerance of a name, or of a number.

    Raises:
        ConfigError: it is neither, or out of range.
    """
    try:
        value = TOLERANCES.get(tolerance) or float(tolerance)
    except ValueError:
        value = float("nan")
    if not 1e-7 <= value <= 0.1:
        raise ConfigError(f"found tolerance {tolerance!r}; expected {', '.join(TOLERANCES)}, or a number 1e-7 to 0.1")
    return value
