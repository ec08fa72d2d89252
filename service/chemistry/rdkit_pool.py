"""A pool of RDKit processes: each call has a deadline and bounded memory.

RDKit holds the interpreter's lock, ignores interrupts and may search without end: a thread could not be stopped. A
crash or a timeout ends one worker, which pebble replaces; the molecule is returned with the reason. The workers import
no torch.

The processes are shared between clients in turn. Uploads, which may take long, use all processes but one.
"""

import asyncio
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, NamedTuple, TypeVar

from pebble import ProcessExpired, ProcessPool

from enflow.model.chem.analysis.descriptors import MoleculeDescriptors
from enflow.model.chem.analysis.descriptors import describe as describe_molecule
from enflow.model.chem.analysis.metrics import stability
from enflow.model.chem.bonds import Bonds, infer_bonds
from enflow.model.chem.depiction import depict
from enflow.model.chem.io.formats import FileFormat, read, write
from enflow.model.chem.io.sdf import mol_block, write_sdf
from enflow.model.chem.io.text import ReadLimits as TextLimits
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError
from enflow.service.chemistry.fair_batches import Batcher, FairSemaphore
from enflow.service.problems import Problem, retry_after
from enflow.service.processes import UninterruptedContext
from enflow.service.settings import ChemistrySettings, RequestLimits
from enflow.service.telemetry import Telemetry

T = TypeVar("T")

KILLED = (ProcessExpired, BrokenProcessPool)
FAILURES = (FutureTimeout, MemoryError, *KILLED)
"""The errors of a worker that ended before its call did; after those of `KILLED` the call is made once more."""

current_client: ContextVar[str] = ContextVar("current_client", default="")
"""The client for whom the current task works; the processes are shared between clients."""

GRACE_S = 1.0
"""Seconds that a running call gets when its caller has gone: a worker that is killed must load RDKit again."""
START_S = 120.0
"""Seconds that a worker may take to load RDKit, from a cold disk and on a busy core."""

DESCRIBE_S = 30.0
"""Seconds that the descriptors of a molecule may take: a worker loads the fragments of the SA score at the first."""

WrittenForm = Literal["sdf", "sdf-v3000", "html"]


class BondTask(NamedTuple):
    """A molecule whose bonds are wanted, and whether its descriptors are too."""

    molecule: Molecule
    describe: bool = False


@dataclass(frozen=True)
class Upload:
    """A file of structures; the format None is detected from the data."""

    form: FileFormat | None
    data: bytes
    name: str | None = None


@dataclass(frozen=True)
class BondReport:
    """The bonds, the stability and the molfile of a molecule.

    Attributes:
        bonds: the inferred bonds, or the reason why there are none.
        stable_atoms: the number of atoms that have their valence by the table of bond lengths.
        n_atoms: the number of atoms.
        mol_block: the molfile without a title; None where RDKit was not asked, or its process failed.
        descriptors: the descriptors; None where they were not asked for, or no bonds were found.
    """

    bonds: Bonds
    stable_atoms: int
    n_atoms: int
    mol_block: str | None = None
    descriptors: MoleculeDescriptors | None = None

    @property
    def unstable_atoms(self) -> int:
        """The number of atoms without their valence."""
        return self.n_atoms - self.stable_atoms

    @property
    def stable(self) -> bool:
        """True where every atom has its valence."""
        return not self.unstable_atoms

    @property
    def atom_stability(self) -> float:
        """The share of the atoms that have their valence."""
        return self.stable_atoms / self.n_atoms


class RDKitPool:
    """A pool of RDKit processes.

    Args:
        settings: the number of processes, and the limits of a call.
        limits: the limits of an upload.
        telemetry: counts the inferred bonds and their time.
    """

    def __init__(self, settings: ChemistrySettings, limits: RequestLimits, telemetry: Telemetry) -> None:
        self._settings = settings
        self._limits = TextLimits(limits.max_bytes, limits.max_records, max_embedded_atoms=limits.max_atoms)
        self._telemetry = telemetry
        self._places, self._reading = FairSemaphore(settings.processes), FairSemaphore(max(1, settings.processes - 1))
        self._bonds = Batcher(self._places, settings.processes, self._infer_bonds)
        self._pool = self._new_pool()

    async def start(self) -> None:
        """Let every worker load RDKit before the first request.

        Raises:
            ProcessExpired: a worker cannot start, for instance because `memory_bytes` is too small.
        """
        methane = Molecule([6, 1, 1, 1, 1], [[0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
        await asyncio.gather(
            *(self._call(START_S, _bond_reports, [BondTask(methane)]) for _ in range(self._settings.processes))
        )

    async def read(
        self, data: bytes, form: FileFormat | None, max_records: int | None = None, *, open_bonds: bool = False
    ) -> list[Molecule | StructureError]:
        """Return the structures of an upload in order, each a molecule or its error.

        Args:
            data: the file.
            form: its format; None = by the content.
            max_records: the most structures; None = the limit of a request.
            open_bonds: hydrogens may be missing, as in a fragment.

        Raises:
            StructureError: the file as a whole cannot be read.
            Problem: the time or the memory of the call was exceeded.
        """
        await self._reading.acquire(current_client.get())
        release_after = 0.0
        try:
            most = max_records or self._limits.max_records
            limits = replace(self._limits, max_records=most, open_bonds=open_bonds)
            return await self._call(self._settings.read_s, read, data, form, limits)
        except FAILURES as error:
            raise Problem("invalid", f"reading this upload was stopped: {self._reason(error, 'read_s')}") from None
        except asyncio.CancelledError:
            release_after = GRACE_S  # until then a worker may still be busy
            raise
        finally:
            asyncio.get_running_loop().call_later(release_after, self._reading.release)

    async def bond_report(self, molecule: Molecule, *, describe: bool = False) -> BondReport:
        """Infer bonds, count stable atoms and write the molfile; molecules that wait go to a process in one call.

        Args:
            molecule: the molecule.
            describe: compute its descriptors too.
        """
        started = time.perf_counter()
        report = await self._bonds.run(current_client.get(), BondTask(molecule, describe))
        self._telemetry.bonds_seconds.observe(time.perf_counter() - started)
        self._telemetry.bonds.labels(report.bonds.method or "failed").inc()
        return report

    async def write(self, molecules: Sequence[Molecule], bonds: Sequence[Bonds], form: WrittenForm) -> str:
        """Write molecules with their bonds and their properties as a file.

        Raises:
            Problem: the time or the memory of the call was exceeded.
        """
        try:
            return await self._call(self._settings.read_s, _write, list(molecules), list(bonds), form)
        except FAILURES as error:
            detail = f"writing this file was stopped: {self._reason(error, 'read_s')}; ask for fewer molecules"
            raise Problem("unavailable", detail, headers=retry_after(5)) from None

    async def depict(self, smiles: str, *, dark: bool) -> str:
        """Draw the skeletal formula of a SMILES as SVG.

        Raises:
            Problem: RDKit cannot read the SMILES, or the time or the memory of the call was exceeded.
        """
        try:
            return await self._call(self._settings.bonds_s, partial(depict, dark=dark), smiles)
        except FAILURES as error:
            raise Problem("invalid", f"drawing this SMILES was stopped: {self._reason(error, 'bonds_s')}") from None

    def close(self) -> None:
        """Kill the workers."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    async def _infer_bonds(self, tasks: Sequence[BondTask]) -> Sequence[BondReport]:
        """Return the reports of molecules, in a place that is taken; a failure is the report of a single molecule."""
        seconds = self._settings.bonds_s + any(task.describe for task in tasks) * DESCRIBE_S
        try:
            try:
                return await self._run_in_place(seconds, _bond_reports, tasks)
            except KILLED:
                return await self._run(seconds, _bond_reports, tasks)
        except FAILURES as error:
            if len(tasks) > 1:
                raise
            failed = Bonds("failed", version("rdkit"), reason=self._reason(error, "bonds_s"))
            stable_atoms = int(stability([tasks[0].molecule]).stable_atoms[0])
            return [BondReport(failed, stable_atoms, tasks[0].molecule.n_atoms)]

    async def _call(self, seconds: float, function: Callable[..., T], *args: Any) -> T:
        try:
            return await self._run(seconds, function, *args)
        except KILLED:
            return await self._run(seconds, function, *args)

    async def _run(self, seconds: float, function: Callable[..., T], *args: Any) -> T:
        await self._places.acquire(current_client.get())
        return await self._run_in_place(seconds, function, *args)

    async def _run_in_place(self, seconds: float, function: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            running: Future[T] = self._running_pool().schedule(function, args=args, timeout=seconds)
        except BaseException:
            self._places.release()
            raise
        running.add_done_callback(lambda _: _soon(loop, self._places.release))
        try:
            return await asyncio.shield(asyncio.wrap_future(running))
        except asyncio.CancelledError:
            loop.call_later(GRACE_S if running.running() else 0, running.cancel)  # this kills a worker that is busy
            raise

    def _running_pool(self) -> ProcessPool:
        """Return the pool, or a new one if it broke: pebble stops for good when an idle worker dies."""
        if not self._pool.active:
            broken, self._pool = self._pool, self._new_pool()
            broken.stop()  # type: ignore[no-untyped-call]
            asyncio.get_running_loop().run_in_executor(None, broken.join)  # waits until its workers have ended
        return self._pool

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            self._settings.processes,
            initializer=_bound_memory,
            initargs=(self._settings.memory_bytes,),
            context=UninterruptedContext(),
        )

    def _reason(self, error: BaseException, setting: str) -> str:
        if isinstance(error, FutureTimeout):
            return f"not finished within {getattr(self._settings, setting):g} s"
        return "it needed more memory than allowed" if isinstance(error, MemoryError) else "the RDKit process crashed"


def _soon(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed, and nobody waits for a place
        loop.call_soon_threadsafe(act)


def _bound_memory(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _bond_reports(tasks: Sequence[BondTask]) -> list[BondReport]:
    stable_atoms = stability([task.molecule for task in tasks]).stable_atoms.tolist()
    return [_bond_report(*each) for each in zip(tasks, stable_atoms, strict=True)]


def _bond_report(task: BondTask, stable_atoms: int) -> BondReport:
    molecule, bonds = task.molecule, infer_bonds(task.molecule)
    report = BondReport(bonds, stable_atoms, molecule.n_atoms, mol_block(molecule, bonds))
    return replace(report, descriptors=describe_molecule(molecule, bonds)) if task.describe else report


def _write(molecules: list[Molecule], bonds: list[Bonds], form: WrittenForm) -> str:
    if form == "sdf-v3000":
        return write_sdf(molecules, bonds, v3000=True)
    return write(molecules, bonds, form)
