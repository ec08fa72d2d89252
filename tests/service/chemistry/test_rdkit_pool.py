"""RDKit in its processes: a call that hangs or takes too much memory is ended, and torch is not imported."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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


def sleeper(_: object) -> list[rdkit_pool.BondReport]:
    time.sleep(600)
    raise AssertionError


def glutton(_: object) -> list[rdkit_pool.BondReport]:
    hoard = bytearray(3_000_000_000)
    raise AssertionError(len(hoard))


def quitter(_: object) -> list[rdkit_pool.BondReport]:
    os._exit(139)


def killed_once(begun: Path, name: str, *args: Any) -> Any:
    """Be killed at the first call, as by the system when memory is short."""
    if not begun.exists():
        begun.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return getattr(rdkit_pool, name)(*args)  # the process has the function of the module


def process(_: Molecule) -> int:
    return os.getpid()


def modules(_: Molecule) -> list[str]:
    return sorted(sys.modules)


def with_chemistry(act: Callable[[RDKitPool], Awaitable[T]], processes: int = 1) -> T:
    async def run() -> T:
        settings = ChemistrySettings(processes=processes, bonds_s=120, read_s=120)
        pool = RDKitPool(settings, RequestLimits(), Telemetry())
        try:
            await pool.start()
            return await act(pool)
        finally:
            pool.close()

    return asyncio.run(run())


def test_a_worker_that_hangs_eats_or_dies_costs_one_molecule(monkeypatch: pytest.MonkeyPatch) -> None:
    real = rdkit_pool._bond_reports

    async def act(pool: RDKitPool) -> None:
        for task, reason in ((sleeper, "not finished within 1 s"), (glutton, "more memory"), (quitter, "crashed")):
            monkeypatch.setattr(rdkit_pool, "_bond_reports", task)
            patient = pool._settings
            if task is sleeper:
                pool._settings = patient.model_copy(update={"bonds_s": 1.0})
            report = await pool.bond_report(METHANE)
            pool._settings = patient
            assert report.bonds.status == "failed"
            assert report.bonds.reason is not None
            assert reason in report.bonds.reason
            assert report.stable  # the distance table needs no RDKit
            monkeypatch.setattr(rdkit_pool, "_bond_reports", real)
            assert (await pool.bond_report(METHANE)).bonds.smiles == "C"

    with_chemistry(act)


def poisoned(tasks: Sequence[rdkit_pool.BondTask]) -> list[rdkit_pool.BondReport]:
    """Note the size of the batch, or end the process for a molecule with fluorine."""
    if any(9 in each.molecule.atomic_numbers for each in tasks):
        os._exit(139)
    reports = rdkit_pool._bond_reports(tasks)  # the process has the function of the module
    return [replace(each, mol_block=f"a batch of {len(tasks)}") for each in reports]


def test_molecules_that_come_together_share_calls_and_a_bad_one_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdkit_pool, "_bond_reports", poisoned)
    fluorine = Molecule([9, 1], [[0, 0, 0], [0.92, 0, 0]])

    async def act(pool: RDKitPool) -> list[list[rdkit_pool.BondReport]]:
        return [
            await asyncio.gather(*map(pool.bond_report, molecules))
            for molecules in ([METHANE] * 20, [METHANE] * 3 + [fluorine] + [METHANE] * 2, [METHANE])
        ]

    many, mixed, one = with_chemistry(act)
    assert [each.mol_block for each in many] == ["a batch of 16"] * 16 + ["a batch of 4"] * 4
    assert [each.bonds.smiles for each in mixed] == ["C", "C", "C", None, "C", "C"]
    assert "crashed" in str(mixed[3].bonds.reason)
    assert one[0].mol_block == "a batch of 1"


def test_the_death_of_an_idle_worker_is_not_noticed() -> None:
    async def act(pool: RDKitPool) -> None:
        for _ in range(2):
            worker = await pool._call(300, process, METHANE)
            os.kill(worker, signal.SIGKILL)
            while pool._pool.active:  # until the pool itself has noticed, and given up
                await asyncio.sleep(0.02)
            assert (await pool._call(300, rdkit_pool._bond_reports, [rdkit_pool.BondTask(METHANE)]))[
                0
            ].bonds.smiles == "C"

    with_chemistry(act)


def test_a_call_whose_process_is_killed_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def act(pool: RDKitPool) -> None:
        for name in ("read", "_bond_reports"):
            monkeypatch.setattr(rdkit_pool, name, partial(killed_once, tmp_path / name, name))
        (found,) = await pool.read(b"1\n\nH 0 0 0\n", "xyz")
        assert isinstance(found, Molecule)
        assert (await pool.bond_report(METHANE)).bonds.smiles == "C"

    with_chemistry(act)
    assert {each.name for each in tmp_path.iterdir()} == {"read", "_bond_reports"}


def test_workers_hold_no_torch() -> None:
    loaded = with_chemistry(lambda pool: pool._call(300, modules, METHANE))
    assert "rdkit" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("torch", "fastapi", "uvicorn")}


def test_an_upload_that_takes_too_long_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdkit_pool, "read", lambda *_: None)

    async def act(pool: RDKitPool) -> None:
        monkeypatch.setattr(rdkit_pool, "read", _slow_read)
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


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


async def hang_up(pool: RDKitPool, seconds: float) -> None:
    """Cancel a call while it runs."""
    call = asyncio.create_task(pool._call(700, nap, seconds))
    while not any(task.started for task in pool._pool._pool_manager.task_manager.tasks.values()):
        await asyncio.sleep(0.01)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call


def test_a_hang_up_leaves_a_healthy_worker_alive_and_ends_one_that_would_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(pool: RDKitPool) -> None:
        worker = await pool._call(300, process, METHANE)
        with monkeypatch.context() as patch:
            patch.setattr(rdkit_pool, "GRACE_S", 300.0)  # a slow machine may take long for a short nap
            await hang_up(pool, 0.3)
            assert await pool._call(300, process, METHANE) == worker
        await hang_up(pool, 600)
        assert await pool._call(300, process, METHANE) != worker

    with_chemistry(act)


def test_clients_share_the_workers_in_turn() -> None:
    async def calls(pool: RDKitPool, client: str, count: int, order: list[str]) -> None:
        async def one() -> None:
            await pool._call(60, nap, 0.02)
            order.append(client)

        rdkit_pool.current_client.set(client)
        await asyncio.gather(*(one() for _ in range(count)))

    async def act(pool: RDKitPool) -> list[str]:
        order: list[str] = []
        await asyncio.gather(calls(pool, "greedy", 20, order), calls(pool, "other", 2, order))
        return order

    order = with_chemistry(act)
    assert "".join(each[0] for each in order).startswith("ggogo")


def test_uploads_leave_a_worker_for_short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdkit_pool, "read", _slow_read)

    async def act(pool: RDKitPool) -> None:
        reading = [asyncio.create_task(pool.read(b"", "xyz")) for _ in range(3)]
        await asyncio.sleep(0)
        assert (await pool.bond_report(METHANE)).bonds.smiles == "C"
        for each in reading:
            each.cancel()
        await asyncio.gather(*reading, return_exceptions=True)

    with_chemistry(act, processes=2)


def test_a_smiles_that_no_model_takes_is_refused_before_it_costs_time() -> None:
    ring = b"C1" + b"=C" * 97 + b"1"
    (error,) = with_chemistry(lambda pool: pool.read(ring, "smiles3d"))
    assert "found 100 atoms with hydrogen, expected 1 to 29" in str(error)
