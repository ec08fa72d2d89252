"""`enflow sample` tries and keeps what the service tries and keeps."""

from collections.abc import Iterator

import pytest

from enflow.model.errors import SolverError
from enflow.service.chemistry.acceptance import Only
from enflow.service.cli import sample as command
from enflow.service.model_card import ModelCard
from enflow.service.protocol.events import Event, Sampled, Scored
from enflow.service.protocol.requests import EngineLikelihoodRequest, EngineSampleRequest
from tests.service.fake_client import METHANE, TORN


class Few:
    """An engine of which only molecules of these indices are sound."""

    def __init__(self, *sound: int) -> None:
        self.sound = sound
        self.card = ModelCard(
            {"name": "few", "weights_sha256": "0", "config": {"vocabulary": [1, 6], "max_atoms": 5}}, {}
        )
        self.tried: list[int] = []

    def answers(self, *works: EngineSampleRequest | EngineLikelihoodRequest) -> Iterator[Event]:
        for each in works:
            if isinstance(each, EngineLikelihoodRequest):
                parts = {"base": 1.0, "divergence": 0.0, "dequantizer": 0.0, "n_atoms": 0.0}
                yield Scored(each.id, each.first_index, 10.0 + each.first_index, None, parts, 60, "success", 0.0)
                continue
            for index in range(each.first_index, each.first_index + len(each.n_atoms)):
                self.tried.append(index)
                yield Sampled(each.id, index, *(METHANE if index in self.sound else TORN), 60, "success")


def harvest(engine: Few, only: Only, n: int = 2, first_index: int = 0) -> command.SampleCollector:
    wanted = EngineSampleRequest(id="", seed=1, n_atoms=(None,) * n, first_index=first_index)
    return command._harvest(engine, wanted, only, lambda *_: None)  # type: ignore[arg-type]


def test_it_keeps_what_the_service_keeps() -> None:
    """As test_only_valid_tries_on_and_says_so of the service: 0 and 2 fail, 4 and 1 pass."""
    found = harvest(engine := Few(1, 4, 6, 7), "valid")
    assert sorted(found.kept) == [1, 4]
    assert (engine.tried, found.tried, dict(found.rejected)) == ([0, 1, 2, 4], 4, {"not valid": 2})
    assert dict(found.reasons) == {"no bonds give every atom a closed shell at total charge 0": 2}
    assert sorted(harvest(Few(15, 12), "stable", first_index=10).kept) == [12, 15]


def test_any_takes_all_as_they_come() -> None:
    found = harvest(Few(), "any", n=3)
    assert sorted(found.kept) == [0, 1, 2]


def test_it_gives_up() -> None:
    engine = Few()
    with pytest.raises(SolverError, match="none of 100"):
        harvest(engine, "valid")
    assert engine.tried == list(range(2 * command.ATTEMPTS))


def test_only_what_is_kept_is_scored_each_by_its_own_index() -> None:
    engine = Few(1, 4)
    wanted = EngineSampleRequest(id="", seed=1, n_atoms=(None,) * 2)
    found = command._harvest(engine, wanted, "valid", lambda *_: None)  # type: ignore[arg-type]
    command._score(engine, found, wanted, lambda *_: None)  # type: ignore[arg-type]
    assert {index: molecule.properties["nll"] for index, (molecule, _) in found.kept.items()} == {1: 11.0, 4: 14.0}
