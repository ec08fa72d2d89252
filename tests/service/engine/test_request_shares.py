"""The shares of requests and of lanes: no request ends later than with equal shares of the device."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enflow.service.engine.scheduler import Scheduler
from tests.service.engine.scheduling import abort, add, rows, scheduler, served


def test_a_large_request_never_blocks_a_small_one() -> None:
    queue = scheduler(room=4)
    queue.add("large", rows("large", 1000), work=5000.0)
    for _ in range(50):
        queue.schedule()
    queue.add("small", rows("small", 1), work=5.0)
    assert "small" in {row.request_id for row in queue.schedule()}


def ends(queue: Scheduler, arrivals: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Return the step in which each request ends; a request is (step of its arrival, rows of one step each)."""
    left, found = {name: n for name, (_, n) in arrivals.items()}, dict[str, int]()
    for step in range(max(at for at, _ in arrivals.values()) + sum(left.values()) + 1):
        for name, (at, n) in arrivals.items():
            if at == step:
                queue.add(name, rows(name, n), work=float(n))
        for row in queue.schedule():
            left[row.request_id] -= 1
            if queue.finish(row):
                found[row.request_id] = step + 1
    return found


def ends_with_equal_shares(arrivals: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Return the times at which requests would end if each had an equal share of the device at all times."""
    left, found, now = dict[str, float](), dict[str, float](), 0.0
    waiting = sorted((at, name, n) for name, (at, n) in arrivals.items())
    while waiting or left:
        if not left:
            now = max(now, waiting[0][0])
        while waiting and waiting[0][0] <= now:
            _, name, n = waiting.pop(0)
            left[name] = float(n)
        seconds = min(left.values()) * len(left)
        seconds = min(seconds, waiting[0][0] - now) if waiting else seconds
        now += seconds
        left = {name: n - seconds / len(left) for name, n in left.items()}
        found |= {name: now for name, n in left.items() if n < 1e-9}
        left = {name: n for name, n in left.items() if n >= 1e-9}
    return found


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=8))
def test_no_request_ends_later_than_with_equal_shares(requests: list[tuple[int, int]]) -> None:
    arrivals = {f"request {i}": one for i, one in enumerate(requests)}
    found, bound = ends(scheduler(room=1), arrivals), ends_with_equal_shares(arrivals)
    assert found.keys() == bound.keys()
    assert all(found[name] <= bound[name] + 1 for name in found)  # a step is not interrupted


def test_most_requests_end_earlier_than_with_equal_shares() -> None:
    arrivals = {"a": (0, 10), "b": (0, 20), "c": (0, 30)}
    assert ends(scheduler(room=1), arrivals) == {"a": 10, "b": 30, "c": 60}
    assert ends_with_equal_shares(arrivals) == pytest.approx({"a": 30, "b": 50, "c": 60})


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    arrivals = {"large": (0, 30)} | {f"{i}": (10 * i, 9) for i in range(1, 40)}
    assert ends(scheduler(room=1), arrivals)["large"] <= 30 * 10


def test_requests_that_were_cancelled_delay_no_other() -> None:
    queue, steps = scheduler(room=1), 0
    queue.add("large", rows("large", 100), work=100.0)
    for i in range(50):
        queue.add(f"gone {i}", rows(f"gone {i}", 1000), work=1000.0)
        abort(queue, f"gone {i}")
    while any(row.request_id == "large" for row in queue.rows()):
        if len(queue._entries) == 1:
            queue.add(f"{steps}", rows(f"{steps}", 50), work=50.0)  # one after the other
        queue.finish(*queue.schedule())
        steps += 1
    assert steps <= 250


def test_a_request_that_needs_more_than_expected_gives_its_place_away() -> None:
    queue = scheduler(room=1)
    queue.add("longer than expected", rows("longer than expected", 1), work=5.0)
    queue.add("known", rows("known", 1), work=20.0)
    assert served(queue, 20) == {"longer than expected": 20}
    assert set(served(queue, 30)) == {"longer than expected", "known"}


def test_lanes_share_by_weight() -> None:
    queue = scheduler(room=1)
    add(queue, "s", rows("s", 5))
    add(queue, "l", rows("l", 5, "exact", cost=7.0, lane="likelihood"))
    service = served(queue, 1500, by="lane")
    assert service["sample"] / (7.0 * service["likelihood"]) == pytest.approx(2.0, rel=0.05)


def test_a_lane_that_was_idle_has_saved_nothing_up() -> None:
    queue = scheduler(room=1)
    add(queue, "s", rows("s", 5))
    served(queue, 100)
    add(queue, "l", rows("l", 5, "exact", lane="likelihood"))
    assert served(queue, 30, by="lane")["sample"] >= 18


def test_a_lane_gains_nothing_from_a_pause_of_both() -> None:
    queue = scheduler(room=1)
    add(queue, "s", rows("s", 5))
    served(queue, 100)
    abort(queue, "s")
    add(queue, "l", rows("l", 5, "exact", lane="likelihood"))
    add(queue, "t", rows("t", 5))
    assert served(queue, 30, by="lane")["sample"] >= 18


def test_a_lane_does_not_wait_for_slots_that_another_lane_holds() -> None:
    queue = scheduler(room=2, slots=2)
    add(queue, "a", rows("a", 3))
    add(queue, "b", rows("b", 3, lane="likelihood"))
    assert served(queue, 30, "lane") == {"sample": 40, "likelihood": 20}
