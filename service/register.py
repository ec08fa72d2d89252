"""The works in the engine, until every molecule of theirs is answered, and what there is to tell of them."""

import time
from collections.abc import Collection, Iterator

from enflow.service.engine.requests import Job, Molecule
from enflow.service.engine.stats import Tally
from enflow.service.protocol.requests import Done, Encoded, Event, Failed, Sampled, Scored, Work


class Register:
    """Enter a work, answer its molecules one by one; `told` has the events since the last call, `Done` last."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._jobs: dict[str, Job] = {}
        self._events: list[Event] = []

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def idle(self) -> bool:
        """Nobody waits, and there is nothing to tell."""
        return not (self._jobs or self._events)

    @property
    def works(self) -> Iterator[tuple[Work, frozenset[int]]]:
        """Each work with the indices of its molecules that are answered."""
        for job in self._jobs.values():
            first = job.work.first_index
            yield job.work, frozenset(range(first, first + len(job.work))) - job.molecules.keys()

    def enter(self, work: Work, answered: Collection[int] = ()) -> Job:
        """Take a work, but for the molecules already answered.

        Raises:
            ValueError: a work of that id is here.
        """
        if work.id in self._jobs:
            raise ValueError(f"found work {work.id!r} twice, expected each id once")
        job = self._jobs[work.id] = Job(work, time.perf_counter())
        indices = range(work.first_index, work.first_index + len(work))
        job.molecules = {index: Molecule(index) for index in indices if index not in answered}
        return job

    def job(self, work: str) -> Job | None:
        """The work of that id, if it is here."""
        return self._jobs.get(work)

    def tell(self, event: Event) -> None:
        """Note what happened on the way."""
        self._events.append(event)

    def told(self) -> list[Event]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        return events

    def answer(self, job: Job, molecule: Molecule, event: Sampled | Scored | Encoded | Failed) -> None:
        """Note what became of a molecule, and with the last of a work that it is done."""
        self._events.append(event)
        self.tally.answer(event, molecule.nfe)
        job.nfe += molecule.nfe
        del job.molecules[molecule.index]
        self.close_if_done(job)

    def close_if_done(self, job: Job) -> None:
        """A work without molecules to come has ended."""
        if job.molecules or self._jobs.pop(job.work.id, None) is None:
            return
        now = time.perf_counter()
        began = job.began or now
        self._events.append(Done(job.work.id, 1e3 * (began - job.came), 1e3 * (now - began), job.nfe))

    def clear(self) -> None:
        """Forget all works."""
        self._jobs.clear()
