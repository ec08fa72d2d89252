"""The loaded models by name, and the choice of the one that a request asks for."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from enflow.service.handlers.served_model import ServedModel
from enflow.service.model_card import ModelCard
from enflow.service.problems import At, Problem, retry_after
from enflow.service.protocol.requests import typical_size
from enflow.service.schemas.requests import SampleRequest
from enflow.service.settings import RequestLimits


@dataclass
class ModelRegistry:
    """The served models by name; the first one answers requests that name none.

    Attributes:
        models: the served models by name.
        limits: the limits of a request before its model is known.
        stopping: set when the service ends the running requests.
        draining: True where no new request is taken.
    """

    models: dict[str, ServedModel]
    limits: RequestLimits
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    draining: bool = False

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.models.values())

    @property
    def first(self) -> ServedModel:
        """The first model."""
        return next(iter(self))

    @property
    def cards(self) -> list[ModelCard]:
        """The cards of all models."""
        return [served.card for served in self]

    def named(self, name: str | None) -> ServedModel:
        """Return the model of a name; None stands for the first model.

        Raises:
            Problem: no model of that name is loaded; the problem lists the names.
        """
        if name is None:
            return self.first
        if name not in self.models:
            expected = f"expected one of {', '.join(self.models)}"
            raise Problem("invalid", f"found no model of that name, {expected}", [At("/model", expected)])
        return self.models[name]

    def sampling(self, request: SampleRequest) -> tuple[ServedModel, SampleRequest]:
        """Return the model that generates molecules for a request, and the request with the sizes it gets there.

        Raises:
            Problem: no such model is loaded, or it cannot generate such molecules.
        """
        served = self.named(request.model)
        if request.formula is not None and request.model is None:
            served = self._first_that("formula", [each for each in self if each.card.takes_formulas])
        if request.fragment is not None and request.model is None:
            served = self._first_that("fragment", [each for each in self if each.card.takes_fragments])
        if request.formula is not None and not (served.card.takes_formulas or served.card.system):
            detail = f"found a formula, but {served.card.name} draws the elements itself"
            raise Problem("invalid", detail, [At("/formula", detail)])
        settled = served.prepare_request(request)
        _check_atoms(settled, served)
        return served, settled

    def scoring(self, name: str | None) -> ServedModel:
        """Return the model of a name for the likelihood of whole structures.

        Raises:
            Problem: no such model is loaded, or it scores only the atoms around a fragment.
        """
        served = self.named(name)
        if served.card.takes_fragments:
            detail = f"found the model {served.card.name} of the atoms around a fragment, expected one of all atoms"
            raise Problem("invalid", detail, [At("/model", detail)])
        return served

    def varying(self, name: str | None) -> ServedModel:
        """Return the model of a name for variations of a molecule.

        Raises:
            Problem: no such model is loaded, or it is of particles.
        """
        served = self.scoring(name)
        if served.card.system:
            detail = f"found the model {served.card.name}, expected one of molecules"
            raise Problem("invalid", detail, [At("/model", detail)])
        return served

    def walking(self, name: str | None) -> ServedModel:
        """Return the model of a name for a walk through its latent space.

        Raises:
            Problem: no such model is loaded, or its latents hold no elements.
        """
        served = self.scoring(name)
        if served.card.system or served.card.takes_formulas:
            detail = f"found the model {served.card.name}, expected one whose latents hold positions and elements"
            raise Problem("invalid", detail, [At("/model", detail)])
        return served

    def admit(self) -> None:
        """Refuse a new request while the service stops.

        Raises:
            Problem: unavailable.
        """
        if self.draining:
            raise Problem("unavailable", "the service is stopping", headers=retry_after(10))

    async def drain(self, seconds: float) -> None:
        """Refuse new requests; end the running ones after some seconds."""
        self.draining = True
        await asyncio.sleep(seconds)
        self.stopping.set()

    def _first_that(self, takes: str, found: Sequence[ServedModel]) -> ServedModel:
        if not found:
            detail = f"found a {takes}, but no model that takes one is loaded: see GET /models"
            raise Problem("invalid", detail, [At(f"/{takes}", detail)])
        return found[0]


def _check_atoms(request: SampleRequest, served: ServedModel) -> None:
    # A range of sizes may end above the largest that the model knows, but not begin there.
    largest = max((typical_size(size, 1) for size in request.sizes), default=0)
    if largest > served.limits.max_atoms:
        expected = f"expected at most {served.limits.max_atoms}, the limit of the model {served.card.name}"
        raise Problem("invalid", f"found {largest} atoms, {expected}", [At("/n_atoms", expected)])
