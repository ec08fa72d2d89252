"""The scheduler against rules that can be stated from outside: conservation, bounds, and the order of rows."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from enflow.service.engine.queues import Row
from enflow.service.engine.scheduler import Scheduler
from tests.service.engine.scheduling import LANES, abort, add, rows, scheduler, served


def test_an_idle_scheduler_has_nothing_to_step() -> None:
    assert scheduler().schedule() == []


def test_a_step_takes_rows_of_one_group_up_to_its_room() -> None:
    queue = scheduler(room=4)
    add(queue, "a", rows("a", 3, "small") + rows("a", 9, "large", first=3))
    assert [row.batch_key for row in queue.schedule()] == ["small"] * 3


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


def test_rows_that_share_the_values_of_a_step_are_charged_for_one_step() -> None:
    queue = Scheduler[Row](LANES, lambda _: 4, 64, step_cost=lambda key: 8.0 if key == "exact" else math.inf)
    add(queue, "a", [replace(row, batch_key="exact", cost=8.0, lane="likelihood") for row in rows("a", 4)])
    batch = queue.schedule()
    assert [row.cost for row in batch] == [2.0] * 4
    assert queue._lanes["likelihood"].start_tag == 8.0 / LANES["likelihood"]


def test_finish_tells_the_last_row_of_a_work() -> None:
    queue = scheduler()
    add(queue, "a", rows("a", 2))
    first, second = queue.schedule()
    assert [queue.finish(first), queue.finish(second)] == [False, True]
    assert len(queue._entries) == queue.occupied == 0


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
        assert len(self.queue.rows()) == states["running"] + states["waiting"]
        assert len(self.queue._entries) == len({key[0] for key in self.here})
        slots = Counter((row.lane, row.batch_key) for row in self.here.values() if row.state == "running")
        assert self.queue.occupied == max(slots.values(), default=0) <= self.SLOTS

    def teardown(self) -> None:
        for _ in range(10 * len(self.here)):
            for row in self.queue.schedule():
                del self.here[row.key]
                self.queue.finish(row)
        assert not self.here


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_rows_in_flight_take_part_in_no_step_and_others_have_their_half_of_it() -> None:
    queue = Scheduler(LANES, lambda _: 4, 64, parts=2)
    add(queue, "a", rows("a", 6))
    first = queue.schedule()
    assert [row.index for row in first] == [0, 1, 2]
    for row in first:
        row.in_flight = True
    second = queue.schedule()
    assert [row.index for row in second] == [3, 4, 5]
    for row in second:
        row.in_flight = True
    assert queue.schedule() == []
    first[1].in_flight = False
    assert queue.schedule() == [first[1]]


def test_a_request_whose_rows_are_all_in_flight_leaves_the_step_to_the_next() -> None:
    queue = Scheduler(LANES, lambda _: 4, 64, parts=2)
    add(queue, "a", rows("a", 1))
    add(queue, "b", rows("b", 1, group="large"))
    (first,) = queue.schedule()
    first.in_flight = True
    assert [row.request_id for row in queue.schedule()] == ["b"]
