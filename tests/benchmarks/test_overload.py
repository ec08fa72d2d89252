"""Overload in simulated time, with the scheduler and the admission control of the service."""

import pytest

from benchmarks.bench_overload import overload


@pytest.mark.parametrize("clients", [1, 20])
def test_singles_stay_fast_and_who_comes_back_when_told_is_admitted(clients: int) -> None:
    facts = overload(2.5, clients)
    assert facts["single p99"] < 5.0
    assert facts["refused"] > 0.02
    assert facts["admitted when told"] > 0.99
