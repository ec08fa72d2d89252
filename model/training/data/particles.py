"""Samples of the particle systems: chains split into training, validation and test, and the entropy.

The entropy is the lower bound (floor) of every NLL. `enflow data particles` makes `dw4.npz` and `lj13.npz` from a seed,
and beside each a JSON file with diagnostics of the sampling.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enflow.model.config import from_json
from enflow.model.errors import ConfigError, DataError
from enflow.model.files import replace_file, replacement
from enflow.model.flow.noise import generator
from enflow.model.progress import ProgressCallback
from enflow.model.training.data.qm9 import data_file, load_qm9, sha256_of
from enflow.model.training.mcmc.ais import AnnealingPlan, NormalisingConstant, anneal, normalising_constant
from enflow.model.training.mcmc.hmc import ChainPlan, effective_samples, run_chains, split_r_hat
from enflow.model.training.mcmc.potentials import DW4, LJ13, Potential

Positions = NDArray[np.float32]

QM9_ATOMS = 19
"""Number of atoms of the molecules of QM9 positional, which are used without their types."""


@dataclass(frozen=True)
class SampledSystem:
    """The settings by which a potential is sampled.

    Attributes:
        potential: the system.
        annealing: annealing whose weighted walkers are the starts of the chains.
        floor: finer annealing in both directions, which estimates log Z.
        chains: the chains; the first are for training, the next for validation, the last for test.
        split: numbers of chains for training, validation and test.
    """

    potential: Potential
    annealing: AnnealingPlan
    floor: AnnealingPlan
    chains: ChainPlan
    split: tuple[int, int, int]


SYSTEMS = {
    "dw4": SampledSystem(
        DW4,
        AnnealingPlan(walkers=6000, temperatures=200, power=2.0, leaps=5, spread=2.12),
        AnnealingPlan(walkers=20_000, temperatures=400, power=2.0, leaps=5, spread=2.12),
        ChainPlan(chains=1200, samples=100, burn_in=400, thin=80, size=0.18, leaps=8),
        (1000, 100, 100),
    ),
    "lj13": SampledSystem(
        LJ13,
        AnnealingPlan(walkers=1000, temperatures=400, power=8.0, leaps=5, spread=0.9),
        AnnealingPlan(walkers=1200, temperatures=1600, power=8.0, leaps=5, spread=0.9),
        ChainPlan(chains=1200, samples=10, burn_in=150, thin=20, size=0.032, leaps=12),
        (1000, 100, 100),
    ),
}


@dataclass(frozen=True)
class Particles:
    """Samples of a system.

    Attributes:
        name: name of the system.
        train, valid, test: (M, N, D) samples; consecutive training samples come from different chains.
        sha256: hash of the file.
        entropy: entropy of the distribution, nats; None = unknown.
        entropy_error: standard error of the entropy.
        mean_energy: mean energy of all samples, in units of the temperature; None = unknown.
    """

    name: str
    train: Positions
    valid: Positions
    test: Positions
    sha256: str
    entropy: float | None = None
    entropy_error: float | None = None
    mean_energy: float | None = None

    @property
    def potential(self) -> Potential | None:
        """The potential of the system; None if it has none."""
        return SYSTEMS[self.name].potential if self.name in SYSTEMS else None


@dataclass(frozen=True)
class SamplingSummary:
    """The diagnostics of a system's samples; energies in units of the temperature, log Z and entropies in nats."""

    system: str
    seed: int
    samples: int
    acceptance: float
    virial: float
    virial_error: float
    dimensions: int
    r_hat: dict[str, float]
    effective_samples: dict[str, float]
    mean_energy: float
    mean_energy_error: float
    normaliser: NormalisingConstant
    entropy: float
    entropy_error: float


def generate(name: str, folder: Path, seed: int, report: ProgressCallback = lambda *_: None) -> SamplingSummary:
    """Sample a system and write its files.

    Args:
        name: a key of `SYSTEMS`.
        folder: folder of the files.
        seed: seed of all noise.
        report: receives the progress.

    Raises:
        ConfigError: there is no such system.
    """
    if name not in SYSTEMS:
        raise ConfigError(f"found system {name!r}; expected {' or '.join(SYSTEMS)}")
    system = SYSTEMS[name]
    potential, source = system.potential, generator(seed, 0, f"particles:{name}")
    start = anneal(potential, system.annealing, source, report)[0].draw(system.chains.chains, source)
    kept, acceptance = run_chains(potential, start, system.chains, source, report)
    last = kept[-_rounds(system) :].flatten(0, 1)
    constant = normalising_constant(potential, system.floor, last, generator(seed, 0, f"floor:{name}"), report)
    quantities = observables(potential, kept)
    energy, virial = quantities["energy"], quantities["virial"]
    mean, error = _mean_over_chains(energy)
    virial_mean, virial_error = _mean_over_chains(virial)
    summary = SamplingSummary(
        system=name,
        seed=seed,
        samples=energy.size,
        acceptance=acceptance,
        virial=virial_mean,
        virial_error=virial_error,
        dimensions=potential.degrees_of_freedom,
        r_hat={key: split_r_hat(values) for key, values in quantities.items()},
        effective_samples={key: effective_samples(values) for key, values in quantities.items()},
        mean_energy=mean,
        mean_energy_error=error,
        normaliser=constant,
        entropy=constant.log_z + mean,
        entropy_error=math.hypot(constant.log_z_error, error),
    )
    _write(folder, summary, kept, system.split)
    return summary


def _rounds(system: SampledSystem) -> int:
    """Return the samples per chain that start the reverse annealing: about as many walkers as the forward one has."""
    return min(system.chains.samples, max(1, system.floor.walkers // system.chains.chains))


def observables(potential: Potential, kept: Tensor) -> dict[str, NDArray[np.float64]]:
    """Return quantities along the chains, (samples, chains) each: energy, virial, squared size, longest distance."""
    n, chains = kept.shape[:2]
    x = kept.flatten(0, 1)
    found = {
        "energy": potential.energy(x),
        "virial": (x * potential.gradient(x)).sum((1, 2)),
        "size": x.square().sum((1, 2)),
        "longest": torch.cdist(x, x).amax((1, 2)),
    }
    return {key: values.reshape(n, chains).numpy() for key, values in found.items()}


def _mean_over_chains(values: NDArray[np.float64]) -> tuple[float, float]:
    # Chains are independent; the samples of one chain are not.
    chain_means = values.mean(0)
    return float(chain_means.mean()), float(chain_means.std(ddof=1) / math.sqrt(len(chain_means)))


def _write(folder: Path, summary: SamplingSummary, kept: Tensor, split: tuple[int, int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts, first = {}, 0
    for part, chains in zip(("train", "valid", "test"), split, strict=True):
        parts[part] = kept[:, first : first + chains].flatten(0, 1).numpy().astype(np.float32)
        first += chains
    with replacement(folder / f"{summary.system}.npz") as file:
        np.savez(file, **parts)  # type: ignore[arg-type]
    replace_file(folder / f"{summary.system}.json", (json.dumps(asdict(summary), indent=2) + "\n").encode())


def read_summary(folder: Path, name: str) -> SamplingSummary:
    """Read the diagnostics beside the samples of a system."""
    return from_json(SamplingSummary, json.loads((folder / f"{name}.json").read_text()), f"{name}.json")


def load(name: str) -> Particles:
    """Load the samples of a system of `SYSTEMS`, or of "qm9_positional".

    Raises:
        DataError: the file is missing, or is not a file of samples.
        ConfigError: there is no such system.
    """
    if name == "qm9_positional":
        return _qm9_positional()
    if name not in SYSTEMS:
        raise ConfigError(f"found system {name!r}; expected {', '.join([*SYSTEMS, 'qm9_positional'])}")
    path = data_file(f"{name}.npz", "enflow data particles")
    summary = read_summary(path.parent, name)
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = {part: file[part] for part in ("train", "valid", "test")}
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} is not a file of particles: {error}") from error
    known = (summary.entropy, summary.entropy_error, summary.mean_energy)
    return Particles(name, parts["train"], parts["valid"], parts["test"], sha256_of(path), *known)


def _qm9_positional() -> Particles:
    path, parts, digest = data_file(), {}, ""
    for split in ("train", "valid", "test"):
        molecules = load_qm9(path, split)
        rows = np.flatnonzero(molecules.n_atoms == QM9_ATOMS)
        parts[split] = molecules.stack(rows)[1]
        digest = molecules.sha256
    return Particles("qm9_positional", parts["train"], parts["valid"], parts["test"], digest)
