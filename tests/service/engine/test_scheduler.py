"""The scheduler against rules that can be stated from outside: conservation, bounds, and shares of the device."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from enflow.service.engine.scheduler import Row, Scheduler

LANES = {"sample": 2.0, "likelihood": 1.0}


def rows(
    request: str, n: int, group: str = "small", cost: float = 1.0, lane: str = "sample", first: int = 0
) -> list[Row]:
    return [Row(request, first + i, lane, group, cost) for i in range(n)]


def scheduler(room: int = 4, slots: int = 64) -> Scheduler:
    return Scheduler(LANES, lambda _: room, slots)


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
    queue.add("a", rows("a", 3, "small") + rows("a", 9, "large", first=3))
    assert [row.batch_key for row in queue.schedule()] == ["small"] * 3


def test_a_large_work_never_blocks_a_small_one() -> None:
    queue = scheduler(room=4)
    queue.add("large", rows("large", 1000))
    for _ in range(50):
        queue.schedule()
    queue.add("small", rows("small", 1), small=True)
    assert "small" in {row.request_id for row in queue.schedule()}


def test_works_that_compete_get_equal_service_whatever_their_size() -> None:
    queue = scheduler(room=4)
    for request, n in (("a", 4), ("b", 40), ("c", 400)):
        queue.add(request, rows(request, n))
    service = served(queue, 300)
    assert max(service.values()) - min(service.values()) <= 4


def test_service_is_counted_by_cost() -> None:
    queue = scheduler(room=1)
    queue.add("cheap", rows("cheap", 9, "small", cost=1.0))
    queue.add("dear", rows("dear", 9, "large", cost=3.0))
    service = served(queue, 400)
    assert service["cheap"] / service["dear"] == pytest.approx(3.0, rel=0.05)


def test_lanes_share_by_weight() -> None:
    queue = scheduler(room=1)
    queue.add("s", rows("s", 5))
    queue.add("l", rows("l", 5, "exact", cost=7.0, lane="likelihood"))
    service = served(queue, 1500, by="lane")
    assert service["sample"] / (7.0 * service["likelihood"]) == pytest.approx(2.0, rel=0.05)


def test_a_lane_that_was_idle_has_saved_nothing_up() -> None:
    queue = scheduler(room=1)
    queue.add("s", rows("s", 5))
    served(queue, 100)
    queue.add("l", rows("l", 5, "exact", lane="likelihood"))
    assert served(queue, 30, by="lane")["sample"] >= 18


def test_a_lane_gains_nothing_from_a_pause_of_both() -> None:
    queue = scheduler(room=1)
    queue.add("s", rows("s", 5))
    served(queue, 100)
    abort(queue, "s")
    queue.add("l", rows("l", 5, "exact", lane="likelihood"))
    queue.add("t", rows("t", 5))
    assert served(queue, 30, by="lane")["sample"] >= 18


def test_a_work_that_came_late_has_saved_nothing_up_and_owes_nothing() -> None:
    queue = scheduler(room=1)
    queue.add("early", rows("early", 5))
    served(queue, 100)
    queue.add("late", rows("late", 5))
    assert served(queue, 20) == {"early": 10, "late": 10}


@pytest.mark.parametrize(("before", "lead"), [(4, 2), (100, 6)])
def test_the_initial_credit_lets_a_small_request_finish_first(before: int, lead: int) -> None:
    queue = Scheduler(LANES, lambda _: 1, 64, initial_credit=6.0)
    queue.add("large", rows("large", 500))
    served(queue, before)
    queue.add("small", rows("small", 1), small=True)
    assert served(queue, lead) == {"small": lead}
    served(queue, 4)
    assert abs(served(queue, 20)["small"] - 10) <= 1


def test_small_works_without_end_do_not_starve_a_large_one() -> None:
    queue = Scheduler(LANES, lambda _: 1, 64, initial_credit=6.0)
    queue.add("large", rows("large", 500))
    served(queue, 100)
    large = 0
    for i in range(100):
        queue.add(f"small {i}", rows(f"small {i}", 1), small=True)
        large += served(queue, 3)["large"]
        abort(queue, f"small {i}")
    assert large > 60


def test_steps_are_brief_while_a_small_new_work_is_about() -> None:
    queue = Scheduler(LANES, lambda _: 8, 64, initial_credit=6.0, short_step_rows=lambda _: 2)
    queue.add("large", rows("large", 500))
    assert {len(queue.schedule()) for _ in range(20)} == {8}  # one request alone has no short steps
    queue.add("small", rows("small", 1), small=True)
    steps = [queue.schedule() for _ in range(6)]
    assert [len(step) for step in steps] == [2] * 6
    assert all("small" in {row.request_id for row in step} for step in steps)
    queue.add("another large one", rows("another large one", 50))
    assert len(queue.schedule()) == 8  # the small request has used its credit, and a large one has no short steps
    assert "small" in {row.request_id for row in queue.schedule()}


def test_a_small_request_does_not_wait_for_the_slots_of_large_ones() -> None:
    queue = Scheduler(LANES, lambda _: 16, slots=16, initial_credit=6.0)
    queue.add("large", rows("large", 500))
    for _ in range(3):
        assert len(queue.schedule()) == 14
    queue.add("small", rows("small", 2), small=True)
    assert served(queue, 1)["small"] == 2


def test_many_new_large_requests_do_not_go_before_a_small_one() -> None:
    queue = Scheduler(LANES, lambda _: 1, 64, initial_credit=6.0)
    for i in range(20):
        queue.add(f"large {i}", rows(f"large {i}", 50))
        served(queue, 1)
    queue.add("small", rows("small", 1), small=True)
    assert served(queue, 8)["small"] >= 5


def test_rows_on_their_way_go_before_rows_that_wait() -> None:
    queue = scheduler(room=2)
    queue.add("a", rows("a", 6))
    first = queue.schedule()
    assert queue.schedule() == first
    queue.finish(first[0])
    assert [row.index for row in queue.schedule()] == [1, 2]


def test_no_more_rows_run_than_there_are_slots_and_the_rest_follow() -> None:
    queue = scheduler(room=2, slots=2)
    for request in "abc":
        queue.add(request, rows(request, 1))
    first = queue.schedule()
    assert {row.request_id for row in first} == {"a", "b"}
    assert queue.schedule() == first  # c has had least, but there is no slot
    queue.finish(first[0])
    assert "c" in {row.request_id for row in queue.schedule()}


def test_move_sends_a_row_to_another_lane_and_frees_its_slot() -> None:
    queue = scheduler(room=1, slots=1)
    queue.add("a", rows("a", 2))
    (row,) = queue.schedule()
    queue.move(row, "likelihood", "exact", 5.0)
    assert row.state == "waiting"
    assert Counter(row.lane for _ in range(2) for row in queue.schedule()) == {"sample": 1, "likelihood": 1}


def test_finish_tells_the_last_row_of_a_work() -> None:
    queue = scheduler()
    queue.add("a", rows("a", 2))
    first, second = queue.schedule()
    assert [queue.finish(first), queue.finish(second)] == [False, True]
    assert len(queue._entries) == queue.running == queue.waiting == 0


def test_samples_that_have_begun_go_before_the_others_of_their_request() -> None:
    queue = scheduler(room=2)
    queue.add("a", rows("a", 3, "small") + rows("a", 3, "large", first=3))
    first, other = queue.schedule()
    queue.finish(first)
    queue.add("a", [replace(first, draw=1, begun=True, state="waiting")])  # its next pass
    assert [row.key for row in queue.schedule()] == [("a", 0, 1), ("a", 1, 0)]
    queue.move(other, "sample", "other stage", 1.0)
    assert queue.schedule() == [other]


def test_finish_takes_waiting_and_running_rows() -> None:
    queue = scheduler(room=2)
    queue.add("a", rows("a", 5))
    queue.schedule()
    for row in queue.rows():
        queue.finish(row)
    assert queue.schedule() == []


def test_deadlines_expire_by_the_clock() -> None:
    queue = scheduler()
    queue.add("soon", rows("soon", 1), deadline=10.0)
    queue.add("late", rows("late", 1), deadline=20.0)
    queue.add("never", rows("never", 1))
    assert queue.expired(9.9) == []
    assert queue.expired(10.0) == ["soon"]
    assert queue.expired(99.0) == ["soon", "late"]


def test_a_lane_does_not_wait_for_slots_that_another_lane_holds() -> None:
    queue = scheduler(room=2, slots=2)
    queue.add("a", rows("a", 3))
    queue.add("b", rows("b", 3, lane="likelihood"))
    assert served(queue, 30, "lane") == {"sample": 40, "likelihood": 20}


def test_a_row_enters_once() -> None:
    queue = scheduler()
    queue.add("a", rows("a", 1))
    with pytest.raises(ValueError, match="twice"):
        queue.add("a", rows("a", 1))


def test_rows_of_different_isolation_groups_share_no_step() -> None:
    queue = scheduler(room=8)
    new = rows("a", 6)
    for row in new[:2]:
        row.isolation = 1
    new[2].isolation = 2
    queue.add("a", new)
    steps = [{row.index for row in queue.schedule()} for _ in range(2)]
    for row in new[:2]:
        queue.finish(row)
    steps.append({row.index for row in queue.schedule()})
    assert steps == [{0, 1}, {0, 1}, {2}]


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
        n=st.integers(1, 7), group=st.sampled_from(GROUPS), lane=st.sampled_from(sorted(LANES)), cost=st.floats(0.1, 9)
    )
    def add(self, n: int, group: str, lane: str, cost: float) -> None:
        request = f"request {self.count}"
        self.count += 1
        new = rows(request, n, group, cost, lane)
        self.queue.add(request, new)
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
