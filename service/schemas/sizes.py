"""The sizes of the molecules of a request."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from enflow.model.flow.arguments import SizeRange
from enflow.service.protocol.requests import Size as Size  # noqa: PLC0414 - part of the schema

Atoms = Annotated[int, Field(ge=1, le=10**9)]


class AtomRange(BaseModel):
    """A range of numbers of atoms, both ends included; each size is drawn from p(N) restricted to it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min: Atoms
    max: Atoms

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"found min {self.min} above max {self.max}, expected min at most max")
        return self

    @property
    def drawn(self) -> SizeRange:
        """The range as an engine takes it."""
        return SizeRange(self.min, self.max)
