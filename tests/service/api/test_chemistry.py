"""RDKit in its processes: a call that hangs or takes too much memory is ended, and torch is not imported."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from enflow.model.chem.molecule import Molecule
from enflow.service.chemistry import rdkit_pool
from enflow.service.chemistry.rdkit_pool import RDKitPool
from enflow.service.problems import Problem
from enflow.service.settings import ChemistrySettings, RequestLimits
from enflow.service.telemetry import Telemetry

T = TypeVar("T")
METHANE = Molecule(
    [6, 1, 1, 1, 1], [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]
)


def sleeper(_: Molecule) -> rdkit_pool.BondReport:
    time.sleep(600)
    raise AssertionError


def glutton(_: Molecule) -> rdkit_pool.BondReport:
    hoard = bytearray(3_000_000_000)
    raise AssertionError(len(hoard))


def quitter(_: Molecule) -> rdkit_pool.BondReport:
    os._exit(139)


def process(_: Molecule) -> int:
    return os.getpid()


def modules(_: Molecule) -> list[str]:
    return sorted(sys.modules)


def with_chemistry(act: Callable[[RDKitPool], Awaitable[T]]) -> T:
    async def run() -> T:
        pool = RDKitPool(ChemistrySettings(processes=1, bonds_s=120, read_s=120), RequestLimits(), Telemetry())
        try:
            await pool.start()
            return await act(pool)
        finally:
            pool.close()

    return asyncio.run(run())


def test_a_worker_that_hangs_eats_or_dies_costs_one_molecule(monkeypatch: pytest.MonkeyPatch) -> None:
    real = rdkit_pool._bond_report

    async def act(pool: RDKitPool) -> None:
        for task, reason in ((sleeper, "not finished within 1 s"), (glutton, "more memory"), (quitter, "crashed")):
            monkeypatch.setattr(rdkit_pool, "_bond_report", task)
            patient = pool._settings
            if task is sleeper:
                pool._settings = patient.model_copy(update={"bonds_s": 1.0})
            report = await pool.bond_report(METHANE)
            pool._settings = patient
            assert report.bonds.status == "failed"
            assert report.bonds.reason is not None
            assert reason in report.bonds.reason
            assert report.stable  # the distance table needs no RDKit
            monkeypatch.setattr(rdkit_pool, "_bond_report", real)
            assert (await pool.bond_report(METHANE)).bonds.smiles == "C"

    with_chemistry(act)


def test_the_death_of_an_idle_worker_is_not_noticed() -> None:
    async def act(pool: RDKitPool) -> None:
        for _ in range(2):
            worker = await pool._call(300, process, METHANE)
            os.kill(worker, signal.SIGKILL)
            while pool._pool.active:  # until the pool itself has noticed, and given up
                await asyncio.sleep(0.02)
            assert (await pool._call(300, rdkit_pool._bond_report, METHANE)).bonds.smiles == "C"

    with_chemistry(act)


def test_workers_hold_no_torch() -> None:
    loaded = with_chemistry(lambda pool: pool._call(300, modules, METHANE))
    assert "rdkit" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("torch", "fastapi", "uvicorn")}


def test_an_upload_that_takes_too_long_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdkit_pool, "_read", lambda *_: None)

    async def act(pool: RDKitPool) -> None:
        monkeypatch.setattr(rdkit_pool, "_read", _slow_read)
        pool._settings = pool._settings.model_copy(update={"read_s": 0.5})
        await pool.read(b"", "xyz")

    with pytest.raises(Problem, match="was stopped"):
        with_chemistry(act)


def test_an_answer_that_takes_too_long_to_write_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(pool: RDKitPool) -> None:
        monkeypatch.setattr(rdkit_pool, "_write", _slow_read)
        pool._settings = pool._settings.model_copy(update={"read_s": 0.5})
        await pool.write([METHANE], [], "html")

    with pytest.raises(Problem, match="ask for fewer"):
        with_chemistry(act)


def _slow_read(*_: object) -> None:
    time.sleep(600)
