"""A model in this process whose engine is a fake client: the commands without weights."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from enflow.service.chemistry.rdkit_pool import RDKitPool
from enflow.service.cli import likelihood, sample, variations
from enflow.service.cli.offline import OfflineModel
from enflow.service.handlers.served_model import ServedModel
from enflow.service.model_card import ModelCard
from enflow.service.settings import RequestLimits
from enflow.service.telemetry import Telemetry
from tests.service.fake_client import FakeClient
from tests.service.serving import one_worker, some_card


class FakeModel(OfflineModel):
    """Molecules of 29 atoms at most; `client` computes."""

    def __init__(self, client: FakeClient, chemistry: RDKitPool) -> None:
        self.client, self.chemistry, self.interrupted = client, chemistry, False
        self.card = ModelCard(some_card("fake"), {})

    @asynccontextmanager
    async def served(self) -> AsyncIterator[ServedModel]:
        await self.chemistry.start()
        yield ServedModel(self.client, self.chemistry, self.card, self.limits, Telemetry())


@pytest.fixture(scope="session")
def chemistry() -> Iterator[RDKitPool]:
    pool = RDKitPool(one_worker(), RequestLimits(), Telemetry())
    yield pool
    pool.close()


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch, chemistry: RDKitPool, tmp_path: Path) -> FakeModel:
    """The model of the commands, which run in an empty folder."""
    model = FakeModel(FakeClient(), chemistry)
    for command in (sample, likelihood, variations):
        monkeypatch.setattr(command, "OfflineModel", lambda *_: model)
    monkeypatch.chdir(tmp_path)
    return model
