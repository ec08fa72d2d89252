"""The training of particles: couplings keep the distribution of the noise; both objectives reach a known entropy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from enflow.model.config import EGNNConfig, KernelConfig, ParticleConfig, VectorEGNNConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.training.config import ParticleTrainConfig
from enflow.model.training.data.particles import Particles
from enflow.model.training.early_stopping import EarlyStopping, Validation, train_until_stopped
from enflow.model.training.flow_matching import MatchingConfig
from enflow.model.training.max_likelihood import LikelihoodConfig
from enflow.model.training.optimizer import OptimizerConfig
from enflow.model.training.particle_objectives import couple_particles
from enflow.model.training.trainer import Trainer

SPREAD = 0.4


def gaussian(n: int = 600, n_particles: int = 3, n_dims: int = 2) -> Particles:
    """Independent particles of standard deviation SPREAD, without centre of mass."""
    x = SPREAD * np.random.default_rng(0).standard_normal((3, n, n_particles, n_dims)).astype(np.float32)
    return Particles("springs", *(x - x.mean(2, keepdims=True)), sha256="")


def entropy(data: Particles) -> float:
    _, n_particles, n_dims = data.train.shape
    return 0.5 * (n_particles - 1) * n_dims * (1 + math.log(2 * math.pi * SPREAD**2))


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("n_dims", [2, 3])
def test_a_coupling_shortens_the_path_and_keeps_the_shape_of_the_noise(rotate: bool, n_dims: int) -> None:
    x1 = np.random.default_rng(3).standard_normal((50, 5, n_dims)).astype(np.float32)
    x1 -= x1.mean(1, keepdims=True)
    free = np.random.default_rng(1).standard_normal(x1.shape, dtype=np.float32)
    free -= free.mean(1, keepdims=True)
    x0 = couple_particles(x1, rotate, np.random.default_rng(1))

    def distances(x: np.ndarray) -> np.ndarray:
        return np.sort(np.linalg.norm(x[:, :, None] - x[:, None], axis=-1).reshape(len(x), -1))

    np.testing.assert_allclose(distances(x0), distances(free), atol=1e-4)
    assert (((x0 - x1) ** 2).sum((1, 2)) <= ((free - x1) ** 2).sum((1, 2)) + 1e-4).all()
    if not rotate:  # the particles are only reordered
        np.testing.assert_allclose(np.sort(x0.sum(-1)), np.sort(free.sum(-1)), atol=1e-5)


KERNEL = ParticleConfig(n_particles=3, n_dims=2, dynamics=KernelConfig(n_radial=8, n_times=4))
EGNN = replace(
    KERNEL,
    dynamics=EGNNConfig(
        n_features=0, node_dim=8, edge_dim=8, n_layers=1, n_radial=4, n_frequencies=1, layer_norm=False,
        output="velocity",
    ),
)  # fmt: skip


def train(config: ParticleTrainConfig, rule: EarlyStopping, data: Particles) -> tuple[Trainer, list[Validation]]:
    trainer = Trainer(config)
    trainer.initialize(data.train)
    return trainer, list(train_until_stopped(trainer, data.train, data.valid, rule))


def flow_of(trainer: Trainer) -> ParticleFlow:
    flow: ParticleFlow = trainer.objective.flow(trainer.averaged_network())
    return flow.eval()


def above_entropy(trainer: Trainer, data: Particles) -> float:
    return -flow_of(trainer).log_prob(torch.from_numpy(data.test), 1e-3, 1e-3).mean().item() - entropy(data)


def test_compiled_training_moves_the_weights_of_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)  # it takes a minute, for the same numbers
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    dynamics = VectorEGNNConfig(
        n_features=0, node_dim=8, edge_dim=8, n_vectors=2, n_layers=1, n_radial=4, size_input=False, output="velocity"
    )
    flow = ParticleConfig(n_particles=3, n_dims=3, dynamics=dynamics)
    config = ParticleTrainConfig(flow=flow, batch_size=32, pair_dtype="bfloat16", compile=True)
    before = [p.clone() for p in Trainer(config).network.parameters()]
    trainer, checks = train(config, EarlyStopping(steps=40, checks=2), gaussian(100, n_dims=3))
    dynamics_after = flow_of(trainer).dynamics
    assert any(not torch.equal(p, q) for p, q in zip(dynamics_after.parameters(), before, strict=True))
    assert checks[-1].valid < checks[0].valid
    assert trainer.network.pair_dtype is torch.bfloat16
    assert dynamics_after.pair_dtype is None
    with pytest.raises(ConfigError, match='objective is "likelihood"'):
        ParticleTrainConfig(objective="likelihood", flow=flow, compile=True)
    with pytest.raises(ConfigError, match='objective is "dequantizer"'):
        ParticleTrainConfig(objective="dequantizer", flow=flow)


def test_flow_matching_reaches_the_entropy_of_a_gaussian() -> None:
    rates = OptimizerConfig(adam_rate=0.02, warmup_steps=10, clip=100.0, ema=0.9)
    config = ParticleTrainConfig(flow=KERNEL, batch_size=128, matching=MatchingConfig(time_power=0), optimizer=rates)
    trainer, checks = train(config, EarlyStopping(steps=400, checks=8, patience=8), gaussian())
    assert [check.step for check in checks] == list(range(50, 401, 50))
    assert -0.12 < above_entropy(trainer, gaussian()) < 0.12, "600 samples determine their mean NLL to 0.06 nats"


@pytest.mark.parametrize("probe", ["rademacher", "exact"])
def test_likelihood_reaches_the_entropy_of_a_gaussian(probe: str) -> None:
    rates = OptimizerConfig(muon_rate=0.02, adam_rate=0.02, warmup_steps=5, clip=100.0, ema=0.8)
    likelihood = LikelihoodConfig(probe, 1e-2, kinetic=0.0, adjoint=False)
    config = ParticleTrainConfig(
        objective="likelihood", flow=EGNN, batch_size=64, likelihood=likelihood, optimizer=rates
    )
    trainer, checks = train(config, EarlyStopping(steps=12, checks=2), gaussian())
    assert -0.12 < above_entropy(trainer, gaussian()) < 0.7, "1.98 before the first step"
    assert checks[-1].valid < checks[0].valid


def test_training_stops_when_validation_does_not_improve() -> None:
    rates = OptimizerConfig(adam_rate=0.0, muon_rate=0.0, warmup_steps=1)
    config = ParticleTrainConfig(flow=KERNEL, batch_size=32, optimizer=rates)
    _, checks = train(config, EarlyStopping(steps=1000, checks=100, patience=3), gaussian())
    assert [check.step for check in checks] == [10, 20, 30]


def test_the_best_average_is_kept() -> None:
    rates = OptimizerConfig(adam_rate=3.0, muon_rate=0.0, warmup_steps=0, clip=1e6, ema=0.0)  # it soon gets worse
    data, trainer = gaussian(), Trainer(ParticleTrainConfig(flow=KERNEL, batch_size=32, optimizer=rates))
    trainer.initialize(data.train)
    rule = EarlyStopping(steps=100, checks=50, patience=2)
    found = [
        (check.valid, [value.clone() for value in trainer.average])
        for check in train_until_stopped(trainer, data.train, data.valid, rule)
    ]
    best = min(range(len(found)), key=lambda number: found[number][0])
    assert len(found) == best + 3
    assert all(torch.equal(p, q) for p, q in zip(trainer.average, found[best][1], strict=True))


def test_a_run_of_particles_resumes_to_the_bit(tmp_path) -> None:
    data = gaussian(50).train
    config = ParticleTrainConfig(flow=KERNEL, batch_size=8, passes=80)
    straight = Trainer(config)
    [*straight.steps(data)]
    first = Trainer(config)
    for _ in zip(range(4), first.steps(data), strict=False):
        pass
    first.save(tmp_path / "state.pt")
    resumed = Trainer(config)
    resumed.load(tmp_path / "state.pt")
    [*resumed.steps(data)]
    assert resumed.passes == straight.passes == 80
    assert all(torch.equal(p, q) for p, q in zip(resumed.average, straight.average, strict=True))
