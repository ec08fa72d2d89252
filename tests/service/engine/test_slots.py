"""Static shapes for devices that replay them: the same rows, whatever the padding."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from enflow.model.flow.ode.methods import ADAMS, DORMAND_PRINCE, Method
from enflow.model.flow.ode.solver_state import Status
from enflow.service.engine.slots import RowStart, SlotPool, row_buckets
from tests import stubs
from tests.model.flow.small_networks import small_flow

METHODS = pytest.mark.parametrize("method", [ADAMS, DORMAND_PRINCE], ids=["adams", "dopri5"])


def pool(static: bool, method: Method = ADAMS) -> SlotPool:
    buckets = (1, 2, 4, 8) if static else ()
    return SlotPool(stubs.flow().velocity, method, 8, 12, 5, torch.float64, torch.device("cpu"), buckets)


def starts(*sizes: int) -> list[RowStart]:
    flow = stubs.flow()
    return [RowStart(*flow.draw_latent(n, 0, n), 0.0, 1.0, 1e-6, 1e-6) for n in sizes]


def run_to_end(pool: SlotPool, slots: list[int]) -> None:
    while Status.RUNNING in pool.step(slots, 1000).flags()[-1].status[: len(slots)]:
        pass


@METHODS
def test_static_shapes_change_no_row(method: Method) -> None:
    plain, static = pool(False, method), pool(True, method)
    pools = [(p, p.start(starts(5, 9, 12))) for p in (plain, static)]
    for p, slots in pools:
        run_to_end(p, slots)
    for one, other in zip(pools[0][1], pools[1][1], strict=True):
        torch.testing.assert_close(plain.read([one])[0], static.read([other])[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 3, 4, 5])
def test_static_shapes_are_few(rows: int) -> None:
    seen = set()
    flow = stubs.flow()

    def velocity(t: torch.Tensor, x: torch.Tensor, h: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.add(tuple(x.shape))
        return flow.velocity(t, x, h, mask)

    p = SlotPool(velocity, ADAMS, 8, 12, 5, torch.float64, torch.device("cpu"), (3, 5))
    run_to_end(p, p.start(starts(*range(4, 4 + rows))))
    assert seen == {(3 if rows <= 3 else 5, 12, 3)}


@pytest.mark.parametrize("max_rows", [1, 2, 9, 311, 809, 3236])
def test_no_bucket_exceeds_the_budget_and_padding_is_at_most_half_of_a_large_step(max_rows: int) -> None:
    buckets = row_buckets(max_rows)
    assert max(buckets) == max_rows
    assert len(buckets) <= 4
    for rows in range(max_rows // 8 + 1, max_rows + 1):
        assert rows <= min(bucket for bucket in buckets if bucket >= rows) <= 2 * rows


class OneWay(TorchDispatchMode):
    """Refuses copies to the device that wait for it; reading from the device meta raises in any case."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [each for each in args if isinstance(each, torch.Tensor)]
        crosses = isinstance(result, torch.Tensor) and any(each.device != result.device for each in tensors)
        if crosses and not (kwargs or {}).get("non_blocking"):
            raise AssertionError(f"{func} copies and waits for the device")
        return result


@METHODS
@pytest.mark.parametrize("buckets", [(), (2, 4)])
def test_a_step_is_submitted_without_waiting_for_the_device(buckets: tuple[int, ...], method: Method) -> None:
    """The device meta computes nothing, so that every use of a value on the host raises."""
    flow = small_flow().to("meta")
    p = SlotPool(flow.velocity, method, 8, 12, 5, torch.float64, torch.device("meta"), buckets)
    with OneWay(), torch.inference_mode():
        slots = p.start(starts(5, 9, 12))
        step = p.step(slots, 100)
        step = p.step(slots[:2], 100)
        p.release(slots[0])
        p.start(starts(7))
    with pytest.raises((NotImplementedError, RuntimeError)):
        step.flags()  # meta has no values: this is what raises if a submission waits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
@METHODS
def test_a_step_on_a_gpu_does_not_synchronise(method: Method) -> None:
    p = SlotPool(small_flow().cuda().velocity, method, 8, 12, 5, torch.float64, torch.device("cuda"), (2, 4))
    slots = p.start(starts(5, 9, 12))
    p.step(slots, 100).flags()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step = p.step(slots, 100)
        p.start(starts(7))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.flags()[-1].nfe[:3] == [{1: 13, 6: 14}[method.evaluations]] * 3


def test_a_released_slot_is_taken_again_and_the_others_stay() -> None:
    p = pool(False)
    first, second = p.start(starts(5, 9))
    p.step([first, second], 100).flags()
    (before,) = p.read([second])
    p.release(first)
    (third,) = p.start(starts(12))
    assert third == first
    torch.testing.assert_close(p.read([second])[0], before, rtol=0, atol=0)


@METHODS
def test_a_row_that_was_read_goes_on_in_another_pool(method: Method) -> None:
    here, there = pool(False, method), pool(True, method)
    (slot,) = here.start(starts(9))
    here.step([slot], 100).flags()
    moved = there.resume(here.read([slot])[0])
    run_to_end(here, [slot])
    run_to_end(there, [moved])
    torch.testing.assert_close(there.read([moved])[0], here.read([slot])[0], rtol=0, atol=1e-10)
