"""The choice among the molecules of a /sample request without duplicates."""

import asyncio


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
