"""The molecules of a /sample request that are kept: valid or stable, within bounds, without duplicates, in an order."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from enflow.model.chem.analysis.descriptors import outside
from enflow.service.chemistry.rdkit_pool import BondReport
from enflow.service.rendering.molecules import Document, RenderedMolecule, sorted_by_index
from enflow.service.schemas.requests import Only, SampleRequest

D = TypeVar("D", bound=Document)


@dataclass(frozen=True)
class Rejection:
    """The reason why a molecule is not kept: its kind, and a sentence that many molecules share."""

    kind: str
    reason: str


DUPLICATE = Rejection("duplicate", "the SMILES of a molecule with a lower index")


class DuplicateFilter:
    """Keeps one molecule of each SMILES: that of the first place.

    A molecule is kept once every place before its own is settled, so that the choice does not depend on the order in
    which molecules finish. It is a duplicate as soon as an earlier place has a molecule of the same SMILES: either that
    molecule is kept, or one of a still earlier place is.

    Args:
        places: the places of the request.
    """

    def __init__(self, places: range) -> None:
        self._next, self._stop = places.start, places.stop
        self._settled = set[int]()
        self._first = dict[str, int]()
        self._held = dict[int, asyncio.Future[bool]]()

    async def keeps(self, place: int, smiles: str | None) -> bool:
        """Return False where an earlier place has the same SMILES; a molecule without SMILES is no duplicate.

        It returns when that is certain; until then the molecule stays a candidate of its place.
        """
        if smiles is not None:
            other = self._first.get(smiles, self._stop)
            if other < place:
                return False
            self._first[smiles] = place
            if other in self._held:
                _decide(self._held.pop(other), kept=False)
        decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._held[place] = decided
        self._advance()
        return await decided

    def settle(self, place: int) -> None:
        """Record that a place stays empty."""
        self._settled.add(place)
        self._advance()

    def _advance(self) -> None:
        while self._next in self._held or self._next in self._settled:
            if self._next in self._held:
                _decide(self._held.pop(self._next), kept=True)
            self._next += 1


def _decide(decided: asyncio.Future[bool], *, kept: bool) -> None:
    if not decided.done():  # the request was cancelled
        decided.set_result(kept)


def rejection(request: SampleRequest, report: BondReport) -> Rejection | None:
    """Return the reason why a molecule does not pass `only` or `where`; None where it passes."""
    if failed := _not_only(request.only, report):
        return failed
    if not request.bounds:
        return None
    if report.descriptors is None:
        return _not_only("valid", report) or Rejection("out of bounds", "properties not known")
    reason = outside(report.descriptors, request.bounds)
    return Rejection("out of bounds", reason) if reason else None


def _not_only(only: Only, report: BondReport) -> Rejection | None:
    if only == "valid" and report.bonds.status != "ok":
        # The part after the semicolon names the atoms of one molecule.
        return Rejection("not valid", (report.bonds.reason or "no bonds").partition(";")[0])
    if only == "stable" and not report.stable:
        return Rejection("not stable", f"atoms without their valence by the distance table: {report.unstable_atoms}")
    return None


def in_order(molecules: Sequence[RenderedMolecule[D]], sort: str | None) -> list[RenderedMolecule[D]]:
    """Return molecules in the order of a key, by index without one; those without a value are the last."""
    found = sorted_by_index(molecules)
    if sort is None:
        return found
    sign, name = (-1 if sort.startswith("-") else 1), sort.removeprefix("-")

    def key(each: RenderedMolecule[D]) -> tuple[bool, float]:
        value = getattr(each.document, name, None)
        if value is None:
            value = getattr(getattr(each.document, "properties", None), name, None)
        return value is None, sign * (value or 0.0)

    return sorted(found, key=key)
