"""The scheduler against rules that can be stated from outside: conservation, bounds, the order, and shares."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from enflow.service.engine.queues import Row
from enflow.service.engine.scheduler import Scheduler

LANES = {"sample": 2.0, "likelihood": 1.0}


def rows(
    request: str, n: int, group: str = "small", cost: float = 1.0, lane: str = "sample", first: int = 0
) -> list[Row]:
    return [Row(request, first + i, lane, group, cost) for i in range(n)]


def scheduler(room: int = 4, slots: int = 64) -> Scheduler:
    return Scheduler(LANES, lambda _: room, slots)


def add(
    queue: Scheduler,
    request: str,
    new: list[Row],
    *,
    small: bool = False,
    deadline: float | None = None,
) -> None:
    """Add rows of much work, so that the order is that of arrival."""
    queue.add(request, new, deadline, work=math.inf, small=small)


def served(queue: Scheduler, steps: int, by: str = "request_id") -> Counter[str]:
    return Counter(getattr(row, by) for _ in range(steps) for row in queue.schedule())


def abort(queue: Scheduler, request: str) -> list[Row]:
    """Finish all rows of a request."""
    gone = [row for row in queue.rows() if row.request_id == request]
    for row in gone:
        queue.finish(row)
    return gone


def test_an_idle_scheduler_has_nothing_to_step() -> None:
    assert scheduler().schedule() == []


def test_a_step_takes_rows_of_one_group_up_to_its_room() -> None:
    queue = scheduler(room=4)
    add(queue, "a", rows("a", 3, "small") + rows("a", 9, "large", first=3))
    assert [row.batch_key for row in queue.schedule()] == ["small"] * 3


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


def test_rows_on_their_way_go_before_rows_that_wait() -> None:
    queue = scheduler(room=2)
    add(queue, "a", rows("a", 6))
    first = queue.schedule()
    assert queue.schedule() == first
    queue.finish(first[0])
    assert [row.index for row in queue.schedule()] == [1, 2]


def test_no_more_rows_run_than_there_are_slots_and_the_rest_follow() -> None:
    queue = scheduler(room=2, slots=2)
    for request in "abc":
        add(queue, request, rows(request, 1))
    first = queue.schedule()
    assert {row.request_id for row in first} == {"a", "b"}
    assert queue.schedule() == first  # c has had least, but there is no slot
    queue.finish(first[0])
    assert "c" in {row.request_id for row in queue.schedule()}


def test_move_sends_a_row_to_another_lane_and_frees_its_slot() -> None:
    queue = scheduler(room=1, slots=1)
    add(queue, "a", rows("a", 2))
    (row,) = queue.schedule()
    queue.move(row, "likelihood", "exact", 5.0)
    assert row.state == "waiting"
    assert Counter(row.lane for _ in range(2) for row in queue.schedule()) == {"sample": 1, "likelihood": 1}


def test_finish_tells_the_last_row_of_a_work() -> None:
    queue = scheduler()
    add(queue, "a", rows("a", 2))
    first, second = queue.schedule()
    assert [queue.finish(first), queue.finish(second)] == [False, True]
    assert len(queue._entries) == queue.running == queue.waiting == 0


def test_samples_that_have_begun_go_before_the_others_of_their_request() -> None:
    queue = scheduler(room=2)
    add(queue, "a", rows("a", 3, "small") + rows("a", 3, "large", first=3))
    first, other = queue.schedule()
    queue.finish(first)
    add(queue, "a", [replace(first, draw=1, begun=True, state="waiting")])  # its next pass
    assert [row.key for row in queue.schedule()] == [("a", 0, 1), ("a", 1, 0)]
    queue.move(other, "sample", "other stage", 1.0)
    assert queue.schedule() == [other]


def test_finish_takes_waiting_and_running_rows() -> None:
    queue = scheduler(room=2)
    add(queue, "a", rows("a", 5))
    queue.schedule()
    for row in queue.rows():
        queue.finish(row)
    assert queue.schedule() == []


def test_deadlines_expire_by_the_clock() -> None:
    queue = scheduler()
    add(queue, "soon", rows("soon", 1), deadline=10.0)
    add(queue, "late", rows("late", 1), deadline=20.0)
    add(queue, "never", rows("never", 1))
    assert queue.expired(9.9) == []
    assert queue.expired(10.0) == ["soon"]
    assert queue.expired(99.0) == ["soon", "late"]


def test_a_lane_does_not_wait_for_slots_that_another_lane_holds() -> None:
    queue = scheduler(room=2, slots=2)
    add(queue, "a", rows("a", 3))
    add(queue, "b", rows("b", 3, lane="likelihood"))
    assert served(queue, 30, "lane") == {"sample": 40, "likelihood": 20}


def test_a_row_enters_once() -> None:
    queue = scheduler()
    add(queue, "a", rows("a", 1))
    with pytest.raises(ValueError, match="twice"):
        add(queue, "a", rows("a", 1))


def test_rows_of_different_isolation_groups_share_no_step() -> None:
    queue = scheduler(room=8)
    new = rows("a", 6)
    for row in new[:2]:
        row.isolation = 1
    new[2].isolation = 2
    add(queue, "a", new)
    steps = [{row.index for row in queue.schedule()} for _ in range(2)]
    for row in new[:2]:
        queue.finish(row)
    steps.append({row.index for row in queue.schedule()})
    assert steps == [{0, 1}, {0, 1}, {2}]


def test_a_row_of_another_isolation_waits_for_a_slot() -> None:
    queue = scheduler(room=2, slots=2)
    queue.add("a", rows("a", 2), work=9.0)
    first = queue.schedule()
    queue.add("alone", [replace(row, isolation=1) for row in rows("alone", 1)], work=1.0)
    assert queue.schedule() == first  # "alone" goes first, but there is no slot
    queue.finish(first[0])
    assert served(queue, 1) == {"alone": 1}


class Traffic(RuleBasedStateMachine):
    """Rows come and go in any order: none is lost or doubled, the bounds hold, and every row is served in the end."""

    ROOM, SLOTS = 3, 5
    GROUPS = ("small", "large")

    def __init__(self) -> None:
        super().__init__()
        self.queue = Scheduler(LANES, lambda _: self.ROOM, self.SLOTS)
        self.here: dict[tuple[str, int, int], Row] = {}
        self.count = 0

    @rule(
        n=st.integers(1, 7),
        group=st.sampled_from(GROUPS),
        lane=st.sampled_from(sorted(LANES)),
        cost=st.floats(0.1, 9),
        work=st.floats(0.0, 99),
        isolation=st.integers(0, 1),
    )
    def add(self, n: int, group: str, lane: str, cost: float, work: float, isolation: int) -> None:
        request = f"request {self.count}"
        self.count += 1
        new = [replace(row, isolation=isolation) for row in rows(request, n, group, cost, lane)]
        self.queue.add(request, new, work=work)
        self.here |= {row.key: row for row in new}

    @rule(finish=st.integers(0, 3), move=st.booleans())
    def step(self, finish: int, move: bool) -> None:
        batch = self.queue.schedule()
        assert bool(batch) == bool(self.here)
        assert len({row.key for row in batch}) == len(batch) <= self.ROOM
        assert len({(row.batch_key, row.lane) for row in batch}) <= 1
        assert all(self.here[row.key] is row for row in batch)
        for row in batch[:finish]:
            del self.here[row.key]
            assert self.queue.finish(row) == all(key[0] != row.request_id for key in self.here)
        if move and batch[finish:]:
            self.queue.move(batch[-1], "likelihood", "exact", 1.0)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted({key[0] for key in self.here})))
        gone = abort(self.queue, request)
        assert {row.key for row in gone} == {key for key in self.here if key[0] == request}
        self.here = {key: row for key, row in self.here.items() if key[0] != request}

    @invariant()
    def counts_agree(self) -> None:
        states = Counter(row.state for row in self.here.values())
        assert (self.queue.running, self.queue.waiting) == (states["running"], states["waiting"])
        assert len(self.queue._entries) == len({key[0] for key in self.here})
        slots = Counter((row.lane, row.batch_key) for row in self.here.values() if row.state == "running")
        assert all(held <= self.SLOTS for held in slots.values())

    def teardown(self) -> None:
        for _ in range(10 * len(self.here)):
            for row in self.queue.schedule():
                del self.here[row.key]
                self.queue.finish(row)
        assert not self.here


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
