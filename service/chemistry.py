"""RDKit and the parsers of uploads, in processes that can be killed: each call has a deadline and bounded memory.

RDKit holds the interpreter's lock, swallows interrupts and can search for ever; a thread could not be stopped. A crash
or a runaway ends one worker, which pebble replaces; the molecule is answered with the reason. The workers import no
torch.
"""

import asyncio
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, TypeVar

from pebble import ProcessExpired, ProcessPool

from model.chem.bonds import Bonds, infer_bonds
from model.chem.formats import read, write
from model.chem.metrics import stability
from model.chem.molecule import Molecule
from model.chem.sdf import write_sdf
from model.chem.text import Limits as TextLimits
from model.errors import StructureError
from service.problems import Problem
from service.settings import ChemistrySettings, Limits
from service.telemetry import Telemetry

T = TypeVar("T")

FileFormat = Literal["xyz", "sdf", "smiles3d"]
WrittenForm = Literal["sdf", "sdf-v3000", "html"]


@dataclass(frozen=True)
class Drawing:
    """A molecule's bonds, and how many of its atoms have their valence by the distance table."""

    bonds: Bonds
    atom_stability: float
    stable: bool


class Chemistry:
    """The pool of workers."""

    def __init__(self, settings: ChemistrySettings, limits: Limits, telemetry: Telemetry) -> None:
        self._settings = settings
        self._limits = TextLimits(limits.max_bytes, limits.max_records)
        self._telemetry = telemetry
        self._pool = ProcessPool(
            settings.processes,
            initializer=_bound_memory,
            initargs=(settings.memory_bytes,),
            context=multiprocessing.get_context("spawn"),  # a fork would carry the service's threads and sockets along
        )

    async def start(self) -> None:
        """Let the first workers load RDKit, so that no caller waits for that.

        Raises:
            ProcessExpired: a worker cannot start, as where `memory_bytes` is too small.
        """
        methane = Molecule([6, 1, 1, 1, 1], [[0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
        start_s = 120.0  # a cold disk and a busy core
        await asyncio.gather(*(self._call(start_s, _draw, methane) for _ in range(self._settings.processes)))

    async def read(self, data: bytes, form: FileFormat | None) -> list[Molecule | StructureError]:
        """The structures of an upload in order, each a molecule or what is wrong with it.

        Raises:
            StructureError: the file as a whole cannot be read.
            Problem: reading it took too long or too much memory.
        """
        try:
            return await self._call(self._settings.read_s, _read, data, form, self._limits)
        except (FutureTimeout, ProcessExpired, MemoryError) as error:
            raise Problem("invalid", f"reading this upload was given up: {self._reason(error, 'read_s')}") from None

    async def draw(self, molecule: Molecule) -> Drawing:
        """The bonds and the stability of a molecule; a molecule without bonds says why."""
        started = time.perf_counter()
        try:
            drawing = await self._call(self._settings.bonds_s, _draw, molecule)
        except (FutureTimeout, ProcessExpired, MemoryError) as error:
            failed = Bonds("failed", version("rdkit"), reason=self._reason(error, "bonds_s"))
            drawing = Drawing(failed, *_stability(molecule))
        self._telemetry.bonds_seconds.observe(time.perf_counter() - started)
        self._telemetry.bonds.labels(drawing.bonds.method or "failed").inc()
        return drawing

    async def write(self, molecules: Sequence[Molecule], bonds: Sequence[Bonds], form: WrittenForm) -> str:
        """Molecules with their bonds as a file, their properties in it."""
        return await self._call(self._settings.read_s, _write, list(molecules), list(bonds), form)

    def close(self) -> None:
        """Kill the workers."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    async def _call(self, seconds: float, function: Callable[..., T], *args: Any) -> T:
        future = self._pool.schedule(function, args=args, timeout=seconds)
        return await asyncio.wrap_future(future)

    def _reason(self, error: BaseException, setting: str) -> str:
        if isinstance(error, FutureTimeout):
            return f"not finished within {getattr(self._settings, setting):g} s"
        return "it took more memory than allowed" if isinstance(error, MemoryError) else "the worker crashed"


def _bound_memory(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _stability(molecule: Molecule) -> tuple[float, bool]:
    found = stability([molecule])
    return found.atom_stability, bool(found.stable[0])


def _draw(molecule: Molecule) -> Drawing:
    return Drawing(infer_bonds(molecule), *_stability(molecule))


def _read(data: bytes, form: FileFormat | None, limits: TextLimits) -> list[Molecule | StructureError]:
    return read(data, form, limits)


def _write(molecules: list[Molecule], bonds: list[Bonds], form: WrittenForm) -> str:
    if form == "sdf-v3000":
        return write_sdf(molecules, bonds, v3000=True)
    return write(molecules, bonds, form)
