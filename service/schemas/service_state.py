"""The documents on the service itself: its health, its limits and its models."""

from typing import Any, Literal

from pydantic import Field

from enflow.service.schemas.requests import Strict
from enflow.service.settings import RequestLimits


class QueueOut(Strict):
    """The numbers of waiting and running molecules."""

    waiting: int
    running: int


class HealthOut(Strict):
    """The state of the service; the queue is that of all models."""

    status: Literal["ok", "failing"]
    reason: str
    step_age_s: float | None = Field(description="seconds since the device last finished a step; null before the first")
    queue: QueueOut
    device: str
    models: dict[str, str] = Field(description="the state of each model's engine: ready, or the reason why it is not")


class LimitsOut(RequestLimits):
    """The limits in force; `max_atoms` is that of the largest model."""

    max_atoms_by_model: dict[str, int] = Field(description="atoms of one molecule, by the name of the model")
    kind_by_model: dict[str, str] = Field(description="molecules, fragment or particles, by the name of the model")


class ModelsOut(Strict):
    """The cards of the loaded weights, each with its kind: molecules, fragment or particles."""

    models: list[dict[str, Any]]
