"""A model in this process, on which the commands run the handlers of the service; and the options that they share."""

import asyncio
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import typer
from pydantic import BaseModel, ValidationError

from enflow.model.card import find_weights
from enflow.model.chem.bonds import Bonds
from enflow.model.chem.io.formats import FORMATS, Format, write
from enflow.model.chem.molecule import Molecule
from enflow.model.cli.options import pick_device, read_standard_input
from enflow.model.config import TOLERANCES
from enflow.model.errors import ConfigError, DataError, SolverError
from enflow.model.files import shown_name, write_output
from enflow.model.progress import ProgressCallback
from enflow.service.chemistry.rdkit_pool import RDKitPool
from enflow.service.cli.offline_client import OfflineClient
from enflow.service.handlers.context import Caller, Emit, HandlerContext, first_error
from enflow.service.handlers.served_model import ServedModel
from enflow.service.handlers.served_particles import ServedParticles
from enflow.service.model_card import ModelCard, read_model_card
from enflow.service.problems import Problem, from_validation
from enflow.service.rendering.encoders import Answer
from enflow.service.schemas.stream_events import StreamEvent
from enflow.service.settings import ChemistrySettings, RequestLimits
from enflow.service.telemetry import Telemetry

if TYPE_CHECKING:
    from enflow.service.engine.core import Engine

WEIGHTS_HELP = "Folder with weights.safetensors and card.json, or the name of bundled weights: lj13."
Weights = Annotated[Path, typer.Option(help=WEIGHTS_HELP)]
ToleranceOption = Annotated[
    str, typer.Option(help="Tolerance of the solver: draft, standard, precise, or a number from 1e-7 to 0.1.")
]

Handle = Callable[[ServedModel, HandlerContext], Awaitable[Answer]]
"""A function that creates and runs a handler."""

STANDARD_STREAM = Path("-")
"""The name of standard input among the files to read, and of standard output as the file to write."""

DECIMALS = 6
"""Decimals of a coordinate in a file that a command writes: a millionth of an angstrom."""

MOLECULES_PER_PROCESS = 500
"""Molecules that pay for the start of one more RDKit process, which takes about a second of a core."""

LARGE = 10**9
"""A limit that no command reaches: the user's own machine bounds the work."""


class OfflineModel:
    """A model in this process. Ctrl-C ends the work early, with the results so far; a second one ends it at once.

    Attributes:
        interrupted: True after Ctrl-C.

    Args:
        weights: a folder, or the name of bundled weights.
        device: auto, cpu or cuda.
        n_molecules: the number of molecules to come; many of them get several RDKit processes.

    Raises:
        WeightsError: the weights are missing or damaged.
        ConfigError: there is no such device.
    """

    def __init__(self, weights: Path, device: str, n_molecules: int = 1) -> None:
        self._folder = find_weights(weights)
        self.card: ModelCard = read_model_card(self._folder)
        self._device = pick_device(device)
        self.interrupted = False
        self._rdkit_processes = max(1, min(cpu_count() - 1, n_molecules // MOLECULES_PER_PROCESS))

    @property
    def limits(self) -> RequestLimits:
        """The limits of a request: only the model bounds the size of a molecule."""
        return RequestLimits(
            max_molecules=LARGE,
            max_atoms=self.card.vocabulary.max_atoms,
            max_pairs=LARGE**2,
            max_probes=LARGE,
            max_draws=LARGE,
        )

    def run(self, handle: Handle, seed: int, emit: Emit) -> Answer:
        """Return the answer of a handler.

        Args:
            handle: creates and runs the handler.
            seed: the seed of the request.
            emit: receives the events of the handler.

        Raises:
            SolverError: the handler refused the request or has no result.
            KeyboardInterrupt: Ctrl-C came before the first result.
        """

        async def answer() -> Answer:
            async with self.served() as served:
                return await handle(served, HandlerContext(seed, Caller("", "", time.time(), math.inf), emit))

        try:
            with first_error():
                return asyncio.run(answer())
        except Problem as problem:
            if self.interrupted:
                raise KeyboardInterrupt from None
            raise SolverError(problem.detail) from None

    def end_if_interrupted(self, target: "Target | None") -> None:
        """End a command whose results are written, and that Ctrl-C has ended early.

        Raises:
            KeyboardInterrupt: Ctrl-C has ended it.
        """
        if self.interrupted:
            where = "the output" if target is None or target.is_stdout else shown_name(target.path)
            typer.echo(f"enflow: {where} has what was finished", err=True)
            raise KeyboardInterrupt

    @asynccontextmanager
    async def served(self) -> AsyncIterator[ServedModel]:
        """Give the model with a running engine and RDKit processes."""
        telemetry = Telemetry()
        chemistry = RDKitPool(ChemistrySettings(processes=self._rdkit_processes), self.limits, telemetry)
        try:
            loading = asyncio.to_thread(self._load_engine)
            engine, _ = await asyncio.gather(loading, asyncio.sleep(0) if self.card.system else chemistry.start())
            client = OfflineClient(engine)
            kind = ServedParticles if self.card.system else ServedModel
            async with asyncio.TaskGroup() as tasks:
                stepping = tasks.create_task(client.step_forever())
                self._end_on_interrupt(client)
                yield kind(client, chemistry, self.card, self.limits, telemetry)
                stepping.cancel()
        finally:
            chemistry.close()

    def _end_on_interrupt(self, client: OfflineClient) -> None:
        """Let the first Ctrl-C cancel what is not finished; the next one ends the process, as without this function."""
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            self.interrupted = True
            loop.remove_signal_handler(signal.SIGINT)
            client.cancel_all()

        with suppress(NotImplementedError):  # asyncio has no signal handlers on Windows
            loop.add_signal_handler(signal.SIGINT, interrupt)

    def _load_engine(self) -> "Engine":
        from enflow.model.checkpoint import load_any
        from enflow.service.engine.core import Engine

        return Engine(load_any(self._folder, self._device))


def cpu_count() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Target:
    """A file to write, or standard output, and the format."""

    path: Path
    form: Format

    @property
    def is_stdout(self) -> bool:
        """True for standard output."""
        return self.path == STANDARD_STREAM

    def write(self, text: str) -> None:
        """Write the file, whole or not at all, or print the text.

        Raises:
            DataError: the file cannot be written.
        """
        if self.is_stdout:
            typer.echo(text, nl=False)
            return
        try:
            write_output(self.path, text)
        except OSError as error:
            raise DataError(f"cannot write {shown_name(self.path)}: {error.strerror}") from None


def parse_target(out: Path | None) -> Target | None:
    """Return the file that --out names, checked before anything is computed; "-" is XYZ on standard output.

    Raises:
        ConfigError: the ending names no format, or the file cannot be written there.
    """
    if out is None:
        return None
    if out == STANDARD_STREAM:
        return Target(out, "xyz")
    ending = out.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        expected = ", ".join(f".{form}" for form in FORMATS)
        raise ConfigError(f"found the ending {ending!r} of {out}; expected one of {expected}")
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ConfigError(f"cannot write {out}: expected a file in a folder that exists and can be written")
    return Target(out, FORMATS[FORMATS.index(ending)])


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; that of standard input for "-".

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return read_standard_input() if path == STANDARD_STREAM else path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {shown_name(path)}: {error.strerror}") from None


def check_target(card: ModelCard, target: Target | None) -> None:
    """Check that the model has what the format of a file holds.

    Raises:
        ConfigError: an SDF or a CSV of particles, which have no bonds and no formula.
    """
    if card.system and target and target.form in ("sdf", "csv"):
        raise ConfigError(
            f"found the ending {target.form}, but {card.name} is of particles; expected .xyz, .json or .html"
        )


def file_text(molecules: Sequence[Molecule], bonds: Sequence[Bonds], form: Format) -> str:
    """Return molecules as the text of a file, with coordinates of `DECIMALS` decimals."""
    rounded = [replace(each, positions=np.round(each.positions, DECIMALS)) for each in molecules]
    return write(rounded, bonds, form)


def reporter(report: ProgressCallback, stage: str, result: type[StreamEvent], total: int) -> Emit:
    """Return the receiver of events that draws the progress bar; each event of the type `result` is one step of it."""
    done = 0

    async def emit(event: StreamEvent) -> None:
        nonlocal done
        done += isinstance(event, result)
        report(stage, done, total)

    return emit


Options = TypeVar("Options", bound=BaseModel)


def validated(schema: type[Options], values: Mapping[str, Any], offline: OfflineModel) -> Options:
    """Return the options of a command as the schema of the service, within the limits of the model.

    Raises:
        ConfigError: a value is out of range.
    """
    try:
        return schema.model_validate(values, context=offline.limits)
    except ValidationError as error:
        found = from_validation(error).errors
        raise ConfigError("; ".join(f"{each.at.strip('/')}: {each.message}".lstrip(": ") for each in found)) from None


def parse_tolerance(tolerance: str) -> float:
    """Return the number of a tolerance that is a name or a number.

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
