"""The events of a streamed response as strict types, from `start` to `done` or `error`."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field

from enflow.service.schemas.requests import Strict
from enflow.service.schemas.responses import (
    AttemptsOut,
    FailedOut,
    FrameOut,
    LikelihoodResponse,
    ModelOut,
    MoleculeOut,
    ParticleFrameOut,
    ParticleScoreOut,
    ParticlesOut,
    ProblemOut,
    SampleResponse,
    ScoreErrorOut,
    ScoreOut,
    UsageOut,
    WalkResponse,
)


class StartEvent(Strict):
    """The request was accepted: the seed, the weights, and the number of molecules to come."""

    event: Literal["start"]
    seed: int
    model: ModelOut
    n_molecules: int


class QueueAhead(Strict):
    """The numbers of molecules that wait and that run, of all requests."""

    ahead: int
    running: int


class RunningMolecule(Strict):
    """A molecule on the device."""

    index: int
    t: float = Field(description="time: 0 = noise, 1 = molecule; a refinement goes back in time")
    nfe: int = Field(description="evaluations of the velocity so far")
    share: float = Field(description="the part of the work on this molecule that is done, over all its refinements")


class ProgressEvent(Strict):
    """The state of the queue, and of the molecules of this request."""

    event: Literal["progress"]
    queue: QueueAhead
    eta_s: float = Field(description="seconds that the queue will take")
    engine: str = Field(default="", description="the reason why the engine is not ready, if it is not")
    done: int = 0
    tried: int = 0
    running: Sequence[RunningMolecule] = ()


class FrameEvent(Strict):
    """A state along the path of a molecule."""

    event: Literal["frame"]
    index: int
    frame: FrameOut | ParticleFrameOut


class MoleculeEvent(Strict):
    """A finished molecule."""

    event: Literal["molecule"]
    molecule: MoleculeOut | ParticlesOut


class ScoreEvent(Strict):
    """A score, or the reason why a structure has none."""

    event: Literal["score"]
    score: ScoreOut | ParticleScoreOut | ScoreErrorOut


class DoneEvent(Strict):
    """The end: the response without its molecules or scores, which were sent before."""

    event: Literal["done"]
    seed: int
    model: ModelOut
    tolerance: float = Field(description="of the solver, as a number")
    temperature: float | None = Field(default=None, description="/sample: standard deviation of the noise")
    refinements: int | None = Field(default=None, description="of molecules: times that each was generated again")
    failed: Sequence[FailedOut] = ()
    attempts: AttemptsOut | None = None
    usage: UsageOut
    warnings: Sequence[str] = ()
    order: Sequence[int] = Field(default=(), description="with sort: the indices of the molecules in that order")

    @classmethod
    def after(cls, response: SampleResponse | WalkResponse | LikelihoodResponse) -> Self:
        """Return the last event of the stream of a response."""
        fields: dict[str, Any] = {
            name: getattr(response, name) for name in cls.model_fields.keys() & response.model_fields_set
        }
        if isinstance(response, SampleResponse) and response.sort:
            fields["order"] = [each.index for each in response.molecules]
        return cls(event="done", **fields)


class ErrorEvent(Strict):
    """The end of a stream that failed."""

    event: Literal["error"]
    problem: ProblemOut


StreamEvent = StartEvent | ProgressEvent | FrameEvent | MoleculeEvent | ScoreEvent | DoneEvent | ErrorEvent
