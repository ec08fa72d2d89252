"""The scheduler against rules that can be stated from outside: conservation, bounds, and shares of the device."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from enflow.service.engine.scheduler import Row, Scheduler

LANES = {"sample": 2.0, "likelihood": 1.0}


def rows(work: str, n: int, group: str = "small", cost: float = 1.0, lane: str = "sample", first: int = 0) -> list[Row]:
    return [Row(work, first + i, lane, group, cost) for i in range(n)]


def scheduler(room: int = 4, slots: int = 64) -> Scheduler:
    return Scheduler(LANES, lambda _: room, slots)


def served(plan: Scheduler, steps: int, by: str = "work") -> Counter[str]:
    return Counter(getattr(row, by) for _ in range(steps) for row in plan.batch())


def test_an_idle_scheduler_has_nothing_to_step() -> None:
    assert scheduler().batch() == []


def test_a_step_takes_rows_of_one_group_up_to_its_room() -> None:
    plan = scheduler(room=4)
    plan.add("a", rows("a", 3, "small") + rows("a", 9, "large", first=3))
    assert [row.group for row in plan.batch()] == ["small"] * 3


def test_a_large_work_never_blocks_a_small_one() -> None:
    plan = scheduler(room=4)
    plan.add("large", rows("large", 1000))
    for _ in range(50):
        plan.batch()
    plan.add("small", rows("small", 1))
    assert "small" in {row.work for row in plan.batch()}


def test_works_that_compete_get_equal_service_whatever_their_size() -> None:
    plan = scheduler(room=4)
    for work, n in (("a", 4), ("b", 40), ("c", 400)):
        plan.add(work, rows(work, n))
    service = served(plan, 300)
    assert max(service.values()) - min(service.values()) <= 4


def test_service_is_counted_by_cost() -> None:
    plan = scheduler(room=1)
    plan.add("cheap", rows("cheap", 9, "small", cost=1.0))
    plan.add("dear", rows("dear", 9, "large", cost=3.0))
    service = served(plan, 400)
    assert service["cheap"] / service["dear"] == pytest.approx(3.0, rel=0.05)


def test_lanes_share_by_weight() -> None:
    plan = scheduler(room=1)
    plan.add("s", rows("s", 5))
    plan.add("l", rows("l", 5, "exact", cost=7.0, lane="likelihood"))
    service = served(plan, 1500, by="lane")
    assert service["sample"] / (7.0 * service["likelihood"]) == pytest.approx(2.0, rel=0.05)


def test_a_lane_that_was_idle_has_saved_nothing_up() -> None:
    plan = scheduler(room=1)
    plan.add("s", rows("s", 5))
    served(plan, 100)
    plan.add("l", rows("l", 5, "exact", lane="likelihood"))
    assert served(plan, 30, by="lane")["sample"] >= 18


def test_a_lane_gains_nothing_from_a_pause_of_both() -> None:
    plan = scheduler(room=1)
    plan.add("s", rows("s", 5))
    served(plan, 100)
    plan.abort("s")
    plan.add("l", rows("l", 5, "exact", lane="likelihood"))
    plan.add("t", rows("t", 5))
    assert served(plan, 30, by="lane")["sample"] >= 18


def test_a_work_that_came_late_has_saved_nothing_up_and_owes_nothing() -> None:
    plan = scheduler(room=1)
    plan.add("early", rows("early", 5))
    served(plan, 100)
    plan.add("late", rows("late", 5))
    assert served(plan, 20) == {"early": 10, "late": 10}


@pytest.mark.parametrize(("before", "lead"), [(4, 2), (100, 6)])
def test_a_head_start_lets_a_small_work_be_done_first(before: int, lead: int) -> None:
    plan = Scheduler(LANES, lambda _: 1, 64, head_start=6.0)
    plan.add("large", rows("large", 500))
    served(plan, before)
    plan.add("small", rows("small", 1))
    assert served(plan, lead) == {"small": lead}
    served(plan, 4)
    assert abs(served(plan, 20)["small"] - 10) <= 1


def test_small_works_without_end_do_not_starve_a_large_one() -> None:
    plan = Scheduler(LANES, lambda _: 1, 64, head_start=6.0)
    plan.add("large", rows("large", 500))
    served(plan, 100)
    large = 0
    for i in range(100):
        plan.add(f"small {i}", rows(f"small {i}", 1))
        large += served(plan, 3)["large"]
        plan.abort(f"small {i}")
    assert large > 60


def test_steps_are_brief_while_a_small_new_work_is_about() -> None:
    plan = Scheduler(LANES, lambda _: 8, 64, head_start=6.0, brief=lambda _: 2)
    plan.add("large", rows("large", 500))
    assert {len(plan.batch()) for _ in range(20)} == {8}  # alone, it hurries nobody
    plan.add("small", rows("small", 1))
    steps = [plan.batch() for _ in range(6)]
    assert [len(step) for step in steps] == [2] * 6
    assert all("small" in {row.work for row in step} for step in steps)
    plan.add("another large one", rows("another large one", 50))
    assert len(plan.batch()) == 8  # the small one has had its head start, and whoever is large is not in a hurry
    assert "small" in {row.work for row in plan.batch()}


def rows_to_score_on_their_way_go_before_rows_that_wait() -> None:
    plan = scheduler(room=2)
    plan.add("a", rows("a", 6))
    first = plan.batch()
    assert plan.batch() == first
    plan.finish(first[0])
    assert [row.index for row in plan.batch()] == [1, 2]


def test_no_more_rows_run_than_there_are_slots_and_the_rest_follow() -> None:
    plan = scheduler(room=2, slots=2)
    for work in "abc":
        plan.add(work, rows(work, 1))
    first = plan.batch()
    assert {row.work for row in first} == {"a", "b"}
    assert plan.batch() == first  # c has had least, but there is no slot
    plan.finish(first[0])
    assert "c" in {row.work for row in plan.batch()}


def test_move_sends_a_row_to_another_lane_and_frees_its_slot() -> None:
    plan = scheduler(room=1, slots=1)
    plan.add("a", rows("a", 2))
    (row,) = plan.batch()
    plan.move(row, "likelihood", "exact", 5.0)
    assert row.state == "waiting"
    assert Counter(row.lane for _ in range(2) for row in plan.batch()) == {"sample": 1, "likelihood": 1}


def test_finish_tells_the_last_row_of_a_work() -> None:
    plan = scheduler()
    plan.add("a", rows("a", 2))
    first, second = plan.batch()
    assert [plan.finish(first), plan.finish(second)] == [False, True]
    assert plan.works == plan.running == plan.waiting == 0


def test_abort_takes_waiting_and_running_rows_and_may_come_too_late() -> None:
    plan = scheduler(room=2)
    plan.add("a", rows("a", 5))
    plan.batch()
    assert len(plan.abort("a")) == 5
    assert plan.abort("a") == []
    assert plan.batch() == []


def test_deadlines_expire_by_the_clock() -> None:
    plan = scheduler()
    plan.add("soon", rows("soon", 1), deadline=10.0)
    plan.add("late", rows("late", 1), deadline=20.0)
    plan.add("never", rows("never", 1))
    assert plan.expired(9.9) == []
    assert plan.expired(10.0) == ["soon"]
    assert plan.expired(99.0) == ["soon", "late"]


def test_a_lane_does_not_wait_for_slots_that_another_lane_holds() -> None:
    plan = scheduler(room=2, slots=2)
    plan.add("a", rows("a", 3))
    plan.add("b", rows("b", 3, lane="likelihood"))
    assert served(plan, 30, "lane") == {"sample": 40, "likelihood": 20}


def test_a_row_enters_once() -> None:
    plan = scheduler()
    plan.add("a", rows("a", 1))
    with pytest.raises(ValueError, match="twice"):
        plan.add("a", rows("a", 1))


class Traffic(RuleBasedStateMachine):
    """Any order of comings and goings: nothing lost, nothing doubled, bounds kept, and everybody served in the end."""

    ROOM, SLOTS = 3, 5
    GROUPS = ("small", "large")

    def __init__(self) -> None:
        super().__init__()
        self.plan = Scheduler(LANES, lambda _: self.ROOM, self.SLOTS)
        self.here: dict[tuple[str, int, int], Row] = {}
        self.count = 0

    @rule(
        n=st.integers(1, 7), group=st.sampled_from(GROUPS), lane=st.sampled_from(sorted(LANES)), cost=st.floats(0.1, 9)
    )
    def add(self, n: int, group: str, lane: str, cost: float) -> None:
        work = f"work {self.count}"
        self.count += 1
        new = rows(work, n, group, cost, lane)
        self.plan.add(work, new)
        self.here |= {row.key: row for row in new}

    @rule(finish=st.integers(0, 3), move=st.booleans())
    def step(self, finish: int, move: bool) -> None:
        batch = self.plan.batch()
        assert bool(batch) == bool(self.here)
        assert len({row.key for row in batch}) == len(batch) <= self.ROOM
        assert len({(row.group, row.lane) for row in batch}) <= 1
        assert all(self.here[row.key] is row for row in batch)
        for row in batch[:finish]:
            del self.here[row.key]
            assert self.plan.finish(row) == all(key[0] != row.work for key in self.here)
        if move and batch[finish:]:
            self.plan.move(batch[-1], "likelihood", "exact", 1.0)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(sorted({key[0] for key in self.here})))
        gone = self.plan.abort(work)
        assert {row.key for row in gone} == {key for key in self.here if key[0] == work}
        self.here = {key: row for key, row in self.here.items() if key[0] != work}

    @invariant()
    def counts_agree(self) -> None:
        states = Counter(row.state for row in self.here.values())
        assert (self.plan.running, self.plan.waiting) == (states["running"], states["waiting"])
        assert self.plan.works == len({key[0] for key in self.here})
        slots = Counter((row.lane, row.group) for row in self.here.values() if row.state == "running")
        assert all(held <= self.SLOTS for held in slots.values())

    def teardown(self) -> None:
        for _ in range(10 * len(self.here)):
            for row in self.plan.batch():
                del self.here[row.key]
                self.plan.finish(row)
        assert not self.here


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
