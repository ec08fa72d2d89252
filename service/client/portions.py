"""Portions: the parts of a request that different replicas compute."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineRequest,
    EngineSampleRequest,
    EngineVariationRequest,
)

MIN_SIZE, MAX_SIZE = 16, 256
"""Samples of a portion. A step with fewer rows wastes the device (bench_engine: 13 ms per molecule with 16 rows, 34 ms
with one). With larger portions a replica that joins later finds nothing to do."""


@dataclass(eq=False)
class Portion:
    """Samples of a request that one replica computes together.

    Attributes:
        request: the request of these samples.
        answered: the indices with an answer.
        queue_ms: milliseconds before the first step.
        nfe: evaluations, over all attempts.
        losses: replicas in a row that were lost with this portion, without an answer between them.
    """

    request: EngineRequest
    answered: set[int] = field(default_factory=set)
    queue_ms: float = 0.0
    nfe: int = 0
    losses: int = 0

    @property
    def missing(self) -> list[int]:
        """The indices without an answer."""
        return [index for index in self.request.indices if index not in self.answered]

    def halves(self) -> "tuple[Portion, Portion]":
        """Return two portions with half of the samples each."""
        middle = len(self.request) // 2
        first, second = part(self.request, slice(0, middle)), part(self.request, slice(middle, len(self.request)))
        return Portion(first, set(self.answered)), Portion(second, set(self.answered))

    def merge(self, half: Self) -> None:
        """Take over the answers and the evaluations of a half."""
        self.answered |= half.answered
        self.nfe += half.nfe


def split(request: EngineRequest, replicas: int) -> Iterator[EngineRequest]:
    """Split a request into one portion for each replica, within the limits of a portion's size."""
    size = min(max(math.ceil(len(request) / replicas), MIN_SIZE), MAX_SIZE)
    for begin in range(0, len(request), size):
        yield part(request, slice(begin, begin + size))


def part(request: EngineRequest, samples: slice) -> EngineRequest:
    """Return the request for some of its samples, counted from 0."""
    first = request.first_index + samples.start
    match request:
        case EngineSampleRequest():
            return replace(request, n_atoms=request.n_atoms[samples], first_index=first)
        case EngineDecodeRequest():
            return replace(request, latents=request.latents[samples], first_index=first)
        case EngineVariationRequest():
            return replace(request, count=len(range(request.count)[samples]), first_index=first)
        case _:
            return replace(request, molecules=request.molecules[samples], first_index=first)
