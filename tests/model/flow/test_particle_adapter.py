"""ParticleFlowAdapter beside the ParticleFlow that it is: the same samples and densities, by the way of molecules."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from enflow.model.chem.molecule import Molecule
from enflow.model.config import GNNConfig, ParticleConfig
from enflow.model.errors import VocabularyError
from enflow.model.flow.particle_adapter import ParticleFlowAdapter
from enflow.model.flow.particle_flow import ParticleFlow
from tests.model.flow.small_networks import GRAPH, PARTICLES, perturbed

PLANE = ParticleConfig(n_particles=4, n_dims=2, scale=2.1, dynamics=PARTICLES)
SPACE = ParticleConfig(n_particles=5, n_dims=3, scale=0.8, dynamics=PARTICLES)
SEEING_AXES = ParticleConfig(n_particles=3, n_dims=2, scale=1.3, dynamics=replace(GRAPH, n_features=0, n_dims=2))
assert isinstance(SEEING_AXES.dynamics, GNNConfig)


def both(config: ParticleConfig) -> tuple[ParticleFlow, ParticleFlowAdapter]:
    torch.manual_seed(0)
    flow = ParticleFlow(config).double()
    perturbed(flow)
    return flow, ParticleFlowAdapter(flow, "small")


@pytest.mark.parametrize("config", [PLANE, SPACE], ids=["plane", "space"])
def test_an_estimated_score_does_not_depend_on_orientation_and_order(config: ParticleConfig) -> None:
    _, cluster = both(config)
    (molecule,) = cluster.sample([None], seed=1)
    turn = np.array([[math.cos(0.7), -math.sin(0.7), 0.0], [math.sin(0.7), math.cos(0.7), 0.0], [0.0, 0.0, 1.0]])
    turned = Molecule(molecule.atomic_numbers, molecule.positions[::-1] @ turn)
    one, other = cluster.log_prob([molecule, turned])
    assert other.log_prob == pytest.approx(one.log_prob, abs=1e-5)


@pytest.mark.parametrize("config", [PLANE, SPACE, SEEING_AXES], ids=["plane", "space", "axes"])
def test_samples_and_densities_are_those_of_the_particles(config: ParticleConfig) -> None:
    flow, cluster = both(config)
    x, log_prob = flow.sample(3, seed=5, rtol=1e-7, atol=1e-7)
    molecules = cluster.sample([None] * 3, seed=5, rtol=1e-7, atol=1e-7)
    found = np.stack([cluster.system.coordinates(each.positions) for each in molecules])
    np.testing.assert_allclose(found, x.numpy(), atol=1e-5)
    assert all(not each.positions[:, config.n_dims :].any() for each in molecules)
    scores = cluster.log_prob(molecules, divergence="exact", rtol=1e-6, atol=1e-6)
    assert [score.log_prob for score in scores] == pytest.approx(log_prob.tolist(), abs=1e-3)
    assert [score.parts["dequantizer"] for score in scores] == pytest.approx([0.0] * 3, abs=1e-9)
    assert [score.parts["n_atoms"] for score in scores] == [0.0] * 3


def test_probes_estimate_the_same_density() -> None:
    flow, cluster = both(PLANE)
    (molecule,) = cluster.sample(None, seed=2)
    x = torch.tensor(cluster.system.coordinates(molecule.positions))[None]
    (score,) = cluster.log_prob([molecule], probes=12, draws=1)
    assert score.std_error is not None
    assert score.log_prob == pytest.approx(float(flow.log_prob(x)), abs=4 * score.std_error)


def test_there_and_back() -> None:
    _, cluster = both(PLANE)
    (molecule,) = cluster.sample(None, seed=1)
    (back,) = cluster.decode(cluster.encode([molecule]))
    np.testing.assert_allclose(back.positions, molecule.centred().positions, atol=1e-6)


def test_another_number_of_particles_is_refused() -> None:
    _, cluster = both(PLANE)
    with pytest.raises(VocabularyError, match="found 2 particles, expected 4"):
        cluster.log_prob([Molecule([18, 18], [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])])
