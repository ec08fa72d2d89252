"""The documents of the job endpoints."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from enflow.service.schemas.requests import (
    Document,
    InterpolateRequest,
    LikelihoodRequest,
    SampleRequest,
    Strict,
    VariationsRequest,
)
from enflow.service.schemas.responses import (
    FailedOut,
    ModelOut,
    MoleculeOut,
    ParticleScoreOut,
    ParticlesOut,
    ScoreErrorOut,
    ScoreOut,
)

JobKind = Literal["sample", "likelihood", "interpolate", "variations"]
"""The endpoint whose work a job is."""

JobState = Literal["queued", "running", "done", "failed", "cancelled"]

JobRequestBody = SampleRequest | LikelihoodRequest | InterpolateRequest | VariationsRequest


class JobRequest(Document):
    """A request for a job: the body of one of the four endpoints, under the name of the endpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"sample": {"n_molecules": 2000, "only": "valid"}}]})

    sample: SampleRequest | None = None
    likelihood: LikelihoodRequest | None = None
    interpolate: InterpolateRequest | None = None
    variations: VariationsRequest | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        given = [name for name, body in self if body is not None]
        if len(given) != 1:
            raise ValueError(
                f"found {' and '.join(given) or 'none'}, expected one of sample, likelihood, interpolate, variations"
            )
        if self.body.deadline_s is not None:
            raise ValueError("found deadline_s, expected none: a job has no deadline")
        for name in ("unique", "sort"):
            if self.sample and getattr(self.sample, name):
                raise ValueError(f"found {name}, expected none: a job answers part by part")
        return self

    @property
    def kind(self) -> JobKind:
        """The name of the endpoint."""
        for kind in ("sample", "likelihood", "interpolate"):
            if getattr(self, kind) is not None:
                return kind
        return "variations"

    @property
    def body(self) -> JobRequestBody:
        """The body of the endpoint."""
        body: JobRequestBody = getattr(self, self.kind)
        return body


class ResultsRange(Document):
    """The results of a job to read; the query of `GET /jobs/{id}/results`."""

    first: Annotated[int, Field(ge=0, le=10**9)] = Field(default=0, description="the first molecule, counted from 0")
    count: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        default=None, description="the number of molecules; left out = all that are done"
    )


class JobOut(Strict):
    """The state of a job."""

    id: str
    kind: JobKind
    state: JobState
    model: ModelOut
    seed: int
    n_molecules: int = Field(description="molecules or structures of the job")
    done: int = Field(description="molecules with an answer: always the first ones, failures included")
    failed: int = Field(description="molecules without a result, among those done")
    tried: int = Field(description="molecules that were computed; more than done where `only` rejects some")
    rate: float | None = Field(description="molecules per second; null until some are done")
    time_left_s: float | None = Field(
        description="seconds until the end: at first by the size of the molecules and the work before them, then by "
        "the rate; null once the job has ended"
    )
    created: str = Field(description="time in UTC, ISO 8601")
    ended: str | None
    expires: str | None = Field(description="the time at which the job and its results are removed")
    detail: str = Field(description="the reason why the job failed; else empty")
    results: str = Field(description="path of the results, with the prefix of a proxy")


class JobsOut(Strict):
    """The newest jobs of a client, newest first."""

    jobs: list[JobOut]


class JobResultsOut(Strict):
    """The results of the molecules `first` to `next` - 1 of a job, counted from 0."""

    id: str
    state: JobState
    seed: int
    model: ModelOut
    tolerance: float | None = Field(default=None, description="of the solver; /interpolate has its own in each XYZ")
    temperature: float | None = Field(default=None, description="/sample: standard deviation of the noise")
    refinements: int | None = Field(default=None, description="of molecules: times that each was generated again")
    first: int
    next: int = Field(description="the first molecule that is not in this answer; ask for it as `first` later")
    molecules: list[Annotated[MoleculeOut | ParticlesOut, Field(discriminator="kind")]] = Field(
        default=[], description="of a job of /sample, /interpolate or /variations"
    )
    failed: list[FailedOut] = Field(default=[], description="of such a job")
    results: list[Annotated[ScoreOut | ParticleScoreOut, Field(discriminator="kind")] | ScoreErrorOut] = Field(
        default=[], description="of a job of /likelihood: one entry for each structure"
    )
