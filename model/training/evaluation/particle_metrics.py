"""The metrics of a flow of particles: NLL, importance weights of the Boltzmann distribution, pair distances."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from enflow.model.chem.analysis.histograms import DISTANCE_BINS, jensen_shannon
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.progress import ProgressCallback
from enflow.model.training.data.particles import Particles
from enflow.model.training.mcmc.potentials import Potential


def score(
    flow: ParticleFlow, data: Particles, n: int, tolerance: float, split: Literal["valid", "test"] = "test"
) -> tuple[float, float]:
    """Return the mean NLL of n samples of a split, nats, and its standard error.

    If the energy is known, the estimate is mean(-log q - E) plus the mean of E over all samples. It has the same
    expectation as mean(-log q) and a far smaller error, because -log q and E are correlated.

    Args:
        flow: the model.
        data: samples of the system.
        n: number of samples to score, evenly spaced over the split.
        tolerance: rtol and atol of the solver.
        split: "valid" or "test".
    """
    held_out = data.valid if split == "valid" else data.test
    rows = np.linspace(0, len(held_out) - 1, min(n, len(held_out))).round().astype(int)
    x = torch.from_numpy(held_out[rows])
    nll = -flow.log_prob(x, tolerance, tolerance).double()
    if data.potential is not None and data.mean_energy is not None:
        nll = nll - data.potential.energy(x.double()) + data.mean_energy
    return float(nll.mean()), float(nll.std() / len(nll) ** 0.5)


@dataclass(frozen=True)
class Reweighting:
    """The statistics of the importance weights w = exp(-E) / q of samples of a flow q.

    Attributes:
        ess: effective sample size as a share, (sum w)^2 / (n sum w^2) (Kish 1965); no weight is clipped.
        ess_samples: number of samples, n.
        log_z: log of the mean weight, an estimate of the potential's log Z.
        log_z_se: standard error of `log_z`.
    """

    ess: float
    ess_samples: int
    log_z: float
    log_z_se: float


def reweighted(
    flow: ParticleFlow, potential: Potential, n: int, seed: int, tolerance: float, report: ProgressCallback
) -> Reweighting:
    """Draw n samples and compute their importance weights for exp(-E)."""
    log_weights: list[Tensor] = []
    for x, log_prob in flow.samples(n, seed, tolerance, tolerance):
        log_weights.append(-potential.energy(x.double()) - log_prob.double())
        report("samples", sum(map(len, log_weights)), n, "")
    weights = torch.cat(log_weights)
    log_mean = float(torch.logsumexp(weights, 0)) - math.log(n)
    ess = math.exp(2.0 * log_mean + math.log(n) - float(torch.logsumexp(2.0 * weights, 0)))
    return Reweighting(ess, n, log_mean, math.sqrt(max(1.0 / ess - 1.0, 0.0) / n))


def distance_jsd(flow: ParticleFlow, data: Particles, n: int, seed: int, tolerance: float) -> float:
    """Return the Jensen-Shannon divergence, nats, between the pair distances of n samples and of the test samples."""
    counts = [
        _distances(x.double())
        for x in (flow.sample_positions(n, seed, tolerance, tolerance), torch.from_numpy(data.test))
    ]
    return jensen_shannon(*counts)


def _distances(x: Tensor) -> np.ndarray:
    i, j = torch.triu_indices(x.shape[1], x.shape[1], offset=1)
    return DISTANCE_BINS.count(torch.linalg.vector_norm(x[:, i] - x[:, j], dim=-1).numpy())
