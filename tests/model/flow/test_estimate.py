"""The combination of draws, the coverage of its error against simulated draws, and the stopping rule."""

import math

import numpy as np
import pytest

from enflow.model.flow.estimate import Draw, combine, further_draws
from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.ode.solver_state import Status


def test_parts_are_means_over_draws_and_add_up_to_the_nll() -> None:
    found = combine([Draw(-3.0, 2.0, -1.5), Draw(-5.0, 4.0, -2.5)], 9, -0.5, exact=False)
    assert found.parts == {"base": 4.0, "divergence": -3.0, "dequantizer": -2.0, "n_atoms": 0.5}
    assert found.nll == pytest.approx(sum(found.parts.values()))


def test_importance_weights_of_exact_draws_stand_beside_their_mean() -> None:
    found = combine([Draw(math.log(1.0), 0.0, 0.0), Draw(math.log(3.0), 0.0, 0.0)], 9, 0.0, exact=True)
    assert found.log_prob == pytest.approx(math.log(3.0) / 2)
    assert found.log_prob + found.importance_gain == pytest.approx(math.log(2.0))


def test_one_draw_has_an_error_only_where_nothing_is_drawn_but_probes() -> None:
    assert combine([Draw(0.0, 0.0, 0.0, variance=4.0)], 9, 0.0, exact=False).std_error is None
    assert combine([Draw(0.0, 0.0, 0.0, variance=4.0)], 9, 0.0, exact=False, random=False).std_error == 2.0


def test_a_failed_path_has_no_value() -> None:
    failed = combine([Draw(0.0, 0.0, 0.0), Draw(0.0, 0.0, 0.0, status=Status.MAX_STEPS)], 9, 0.0, exact=True)
    assert math.isnan(failed.log_prob)
    assert [name for name, part in failed.parts.items() if math.isnan(part)] == ["base", "divergence", "dequantizer"]
    assert failed.std_error is None
    assert failed.status == Status.MAX_STEPS


def test_the_error_comes_from_the_means_of_mirrored_pairs() -> None:
    """Within a pair the draws differ by 100 nats, and no two pairs differ: only the first would be a large error."""
    opposite = [Draw(sign * 50.0, 0.0, 0.0, pair=pair) for pair in range(8) for sign in (1, -1)]
    assert combine(opposite, 5, 0.0, exact=False).std_error < 0.3
    alike = [Draw(sign * 50.0, 0.0, 0.0, pair=pair) for pair, sign in enumerate([1, -1] * 4) for _ in range(2)]
    assert 10.0 < combine(alike, 5, 0.0, exact=False).std_error < 30.0


def test_pairs_are_asked_for_whole() -> None:
    options = EstimatorOptions(target_error=0.9)
    draws = [Draw(value, 0.0, 0.0, variance=9.0, pair=number // 2) for number, value in enumerate([1, -1, 2, 1, 0, 1])]
    assert options.paired
    assert further_draws(draws, 5, options) % 2 == 0
    assert [EstimatorOptions(draws=count).paired for count in (1, 2, 3, 4, 5, 6)] == [False] * 3 + [True, False, True]
    assert not EstimatorOptions("exact").paired


@pytest.mark.parametrize(
    ("n_atoms", "spread", "lowest"), [(5, 1.0, 0.92), (9, 1.5, 0.92), (18, 2.5, 0.92), (18, 6.0, 0.86)]
)
def test_the_error_covers_the_mean_of_simulated_draws_that_stop_at_the_target(
    n_atoms: int, spread: float, lowest: float
) -> None:
    source, options, inside, errors = np.random.default_rng(0), EstimatorOptions(), 0, []
    for _ in range(600):
        draws: list[Draw] = []
        more = options.first_draws
        while more:
            # A pair's mean has 0.2 of the variance of a draw; with the bundled weights it was 0 to 0.25.
            half, difference = spread * np.sqrt([[0.2], [0.8]]) * source.normal(size=(2, more // 2))
            noise = np.stack([half + difference, half - difference], 1).reshape(-1) + source.normal(0.0, 2.7, more)
            first = len(draws)
            draws += [
                Draw(value, 0.0, 0.0, variance=2.7**2, pair=(first + i) // 2) for i, value in enumerate(noise.tolist())
            ]
            more = further_draws(draws, n_atoms, options)
        found = combine(draws, n_atoms, 0.0, exact=False)
        inside += abs(found.log_prob) < 1.96 * found.std_error
        errors.append(found.std_error)
    assert lowest <= inside / 600 <= 0.99
    assert max(errors) <= options.target_error or spread == 6.0
