"""Static shapes for devices that replay them: the same rows, whatever the padding."""

import pytest
import torch

from enflow.model.flow.ode.solver_state import Status
from enflow.service.engine.slots import RowStart, SlotPool
from tests import stubs


def pool(static: bool) -> SlotPool:
    return SlotPool(stubs.flow().velocity, 8, 12, 5, torch.float64, torch.device("cpu"), static)


def starts(*sizes: int) -> list[RowStart]:
    flow = stubs.flow()
    return [RowStart(*flow.draw_latent(n, 0, n), 0.0, 1.0, 1e-6, 1e-6) for n in sizes]


def run_to_end(pool: SlotPool, slots: list[int]) -> None:
    while Status.RUNNING in pool.step(slots, 100).flags().status[: len(slots)]:
        pass


def test_static_shapes_change_no_row() -> None:
    plain, static = pool(False), pool(True)
    pools = [(p, p.start(starts(5, 9, 12))) for p in (plain, static)]
    for p, slots in pools:
        run_to_end(p, slots)
    for one, other in zip(pools[0][1], pools[1][1], strict=True):
        torch.testing.assert_close(plain.read([one])[0], static.read([other])[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 4, 5])
def test_static_shapes_are_few(rows: int) -> None:
    seen = set()
    flow = stubs.flow()

    def velocity(t: torch.Tensor, x: torch.Tensor, h: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.add(tuple(x.shape))
        return flow.velocity(t, x, h, mask)

    p = SlotPool(velocity, 8, 12, 5, torch.float64, torch.device("cpu"), static=True)
    run_to_end(p, p.start(starts(*range(4, 4 + rows))))
    assert seen == {(1 << (rows - 1).bit_length(), 12, 3)}


def test_a_released_slot_is_taken_again_and_the_others_stay() -> None:
    p = pool(False)
    first, second = p.start(starts(5, 9))
    p.step([first, second], 100).flags()
    (before,) = p.read([second])
    p.release(first)
    (third,) = p.start(starts(12))
    assert third == first
    torch.testing.assert_close(p.read([second])[0], before, rtol=0, atol=0)


def test_a_row_that_was_read_goes_on_in_another_pool() -> None:
    here, there = pool(False), pool(True)
    (slot,) = here.start(starts(9))
    here.step([slot], 100).flags()
    moved = there.resume(here.read([slot])[0])
    run_to_end(here, [slot])
    run_to_end(there, [moved])
    torch.testing.assert_close(there.read([moved])[0], here.read([slot])[0], rtol=0, atol=1e-12)
