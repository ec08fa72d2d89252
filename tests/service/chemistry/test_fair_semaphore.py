"""Places that clients get in turn: nobody waits behind all calls of another."""

import asyncio

from enflow.service.chemistry.fair_batches import FairSemaphore


async def queue(semaphore: FairSemaphore, names: str) -> tuple[list[str], list[asyncio.Task[None]]]:
    """Let callers wait in the given order, each for one place, named by their client."""
    order: list[str] = []

    async def take(client: str) -> None:
        await semaphore.acquire(client)
        order.append(client)

    tasks = [asyncio.create_task(take(name)) for name in names]
    await asyncio.sleep(0)
    return order, tasks


def test_clients_take_turns() -> None:
    async def act() -> list[str]:
        semaphore = FairSemaphore(2)
        order, tasks = await queue(semaphore, "aaaaabbc")
        for _ in tasks[2:]:
            semaphore.release()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(act()) == list("aaabcaba")


def test_those_who_leave_give_their_turn_and_their_place_away() -> None:
    async def act() -> list[str]:
        semaphore = FairSemaphore(1)
        order, tasks = await queue(semaphore, "abc")
        tasks[1].cancel()  # while it waits
        await asyncio.sleep(0)
        semaphore.release()
        tasks[2].cancel()  # in the moment in which it has the place
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(semaphore.acquire("d"), 10)
        return order

    assert asyncio.run(act()) == ["a"]
