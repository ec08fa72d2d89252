"""The molecules that `unique` keeps do not depend on the order in which molecules finish."""

import asyncio
import random

import pytest

from enflow.service.handlers.duplicates import DuplicateFilter

ATTEMPTS = 4


def kept_in_turn(candidates: list[list[str]]) -> list[str | None]:
    """Return the molecule of each place where each place is decided after those before it."""
    kept: list[str | None] = []
    for attempts in candidates:
        kept.append(next((each for each in attempts if each not in kept), None))
    return kept


async def kept_at_once(candidates: list[list[str]], rng: random.Random) -> list[str | None]:
    """Return the molecule of each place, found side by side with random pauses."""
    duplicates = DuplicateFilter(range(len(candidates)))
    kept: list[str | None] = [None] * len(candidates)

    async def fill(place: int) -> None:
        for smiles in candidates[place]:
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            if await duplicates.keeps(place, smiles):
                kept[place] = smiles
                return
        duplicates.settle(place)

    places = list(range(len(candidates)))
    rng.shuffle(places)
    async with asyncio.timeout(60):
        await asyncio.gather(*(fill(place) for place in places))
    return kept


@pytest.mark.parametrize("seed", range(100))
def test_the_choice_is_that_of_one_place_after_the_other(seed: int) -> None:
    rng = random.Random(seed)
    letters = "abcdefghij"[: rng.randrange(2, 10)]
    candidates = [[rng.choice(letters) for _ in range(ATTEMPTS)] for _ in range(rng.randrange(1, 12))]
    assert asyncio.run(kept_at_once(candidates, rng)) == kept_in_turn(candidates)


def test_molecules_without_smiles_are_all_kept() -> None:
    async def run() -> list[bool]:
        duplicates = DuplicateFilter(range(2, 4))
        return await asyncio.gather(duplicates.keeps(3, None), duplicates.keeps(2, None))

    assert asyncio.run(run()) == [True, True]
