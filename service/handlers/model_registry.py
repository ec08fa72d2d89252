"""Where a request finds the desk of the model that it asks for."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from enflow.service.handlers.served_model import ServedModel
from enflow.service.model_card import ModelCard
from enflow.service.problems import At, Problem, retry_after
from enflow.service.schemas.requests import SampleRequest
from enflow.service.settings import RequestLimits


@dataclass
class ModelRegistry:
    """The desks of all models by name; the first one's answers where none is named."""

    desks: dict[str, ServedModel]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    draining: bool = False

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.desks.values())

    @property
    def first(self) -> ServedModel:
        """The desk of the first model."""
        return next(iter(self))

    @property
    def cards(self) -> list[ModelCard]:
        """Of all models."""
        return [desk.card for desk in self]

    @property
    def limits(self) -> RequestLimits:
        """What one request may ask for."""
        return self.first.limits

    def named(self, name: str | None) -> ServedModel:
        """The desk of a model.

        Raises:
            Problem: no such model is loaded; which ones are.
        """
        if name is None:
            return self.first
        if name not in self.desks:
            expected = f"expected one of {', '.join(self.desks)}"
            raise Problem("invalid", f"found no model of that name, {expected}", [At("/model", expected)])
        return self.desks[name]

    def sampling(self, asked: SampleRequest) -> tuple[ServedModel, SampleRequest]:
        """Where molecules are made, and what is asked for there.

        Raises:
            Problem: no such model is loaded, or it cannot make that.
        """
        desk = self.named(asked.model)
        if asked.formula is not None and asked.model is None:
            desk = self._for_formulas()
        if asked.formula is not None and not (desk.card.takes_formulas or desk.card.system):
            raise Problem("invalid", f"found a formula, but {desk.card.name} draws the elements itself")
        return desk, desk.settled(asked)

    def walking(self, name: str | None) -> ServedModel:
        """The desk of a model whose latents can be walked.

        Raises:
            Problem: no such model is loaded, or its latents are not of positions and types.
        """
        desk = self.named(name)
        if desk.card.system or desk.card.takes_formulas:
            raise Problem("invalid", f"walks are between molecules whose elements flow; {desk.card.name} has none")
        return desk

    def admit(self) -> None:
        """Raise where no new request is taken.

        Raises:
            Problem: unavailable.
        """
        if self.draining:
            raise Problem("unavailable", "the service is stopping", headers=retry_after(10))

    async def drain(self, seconds: float) -> None:
        """Take no new request; end what still runs after so many seconds."""
        self.draining = True
        await asyncio.sleep(seconds)
        self.stopping.set()

    def _for_formulas(self) -> ServedModel:
        for desk in self:
            if desk.card.takes_formulas:
                return desk
        raise Problem("invalid", "found a formula, but no model that takes one is loaded: see GET /models")
