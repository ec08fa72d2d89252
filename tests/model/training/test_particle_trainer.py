"""Training of particles: couplings keep the noise's distribution, and both objectives reach a known entropy."""

import math

import numpy as np
import pytest
import torch

from enflow.model.config import EGNNConfig, KernelConfig, ParticleConfig, VectorEGNNConfig
from enflow.model.errors import ConfigError
from enflow.model.training.data.particles import Particles
from enflow.model.training.max_likelihood import LikelihoodConfig
from enflow.model.training.optimizer import OptimizerConfig
from enflow.model.training.particle_trainer import (
    ParticleTrainer,
    ParticleTraining,
    TrainingStage,
    couple_particles,
    random_turns,
)

SPREAD = 0.4


def gaussian(n: int = 600, n_particles: int = 3, n_dims: int = 2) -> Particles:
    x = SPREAD * np.random.default_rng(0).standard_normal((3, n, n_particles, n_dims)).astype(np.float32)
    return Particles("springs", *(x - x.mean(2, keepdims=True)), sha256="")


def entropy(data: Particles) -> float:
    _, n_particles, n_dims = data.train.shape
    return 0.5 * (n_particles - 1) * n_dims * (1 + math.log(2 * math.pi * SPREAD**2))


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("n_dims", [2, 3])
def test_a_coupling_shortens_the_way_and_keeps_the_shape_of_the_noise(turn: bool, n_dims: int) -> None:
    x1 = np.random.default_rng(3).standard_normal((50, 5, n_dims)).astype(np.float32)
    x1 -= x1.mean(1, keepdims=True)
    free = np.random.default_rng(1).standard_normal(x1.shape, dtype=np.float32)
    free -= free.mean(1, keepdims=True)
    x0 = couple_particles(x1, turn, np.random.default_rng(1))

    def distances(x: np.ndarray) -> np.ndarray:
        return np.sort(np.linalg.norm(x[:, :, None] - x[:, None], axis=-1).reshape(len(x), -1))

    np.testing.assert_allclose(distances(x0), distances(free), atol=1e-4)
    assert (((x0 - x1) ** 2).sum((1, 2)) <= ((free - x1) ** 2).sum((1, 2)) + 1e-4).all()
    if not turn:  # a reordering alone
        np.testing.assert_allclose(np.sort(x0.sum(-1)), np.sort(free.sum(-1)), atol=1e-5)


def test_random_turns_are_orthogonal_and_know_no_direction() -> None:
    turns = random_turns(20000, 3, np.random.default_rng(0))
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turns.shape), atol=1e-5)
    assert np.abs(turns.mean(0)).max() < 0.02
    assert np.mean(np.linalg.det(turns) > 0) == pytest.approx(0.5, abs=0.02)


def run(
    stage: TrainingStage, samples: int = 600, kernel: bool = True
) -> tuple[float, list[tuple[int, int, float, float]]]:
    data = gaussian()
    egnn = EGNNConfig(
        n_features=0, node_dim=8, edge_dim=8, n_layers=1, n_radial=4, n_frequencies=1, layer_norm=False,
        output="velocity",
    )  # fmt: skip
    flow = ParticleConfig(n_particles=3, n_dims=2, dynamics=KernelConfig(n_radial=8, n_times=4) if kernel else egnn)
    likelihood = LikelihoodConfig("rademacher", 1e-3, kinetic=0.0, adjoint=False)
    config = ParticleTraining("springs", samples, flow, stages=(stage,), likelihood=likelihood)
    trainer = ParticleTrainer(config, data)
    told = list(trainer.run())
    nll = -trainer.flow.log_prob(torch.from_numpy(data.test)).mean().item()
    return nll - entropy(data), told


def test_what_a_compiled_copy_learns_is_the_flow_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)  # a minute, and the same numbers
    dynamics = VectorEGNNConfig(
        n_features=0, node_dim=8, edge_dim=8, n_vectors=2, n_layers=1, n_radial=4, size_input=False, output="velocity"
    )
    stage = TrainingStage(steps=40, batch_size=32, checks=2)
    flow = ParticleConfig(n_particles=3, n_dims=3, dynamics=dynamics)
    trainer = ParticleTrainer(
        ParticleTraining("springs", 100, flow, stages=(stage,), compile=True), gaussian(100, n_dims=3)
    )
    before = [p.clone() for p in trainer.flow.dynamics.parameters()]
    told = list(trainer.run())
    after = list(trainer.flow.dynamics.parameters())
    for mine, theirs in zip(after, trainer.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert any(not torch.equal(now, then) for now, then in zip(after, before, strict=True))
    assert told[-1][3] < told[0][3]
    assert trainer.flow.dynamics.pair_dtype is None
    with pytest.raises(ConfigError, match='expected stages of "flow_matching" alone'):
        ParticleTraining("springs", 100, flow, stages=(TrainingStage("likelihood"),), compile=True)


def test_flow_matching_reaches_the_entropy_of_a_gaussian() -> None:
    rates = OptimizerConfig(adam_rate=0.02, warmup_steps=10, clip=100.0, ema=0.9)
    above, told = run(TrainingStage("flow_matching", 400, 128, checks=8, patience=8, optimizer=rates))
    assert [step for _, step, _, _ in told] == list(range(50, 401, 50))
    assert -0.12 < above < 0.12, "600 samples know their mean NLL to 0.06 nats"


def test_likelihood_reaches_the_entropy_of_a_gaussian() -> None:
    rates = OptimizerConfig(muon_rate=0.02, adam_rate=0.02, warmup_steps=5, clip=100.0, ema=0.8)
    above, told = run(TrainingStage("likelihood", 60, 64, checks=3, optimizer=rates), kernel=False)
    assert -0.12 < above < 0.5, "of 1.98 before the first step"
    assert told[-1][3] < told[0][3]


def test_training_stops_when_validation_does_not_improve_and_keeps_the_best() -> None:
    rates = OptimizerConfig(adam_rate=0.0, muon_rate=0.0, warmup_steps=1)
    _, told = run(TrainingStage("flow_matching", 1000, 32, checks=100, patience=3, optimizer=rates))
    assert [step for _, step, _, _ in told] == [10, 20, 30, 40]


def test_more_samples_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="samples is 601; expected at most 600"):
        run(TrainingStage(), samples=601)
