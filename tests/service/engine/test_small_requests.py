"""Small requests go before large ones, and leave them a part of the device."""

import pytest

from enflow.service.engine.scheduler import Scheduler
from tests.service.engine.scheduling import LANES, abort, add, rows, served


@pytest.mark.parametrize("before", [4, 100])
def test_a_small_request_goes_first(before: int) -> None:
    queue = Scheduler(LANES, lambda _: 1, 64, credit=6.0)
    add(queue, "large", rows("large", 500))
    served(queue, before)
    add(queue, "small", rows("small", 1), small=True)
    assert served(queue, 6) == {"small": 6}


def test_small_requests_without_end_leave_a_quarter_to_a_large_one() -> None:
    queue = Scheduler(LANES, lambda _: 1, 64, credit=6.0)
    add(queue, "large", rows("large", 500))
    large = 0
    for i in range(100):
        add(queue, f"small {i}", rows(f"small {i}", 1), small=True)
        large += served(queue, 3)["large"]
        abort(queue, f"small {i}")
    assert 60 < large < 90


@pytest.mark.parametrize("callers", [1, 20])
def test_callers_of_small_requests_who_ask_again_at_once_leave_a_quarter_to_a_large_one(callers: int) -> None:
    queue, large = Scheduler(LANES, lambda _: 1, 64, credit=6.0), 0
    queue.add("large", rows("large", 1000), work=1000.0)
    for step in range(1000):
        if len(queue._entries) <= callers:
            queue.add(f"small {step}", rows(f"small {step}", 3), work=3.0, small=True)
        (row,) = queue.schedule()
        queue.finish(row)
        large += row.request_id == "large"
    assert 230 < large < 260


def test_small_requests_need_no_credit_while_no_others_wait() -> None:
    queue = Scheduler(LANES, lambda _: 1, 64, credit=6.0)
    for i in range(1000):
        queue.add(f"alone {i}", rows(f"alone {i}", 1), work=1.0, small=True)
        queue.finish(*queue.schedule())
    for i in range(50):
        queue.add(f"large {i}", rows(f"large {i}", 8), work=8.0)
    for _ in range(200):
        queue.finish(*queue.schedule())
    queue.add("small", rows("small", 1), work=5.0, small=True)
    assert served(queue, 6) == {"small": 6}


def test_steps_are_brief_while_a_small_new_work_is_about() -> None:
    queue = Scheduler(LANES, lambda _: 8, 64, credit=6.0, short_step_rows=lambda _: 2)
    add(queue, "large", rows("large", 500))
    assert {len(queue.schedule()) for _ in range(20)} == {8}  # one request alone has no short steps
    add(queue, "small", rows("small", 1), small=True)
    steps = [queue.schedule() for _ in range(6)]
    assert [len(step) for step in steps] == [2] * 6
    assert all("small" in {row.request_id for row in step} for step in steps)
    add(queue, "another large one", rows("another large one", 50))
    abort(queue, "small")
    assert len(queue.schedule()) == 8  # large requests have no short steps


def test_a_small_request_does_not_wait_for_the_slots_of_large_ones() -> None:
    queue = Scheduler(LANES, lambda _: 16, slots=16, credit=6.0)
    add(queue, "large", rows("large", 500))
    for _ in range(3):
        assert len(queue.schedule()) == 14
    add(queue, "small", rows("small", 2), small=True)
    assert served(queue, 1)["small"] == 2


def test_many_new_large_requests_do_not_go_before_a_small_one() -> None:
    queue = Scheduler(LANES, lambda _: 1, 64, credit=6.0)
    for i in range(20):
        add(queue, f"large {i}", rows(f"large {i}", 50))
        served(queue, 1)
    add(queue, "small", rows("small", 1), small=True)
    assert served(queue, 8)["small"] >= 5
