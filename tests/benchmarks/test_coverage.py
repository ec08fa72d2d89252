"""The coverage benchmark, on a small network whose exact bound takes a second."""

from benchmarks.bench_coverage import exact_bound, repeat
from tests.model.flow.small_networks import small_flow
from tests.model.flow.test_likelihood import FLUOROMETHANE


def test_repetitions_agree_with_the_exact_bound_within_their_errors() -> None:
    flow = small_flow()
    found = repeat(flow, FLUOROMETHANE, 20, exact_bound(flow, FLUOROMETHANE, 16))
    bias, error = found.bias
    assert abs(bias) < 3 * error
    assert found.inside.mean() >= 0.85
    assert (found.std_error <= 2.0).all()
