"""The stratified rule on integrals that are known."""

import numpy as np
import pytest

from enflow.model.flow.ode.stratified_rule import StratifiedRule

STEPS = [0.97, 0.9, 0.75, 0.5, 0.45, 0.4, 0.1, 0.0]


def integrate(integrand: object, seed: int, strata: int = 48) -> StratifiedRule:
    rule = StratifiedRule.along(STEPS, np.random.default_rng(seed).random(strata))
    return rule.update([integrand(t) for t in rule.times])


def test_a_smooth_integral_is_nearly_exact_and_its_path_grows_to_it() -> None:
    rule = integrate(lambda t: 3 * t**2 + 1, seed=0)
    assert rule.value == pytest.approx(-2.0, abs=1e-3)
    assert rule.times == []
    for t, grown in rule.path:
        assert grown == pytest.approx(t**3 + t - 2.0, abs=1e-3)


def test_a_spike_is_integrated_without_bias() -> None:
    values = [integrate(lambda t: float(0.61 < t < 0.612), seed, strata=8).value for seed in range(4000)]
    assert np.mean(values) == pytest.approx(-0.002, abs=3 * np.std(values) / np.sqrt(4000))


def test_the_variance_of_noise_is_found() -> None:
    source = np.random.default_rng(1)
    rules = [integrate(lambda t: source.normal(0.0, 1.0 + t), seed) for seed in range(400)]
    assert np.mean([rule.variance for rule in rules]) == pytest.approx(np.var([r.value for r in rules]), rel=0.25)
