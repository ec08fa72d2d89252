"""The rows of the store as plain data."""

from dataclasses import dataclass

from enflow.service.schemas.jobs import JobKind, JobState


@dataclass(frozen=True)
class JobRecord:
    """A job, as the store knows it.

    Attributes:
        id: 32 hexadecimal digits.
        client: the client who owns the job.
        kind: the endpoint whose work it is.
        request: the body of that endpoint as JSON.
        seed: the seed of all noise, drawn where the request named none.
        model, sha256: the weights that compute it.
        size: the molecules that were asked for.
        seconds_each: the estimated time of one molecule.
        created, ended: seconds since the epoch.
        state: queued, running, and at the end done, failed or cancelled.
        done: the molecules with an answer, always the first ones; failures included.
        failed: the molecules without a result.
        tried: the molecules that were computed; more than `done` where a filter rejects some.
        seconds: the time in which the job was computed.
        stored_bytes: the size of the request and of all parts.
        detail: the reason of a failure.
    """

    id: str
    client: str
    kind: JobKind
    request: str
    seed: int
    model: str
    sha256: str
    size: int
    seconds_each: float
    created: float
    state: JobState = "queued"
    done: int = 0
    failed: int = 0
    tried: int = 0
    seconds: float = 0.0
    stored_bytes: int = 0
    ended: float | None = None
    detail: str = ""

    @property
    def open(self) -> bool:
        """True while the job is queued or running."""
        return self.ended is None

    @property
    def remaining_s(self) -> float:
        """The time that the rest will take, by the rate so far, or by the estimate before there is one."""
        return (self.size - self.done) * (self.seconds / self.done if self.done else self.seconds_each)


@dataclass(frozen=True)
class JobPart:
    """The results of the molecules `start` to `stop` - 1 of a job, counted from 0.

    Attributes:
        data: one JSON document in each line, compressed by zlib.
        failed: the molecules without a result.
        tried: the molecules that were computed.
        seconds: the time since the part before was stored.
    """

    start: int
    stop: int
    data: bytes
    failed: int = 0
    tried: int = 0
    seconds: float = 0.0
