"""Overload in simulated time, with the scheduler and the admission control of the service."""

import pytest

from benchmarks.bench_overload import overload


@pytest.mark.parametrize(("load", "clients"), [(2.5, 1), (4.0, 20)])
def test_singles_stay_fast_and_who_comes_back_when_told_is_admitted(load: float, clients: int) -> None:
    facts = overload(load, clients)
    assert facts["single p99"] < 5.0
    assert facts["refused"] > 0.02
    assert facts["admitted when told"] > 0.99
