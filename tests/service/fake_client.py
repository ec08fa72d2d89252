"""An engine client without an engine, for tests of the application around it."""

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
    EngineVariationRequest,
    LatentArrays,
    Structure,
)
from enflow.service.protocol.status import Health, Stats

METHANE = Structure(
    np.array([6, 1, 1, 1, 1]),
    0.63 * np.array([[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]),
)
TORN = Structure(METHANE.atomic_numbers, 3 * METHANE.positions)
"""Methane with its atoms too far apart for any bond."""


@dataclass
class FakeClient:
    """An `EngineClient` whose answers are known.

    Attributes:
        molecule: the sampled structure by its index.
        steps: progress events before the first result.
        pause: seconds between two of them.
        error: error of a decoded structure, in angstrom per unit of the tolerance.
        finest: the smallest tolerance at which encoding succeeds.
        unscored: indices of molecules whose likelihood fails.
        nll: the NLL of a molecule by its index.
        refuse: the exception of every `submit`.
        submitted, aborted, finished: the requests so far, and the ids of those aborted and finished.
        ready: the readiness in `health`.
        rate: the cost per second in `stats`.
    """

    molecule: Callable[[int], Structure] = lambda _: METHANE
    steps: int = 1
    pause: float = 0.0
    error: float = 0.0
    finest: float = 0.0
    unscored: set[int] = field(default_factory=set)
    nll: Callable[[int], float] = lambda _: -0.5
    refuse: Exception | None = None
    submitted: list[EngineRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    ready: bool = True
    rate: float = 0.0

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def drain(self, timeout: float) -> None: ...

    async def submit(self, request: EngineRequest) -> None:
        if self.refuse:
            raise self.refuse
        self.submitted.append(request)

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    async def events(self, request_id: str) -> AsyncIterator[Event]:
        request = next(each for each in self.submitted if each.id == request_id)
        for step in range(self.steps):
            await asyncio.sleep(self.pause)
            yield Progress(request_id, request.first_index, step / self.steps, 6 * step, step / self.steps)
        for event in self._results(request):
            await asyncio.sleep(0)
            yield event
        self.finished.append(request_id)
        yield Done(request_id, 1.0, 2.0, 60)

    def _results(self, request: EngineRequest) -> list[Event]:
        match request:
            case EngineSampleRequest():
                return [Sampled(request.id, i, *self.molecule(i), 60) for i in request.indices]
            case EngineVariationRequest():
                found = {i: _of_size(self.molecule(i), request.parent) for i in request.indices}
                return [Sampled(request.id, i, *each, 60) for i, each in found.items()]
            case EngineLikelihoodRequest():
                return [self._scored(request.id, i) for i in request.indices]
            case EngineEncodeRequest():
                if request.rtol < self.finest:
                    return [Failed(request.id, i, Reason.MIN_STEP) for i in range(len(request.molecules))]
                latents = [_encoded(each) for each in request.molecules]
                return [Encoded(request.id, i, latent, 60) for i, latent in enumerate(latents)]
            case EngineDecodeRequest():
                molecules = [_decoded(latent, self.error * request.rtol) for latent in request.latents]
                found = dict(zip(request.indices, molecules, strict=True))
                return [Sampled(request.id, i, *each, 60) for i, each in found.items()]

    def _scored(self, request_id: str, index: int) -> Scored | Failed:
        if index in self.unscored:
            return Failed(request_id, index, Reason.NON_FINITE, "the likelihood is nan")
        parts = {"base": self.nll(index) + 1.5, "divergence": -4.0, "dequantizer": 2.0, "n_atoms": 0.5}
        return Scored(request_id, index, sum(parts.values()), None, parts, 60, 0.01)

    def stats(self) -> Stats:
        return Stats(device="none", rate=self.rate)

    def health(self) -> Health:
        return Health(True, self.ready, "ok" if self.ready else "the device answers nonsense", 0.1)


def _of_size(structure: Structure, parent: Structure) -> Structure:
    """Return a structure if it has the size of its parent, else the parent."""
    return structure if len(structure.positions) == len(parent.positions) else parent


def _encoded(structure: Structure) -> LatentArrays:
    """Return a structure as its own latent, the elements as features."""
    return LatentArrays(structure.positions, np.repeat(structure.atomic_numbers[:, None], 5, axis=1).astype(float))


def _decoded(latent: LatentArrays, error: float) -> Structure:
    """Return methane for five atoms, else the encoded structure with an error at its first atom."""
    moved = latent.x + error * np.eye(len(latent.x), 3)[:, :1] * [1, 0, 0]
    return METHANE if len(latent.x) == 5 else Structure(latent.h[:, 0].round().astype(np.int64), moved)
