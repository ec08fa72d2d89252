"""The benchmark of probes, on a small network: both kinds of probes against the exact trace, and their errors."""

from functools import partial

import torch

from benchmarks.bench_probes import OPTIONS, kept_probe, measure, new_probes
from enflow.model.flow.likelihood import DrawState, Terms, complete_draw
from tests.model.flow.small_networks import small_flow
from tests.model.flow.test_likelihood import FLUOROMETHANE

REPETITIONS = 100


@torch.no_grad()
def test_both_kinds_of_probes_have_the_mean_of_the_exact_trace_and_new_ones_have_a_smaller_error() -> None:
    flow = small_flow()
    ((point, _, _),) = flow.dequantize([FLUOROMETHANE], 0, [0]).rows()
    (end,) = flow.solve([point], 1.0, 0.0, 1e-5, 1e-5, record=True)
    exact = DrawState(Terms(0.0, 0.0), None, 0.01, pieces=end.path)
    exact.finish_path(0.0, end.x, end.h)
    complete_draw(exact, flow.velocity, flow.dtype)
    expected = exact.result(end.nfe).divergence
    (new, new_deviation, _), (kept, kept_deviation, _) = (
        measure(partial(way, flow, end), REPETITIONS) for way in (new_probes, kept_probe)
    )
    assert abs(new - expected) < 4 * new_deviation / REPETITIONS**0.5
    assert abs(kept - expected) < 4 * kept_deviation / REPETITIONS**0.5
    per_evaluation = OPTIONS.probes_per_node**0.5
    assert new_deviation * per_evaluation < 0.6 * kept_deviation  # at the same number of evaluations
