"""NLL, reweighting and distances of particles, against a flow that is the distribution itself."""

import math
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from enflow.model.card import read_card
from enflow.model.checkpoint import load_particles
from enflow.model.config import ParticleConfig
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.training.data.particles import Particles
from enflow.model.training.evaluation import particle_metrics
from enflow.model.training.mcmc.potentials import DW4, LJ13, Potential
from tests.model.flow.fields import Linear

STIFFNESS = 2.0


def energy(x: Tensor) -> Tensor:
    return 0.5 * STIFFNESS * (x - x.mean(-2, keepdim=True)).square().sum((-2, -1))


SPRINGS = Potential("springs", 4, 2, energy)
LOG_Z = 0.5 * 6 * math.log(2 * math.pi / STIFFNESS)


class Springs(Particles):
    potential = SPRINGS


def springs(n: int = 50) -> Particles:
    x = np.random.default_rng(0).standard_normal((n, 4, 2)).astype(np.float32) / STIFFNESS**0.5
    x -= x.mean(1, keepdims=True)
    return Springs("springs", x, x, x, "", entropy=LOG_Z + 3.0, entropy_error=0.0, mean_energy=3.0)


def gaussian_flow(spread: float) -> ParticleFlow:
    flow = ParticleFlow(ParticleConfig(n_particles=4, n_dims=2))
    flow.dynamics = Linear(math.log(spread), 0.0)
    return flow.double()


def test_a_flow_that_is_the_distribution_scores_its_entropy_without_error() -> None:
    nll, error = particle_metrics.score(gaussian_flow(STIFFNESS**-0.5), springs(), 20, 1e-6)
    assert nll == pytest.approx(LOG_Z + 3.0, abs=1e-4)  # of so few samples the bare mean would be off by 0.4
    assert error < 1e-4


def test_another_flow_scores_the_divergence_between_gaussians_more() -> None:
    ratio = 1.3  # of the spreads; KL = d (log r + (1 / r^2 - 1) / 2)
    nll, error = particle_metrics.score(gaussian_flow(ratio * STIFFNESS**-0.5), springs(4000), 4000, 1e-4)
    assert nll - LOG_Z - 3.0 == pytest.approx(6 * (math.log(ratio) + (ratio**-2 - 1) / 2), abs=4 * error)


def test_reweighting_a_perfect_flow_keeps_every_sample_and_a_wide_one_what_gaussians_say() -> None:
    silent = lambda *_: None  # noqa: E731
    perfect = particle_metrics.reweighted(gaussian_flow(STIFFNESS**-0.5), SPRINGS, 500, 0, 1e-6, silent)
    assert perfect.ess == pytest.approx(1.0, abs=1e-6)
    assert perfect.log_z == pytest.approx(LOG_Z, abs=1e-4)
    wide = particle_metrics.reweighted(gaussian_flow(1.2 * STIFFNESS**-0.5), SPRINGS, 4000, 0, 1e-4, silent)
    expected = (math.sqrt(2 - 1 / 1.44) / 1.2) ** 6  # 1 / E_q[(p/q)^2], per dimension sqrt(2 r^2 - 1) / r^2
    assert wide.ess == pytest.approx(expected, rel=0.05)
    assert wide.log_z == pytest.approx(LOG_Z, abs=4 * wide.log_z_se)


def test_distances_of_a_perfect_flow_are_those_of_the_test_and_those_of_a_wide_one_are_not() -> None:
    data = springs(4000)
    perfect = particle_metrics.distance_jsd(gaussian_flow(STIFFNESS**-0.5), data, 4000, 1, 1e-3)
    wide = particle_metrics.distance_jsd(gaussian_flow(2 * STIFFNESS**-0.5), data, 4000, 1, 1e-3)
    assert perfect < 0.002  # 24,000 distances in some 30 bins
    assert wide > 0.05


@pytest.mark.parametrize(("potential", "n"), [(DW4, 150), (LJ13, 30)], ids=["dw4", "lj13"])
def test_the_bundled_weights_follow_the_energy(potential: Potential, n: int) -> None:
    place = Path(__file__).resolve().parents[4] / "weights" / potential.name
    known = read_card(place).metrics
    assert known.keys() >= {"test_nll", "test_nll_se", "entropy_floor", "ess", "train_samples"}
    found = particle_metrics.reweighted(load_particles(place), potential, n, 7, 1e-4, lambda *_: None)
    assert found.ess == pytest.approx(known["ess"], abs=0.25)
    assert found.log_z == pytest.approx(known["log_z"], abs=4 * found.log_z_se)
