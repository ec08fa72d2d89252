"""A work in the engine, taken apart: its molecules, and their rows."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from enflow.model.flow.likelihood import Draw
from enflow.service.engine.likelihood import Score
from enflow.service.engine.scheduler import Row
from enflow.service.protocol.requests import (
    DecodeWork,
    Frame,
    LikelihoodOptions,
    LikelihoodWork,
    Sampled,
    SampleWork,
    SavedRow,
    Work,
)

Lane = Literal["sample", "likelihood"]


Kind = Literal["path", "fine", "exact", "hutchinson"]
"""What a row does in a step: it moves along its path, or along one that needs float64, or its divergence is taken."""


class Group(NamedTuple):
    """What may share a forward: a lane, a kind of step, a size class."""

    lane: Lane
    kind: Kind
    size: int

    @property
    def moves(self) -> bool:
        """Whether its rows move along a path, in slots."""
        return self.kind in ("path", "fine")


@dataclass(eq=False)
class Molecule:
    """A molecule of a work: its rows on their way, and what they have brought so far."""

    index: int
    n_atoms: int = 0
    rows: "list[Journey]" = field(default_factory=list)
    nfe: int = 0
    sampled: Sampled | None = None
    draws: list[Draw] = field(default_factory=list)


@dataclass(eq=False)
class Job:
    """A work in the engine: when it came and began (monotonic seconds), what it has cost, the molecules to come."""

    work: Work
    came: float
    began: float | None = None
    nfe: int = 0
    molecules: dict[int, Molecule] = field(default_factory=dict)

    @property
    def lane(self) -> Lane:
        """Where its molecules begin."""
        return "sample" if isinstance(self.work, SampleWork | DecodeWork) else "likelihood"

    @property
    def scoring(self) -> LikelihoodOptions | None:
        """How its molecules are scored, if they are."""
        if isinstance(self.work, LikelihoodWork):
            return self.work.options
        return self.work.nll if isinstance(self.work, SampleWork) else None

    @property
    def frame_times(self) -> list[float]:
        """When frames are taken: evenly spaced from 0 to 1; a single one shows the end."""
        count = self.work.frames if isinstance(self.work, SampleWork | DecodeWork) else 0
        return [1.0] if count == 1 else np.linspace(0.0, 1.0, count).tolist()


@dataclass(eq=False, kw_only=True)
class Journey(Row):
    """A row: from base to data or back, and for a likelihood on to the divergence of its path."""

    group: Group
    job: Job
    molecule: Molecule
    slot: int | None = None
    t: float = 0.0
    nfe: int = 0
    saved: SavedRow | None = None
    frames: list[Frame] = field(default_factory=list)
    score: Score | None = None
