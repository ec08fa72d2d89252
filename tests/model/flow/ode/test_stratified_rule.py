"""The stratified rule on integrals that are known."""

import numpy as np
import pytest

from enflow.model.flow.ode.stratified_rule import StratifiedRule

STEPS = [0.97, 0.9, 0.75, 0.5, 0.45, 0.4, 0.1, 0.0]


def integrate(integrand: object, seed: int, strata: int = 24) -> StratifiedRule:
    rule = StratifiedRule.along(STEPS, np.random.default_rng(seed).random(2 * strata))
    return rule.update([integrand(t) for t in rule.times])


def test_a_smooth_integral_is_nearly_exact_and_its_path_grows_to_it() -> None:
    rule = integrate(lambda t: 3 * t**2 + 1, seed=0)
    assert rule.value == pytest.approx(-2.0, abs=1e-3)
    assert rule.times == []
    for t, grown in rule.path:
        assert grown == pytest.approx(t**3 + t - 2.0, abs=1e-3)


def test_a_spike_is_integrated_without_bias() -> None:
    values = [integrate(lambda t: float(0.61 < t < 0.612), seed, strata=4).value for seed in range(4000)]
    assert np.mean(values) == pytest.approx(-0.002, abs=3 * np.std(values) / np.sqrt(4000))


@pytest.mark.parametrize("strata", [8, 24])
@pytest.mark.parametrize(
    ("bend", "noise"),
    [
        pytest.param(0.0, lambda t: 1.0 + t, id="noise"),
        pytest.param(100.0, lambda _: 0.0, id="bend"),
        pytest.param(30.0, lambda t: 20.0 * np.exp(-(((t - 0.3) / 0.05) ** 2)), id="a bend, and noise in a short time"),
    ],
)
def test_the_variance_over_noise_and_times_is_found(bend: float, noise: object, strata: int) -> None:
    source = np.random.default_rng(1)
    rules = [
        integrate(lambda t: bend * np.sin(12 * t) + source.normal(0.0, 1.0) * noise(t), seed, strata)
        for seed in range(800)
    ]
    assert np.mean([rule.variance for rule in rules]) == pytest.approx(np.var([r.value for r in rules]), rel=0.2)
