"""The computation of jobs without HTTP and without RDKit, for a process that is killed."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.molecule import Molecule
from enflow.service.chemistry.rdkit_pool import BondReport, RDKitPool
from enflow.service.handlers.job_runner import JobRunner
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.handlers.served_model import ServedModel
from enflow.service.jobs.store import JobStore
from enflow.service.model_card import read_model_card
from enflow.service.protocol.requests import EngineRequest, Structure
from enflow.service.settings import JobSettings, RequestLimits
from enflow.service.telemetry import Telemetry
from tests.service.fake_client import METHANE, FakeClient


def scaled(index: int) -> Structure:
    """Return methane whose size tells its index."""
    return Structure(METHANE.atomic_numbers, METHANE.positions * (1 + index / 100_000))


class NoChemistry:
    """Chemistry that finds no bonds."""

    async def bond_report(self, molecule: Molecule, *, describe: bool = False) -> BondReport:  # noqa: ARG002
        return BondReport(Bonds("failed", "none", reason="not asked"), 0, molecule.n_atoms)


@dataclass
class LimitedClient(FakeClient):
    """A client that answers a limited number of requests, so that a process that lives long does not end its job."""

    requests: int = 1

    async def submit(self, request: EngineRequest) -> None:
        self.requests -= 1
        self.pause = self.pause if self.requests >= 0 else 1e6
        await super().submit(request)


def compute(folder: Path, url: str, parts: int) -> None:
    """Compute so many parts of the jobs of a database, and then wait for ever."""
    asyncio.run(_compute(folder, url, parts))


async def _compute(folder: Path, url: str, parts: int) -> None:
    limits, card = RequestLimits(), read_model_card(folder)
    client = LimitedClient(molecule=scaled, steps=5, pause=0.01, requests=parts)
    served = ServedModel(client, cast("RDKitPool", NoChemistry()), card, limits, Telemetry())
    registry = ModelRegistry({card.name: served}, limits)
    await JobRunner(JobStore(url), registry, JobSettings(), asyncio.Semaphore(1)).run()
