"""Crash isolation against a worker that one sample ends."""

import math
import random

import pytest

from enflow.service.client.request_tracker import MAX_CRASHES_ALONE, CrashIsolation


@pytest.mark.parametrize("count", [1, 2, 7, 64, 500])
def test_one_fatal_sample_among_many_is_found_by_halving(count: int) -> None:
    samples = [("a", index) for index in range(count)]
    fatal, isolation, crashes = random.Random(count).choice(samples), CrashIsolation(), 0
    cause = None
    while cause is None:
        group = isolation.groups.get(fatal)
        cause = isolation.crash([sample for sample in samples if isolation.groups.get(sample) == group])
        crashes += 1
    assert cause == fatal
    assert crashes <= math.ceil(math.log2(count)) + MAX_CRASHES_ALONE


def test_a_crash_without_rows_accuses_no_sample() -> None:
    isolation = CrashIsolation()
    assert isolation.crash([]) is None
    assert not isolation.groups


def test_a_sample_with_its_answer_is_no_suspect() -> None:
    isolation = CrashIsolation()
    isolation.crash([("a", 0), ("a", 1)])
    isolation.discard(("a", 0))
    assert set(isolation.groups) == {("a", 1)}
