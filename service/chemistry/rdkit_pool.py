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
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, TypeVar

from pebble import ProcessExpired, ProcessPool

from enflow.model.chem.analysis.metrics import stability
from enflow.model.chem.bonds import Bonds, infer_bonds
from enflow.model.chem.io.formats import read, write
from enflow.model.chem.io.sdf import write_sdf
from enflow.model.chem.io.text import ReadLimits as TextLimits
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError
from enflow.service.problems import Problem, retry_after
from enflow.service.settings import ChemistrySettings, RequestLimits
from enflow.service.telemetry import Telemetry

T = TypeVar("T")

FAILURES = (FutureTimeout, ProcessExpired, BrokenProcessPool, MemoryError)
"""How a worker ends before its work."""

FileFormat = Literal["xyz", "sdf", "smiles3d"]
WrittenForm = Literal["sdf", "sdf-v3000", "html"]


@dataclass(frozen=True)
class BondReport:
    """A molecule's bonds, and how many of its atoms have their valence by the distance table."""

    bonds: Bonds
    stable_atoms: int
    n_atoms: int

    @property
    def unstable_atoms(self) -> int:
        """Atoms that have not their valence."""
        return self.n_atoms - self.stable_atoms

    @property
    def stable(self) -> bool:
        """Whether every atom has its valence."""
        return not self.unstable_atoms

    @property
    def atom_stability(self) -> float:
        """Share of the atoms that have it."""
        return self.stable_atoms / self.n_atoms


class RDKitPool:
    """The pool of workers."""

    def __init__(self, settings: ChemistrySettings, limits: RequestLimits, telemetry: Telemetry) -> None:
        self._settings = settings
        self._limits = TextLimits(limits.max_bytes, limits.max_records)
        self._telemetry = telemetry
        self._pool = self._new_pool()

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
        except FAILURES as error:
            raise Problem("invalid", f"reading this upload was given up: {self._reason(error, 'read_s')}") from None

    async def draw(self, molecule: Molecule) -> BondReport:
        """The bonds and the stability of a molecule; a molecule without bonds says why."""
        started = time.perf_counter()
        try:
            drawing = await self._call(self._settings.bonds_s, _draw, molecule)
        except FAILURES as error:
            failed = Bonds("failed", version("rdkit"), reason=self._reason(error, "bonds_s"))
            drawing = BondReport(failed, _stable_atoms(molecule), molecule.n_atoms)
        self._telemetry.bonds_seconds.observe(time.perf_counter() - started)
        self._telemetry.bonds.labels(drawing.bonds.method or "failed").inc()
        return drawing

    async def write(self, molecules: Sequence[Molecule], bonds: Sequence[Bonds], form: WrittenForm) -> str:
        """Molecules with their bonds as a file, their properties in it.

        Raises:
            Problem: writing it took too long or too much memory.
        """
        try:
            return await self._call(self._settings.read_s, _write, list(molecules), list(bonds), form)
        except FAILURES as error:
            detail = f"writing this answer was given up: {self._reason(error, 'read_s')}; ask for fewer molecules"
            raise Problem("unavailable", detail, headers=retry_after(5)) from None

    def close(self) -> None:
        """Kill the workers."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    async def _call(self, seconds: float, function: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.wrap_future(self._running_pool().schedule(function, args=args, timeout=seconds))
        except BrokenProcessPool:  # by another's death; what was asked for has not begun
            return await asyncio.wrap_future(self._running_pool().schedule(function, args=args, timeout=seconds))

    def _running_pool(self) -> ProcessPool:
        """The pool, a new one where it broke: pebble gives up for good when a worker dies that has nothing to do."""
        if not self._pool.active:
            broken, self._pool = self._pool, self._new_pool()
            broken.stop()  # type: ignore[no-untyped-call]
            asyncio.get_running_loop().run_in_executor(None, broken.join)  # its workers end; it waits for them
        return self._pool

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            self._settings.processes,
            initializer=_bound_memory,
            initargs=(self._settings.memory_bytes,),
            context=multiprocessing.get_context("spawn"),  # a fork would carry the service's threads and sockets along
        )

    def _reason(self, error: BaseException, setting: str) -> str:
        if isinstance(error, FutureTimeout):
            return f"not finished within {getattr(self._settings, setting):g} s"
        return "it took more memory than allowed" if isinstance(error, MemoryError) else "the worker crashed"


def _bound_memory(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _stable_atoms(molecule: Molecule) -> int:
    return int(stability([molecule]).stable_atoms[0])


def _draw(molecule: Molecule) -> BondReport:
    return BondReport(infer_bonds(molecule), _stable_atoms(molecule), molecule.n_atoms)


def _read(data: bytes, form: FileFormat | None, limits: TextLimits) -> list[Molecule | StructureError]:
    return read(data, form, limits)


def _write(molecules: list[Molecule], bonds: list[Bonds], form: WrittenForm) -> str:
    if form == "sdf-v3000":
        return write_sdf(molecules, bonds, v3000=True)
    return write(molecules, bonds, form)
