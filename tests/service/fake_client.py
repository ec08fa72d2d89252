"""A client without an engine that does as it is told, for what the application promises about protocols."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import numpy as np

from enflow.service.protocol.events import Done, Encoded, Event, Failed, Progress, Reason, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineEncodeRequest,
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    LatentArrays,
    Structure,
)
from enflow.service.protocol.status import Health, Stats

METHANE = Structure(
    np.array([6, 1, 1, 1, 1]),
    0.63 * np.array([[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]),
)
TORN = Structure(METHANE.atomic_numbers, 3 * METHANE.positions)
"""The same atoms too far apart for any bond."""


@dataclass
class FakeClient:
    """Answers every sample with what `molecule` says for its index, and every other work as simply.

    `steps` progress events come first, `pause` seconds apart. What is decoded is off by `error` angstrom times the
    tolerance; at a tolerance below `finest` nothing is encoded. Molecules of the indices `unscored` have no likelihood.
    """

    molecule: Callable[[int], Structure] = lambda _: METHANE
    steps: int = 1
    pause: float = 0.0
    error: float = 0.0
    finest: float = 0.0
    unscored: set[int] = field(default_factory=set)
    refuse: Exception | None = None
    submitted: list[EngineRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    ready: bool = True

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def drain(self, timeout: float) -> None: ...

    async def submit(self, wanted: EngineRequest) -> None:
        if self.refuse:
            raise self.refuse
        self.submitted.append(wanted)

    async def abort(self, work_id: str) -> None:
        self.aborted.append(work_id)

    async def events(self, work_id: str) -> AsyncIterator[Event]:
        wanted = next(each for each in self.submitted if each.id == work_id)
        for step in range(self.steps):
            await asyncio.sleep(self.pause)
            yield Progress(work_id, wanted.first_index, step / self.steps, 6 * step)
        for event in self._answers(wanted):
            await asyncio.sleep(0)
            yield event
        self.finished.append(work_id)
        yield Done(work_id, 1.0, 2.0, 60)

    def _answers(self, wanted: EngineRequest) -> list[Event]:
        match wanted:
            case EngineSampleRequest():
                indices = range(wanted.first_index, wanted.first_index + len(wanted.n_atoms))
                return [Sampled(wanted.id, i, *self.molecule(i), 60, "success") for i in indices]
            case EngineLikelihoodRequest():
                indices = range(wanted.first_index, wanted.first_index + len(wanted.molecules))
                return [self._scored(wanted.id, i) for i in indices]
            case EngineEncodeRequest():
                if wanted.rtol < self.finest:
                    return [Failed(wanted.id, i, Reason.MIN_STEP) for i in range(len(wanted.molecules))]
                latents = [_encoded(each) for each in wanted.molecules]
                return [Encoded(wanted.id, i, latent, 60, "success") for i, latent in enumerate(latents)]
            case EngineDecodeRequest():
                molecules = [_decoded(latent, self.error * wanted.rtol) for latent in wanted.latents]
                return [Sampled(wanted.id, i, *each, 60, "success") for i, each in enumerate(molecules)]

    def _scored(self, work_id: str, index: int) -> Scored | Failed:
        if index in self.unscored:
            return Failed(work_id, index, Reason.NON_FINITE, "the likelihood is nan")
        parts = {"base": 1.0, "divergence": -4.0, "dequantizer": 2.0, "n_atoms": 0.5}
        return Scored(work_id, index, sum(parts.values()), None, parts, 60, "success", 0.01)

    def stats(self) -> Stats:
        return Stats(device="none")

    def health(self) -> Health:
        return Health(True, self.ready, "ok" if self.ready else "the device answers nonsense", 0.1)


def _encoded(structure: Structure) -> LatentArrays:
    """The structure itself, its elements as features."""
    return LatentArrays(structure.positions, np.repeat(structure.atomic_numbers[:, None], 5, axis=1).astype(float))


def _decoded(latent: LatentArrays, error: float) -> Structure:
    """Methane for five atoms, else what was encoded, its first atom off by the error; a latent holds a structure."""
    moved = latent.x + error * np.eye(len(latent.x), 3)[:, :1] * [1, 0, 0]
    return METHANE if len(latent.x) == 5 else Structure(latent.h[:, 0].round().astype(np.int64), moved)
