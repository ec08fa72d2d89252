"""The particle systems as data: chains split into training, validation and test, and the entropy, the floor of any NLL.

`enflow data particles` makes `dw4.npz` and `lj13.npz` from a seed, with a JSON file of how well they are mixed beside.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enflow.model.config import from_json
from enflow.model.errors import ConfigError, DataError
from enflow.model.flow.noise import generator
from enflow.model.training.data.qm9 import data_file, sha256_of, load_qm9
from enflow.model.training.mcmc.ais import AnnealingPlan, Normaliser, anneal, normaliser
from enflow.model.training.mcmc.hmc import ChainPlan, effective_samples, run_chains, split_r_hat
from enflow.model.training.mcmc.potentials import DW4, LJ13, Potential

Report = Callable[[str, int, int], None]
Positions = NDArray[np.float32]

QM9_ATOMS = 19
"""QM9 positional: its molecules of this many atoms, the most frequent size but one, without their types."""


@dataclass(frozen=True)
class SampledSystem:
    """How a potential is sampled.

    Attributes:
        annealing: chains start where its walkers ended, drawn by their weights.
        floor: a finer one, there and back, that finds log Z.
        chains: so many walkers, of which the first are for training, then validation, then test.
        split: chains of each of the three.
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
    """Samples of a system, each (M, N, D); of training samples the first M come from M different chains.

    Attributes:
        entropy: of the distribution, nats; None where nobody knows it.
        entropy_error: its standard error.
        mean_energy: over all samples, in units of the temperature.
        sha256: of the file.
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
        """The energy, if there is one."""
        return SYSTEMS[self.name].potential if self.name in SYSTEMS else None


@dataclass(frozen=True)
class Facts:
    """What is known of a system's samples; energies in units of the temperature, log Z and entropies in nats."""

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
    normaliser: Normaliser
    entropy: float
    entropy_error: float


def make(name: str, folder: Path, seed: int, report: Report = lambda *_: None) -> Facts:
    """Sample a system and write its files.

    Raises:
        ConfigError: no such system.
    """
    if name not in SYSTEMS:
        raise ConfigError(f"found system {name!r}; expected {' or '.join(SYSTEMS)}")
    system = SYSTEMS[name]
    potential, source = system.potential, generator(seed, 0, f"particles:{name}")
    start = anneal(potential, system.annealing, source, report)[0].draw(system.chains.chains, source)
    kept, acceptance = run_chains(potential, start, system.chains, source, report)
    last = kept[-_rounds(system) :].flatten(0, 1)
    found = normaliser(potential, system.floor, last, generator(seed, 0, f"floor:{name}"), report)
    quantities = measure(potential, kept)
    energy, virial = quantities["energy"], quantities["virial"]
    mean, error = _mean_over_chains(energy)
    virial_mean, virial_error = _mean_over_chains(virial)
    facts = Facts(
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
        normaliser=found,
        entropy=found.log_z + mean,
        entropy_error=math.hypot(found.log_z_error, error),
    )
    _write(folder, facts, kept, system.split)
    return facts


def _rounds(system: SampledSystem) -> int:
    """Samples of every chain that begin the way back: about as many walkers as come the way there."""
    return min(system.chains.samples, max(1, system.floor.walkers // system.chains.chains))


def measure(potential: Potential, kept: Tensor) -> dict[str, NDArray[np.float64]]:
    """Quantities along chains, (samples, chains) each: energy, virial, size, longest distance."""
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
    # Chains are independent, samples within one are not.
    of_chain = values.mean(0)
    return float(of_chain.mean()), float(of_chain.std(ddof=1) / math.sqrt(len(of_chain)))


def _write(folder: Path, facts: Facts, kept: Tensor, split: tuple[int, int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts, first = {}, 0
    for part, chains in zip(("train", "valid", "test"), split, strict=True):
        parts[part] = kept[:, first : first + chains].flatten(0, 1).numpy().astype(np.float32)
        first += chains
    np.savez(folder / f"{facts.system}.npz", **parts)  # type: ignore[arg-type]
    (folder / f"{facts.system}.json").write_text(json.dumps(asdict(facts), indent=2) + "\n")


def facts_of(folder: Path, name: str) -> Facts:
    """What stands beside the samples of a system."""
    return from_json(Facts, json.loads((folder / f"{name}.json").read_text()), f"{name}.json")


def load(name: str) -> Particles:
    """The samples of a system, or those of "qm9_positional".

    Raises:
        DataError: there is no file of them, or it is not one.
        ConfigError: no such system.
    """
    if name == "qm9_positional":
        return _qm9_positional()
    if name not in SYSTEMS:
        raise ConfigError(f"found system {name!r}; expected {', '.join([*SYSTEMS, 'qm9_positional'])}")
    path = data_file(f"{name}.npz", "enflow data particles")
    facts = facts_of(path.parent, name)
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = {part: file[part] for part in ("train", "valid", "test")}
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} is not a file of particles: {error}") from error
    known = (facts.entropy, facts.entropy_error, facts.mean_energy)
    return Particles(name, parts["train"], parts["valid"], parts["test"], sha256_of(path), *known)


def _qm9_positional() -> Particles:
    path, parts, digest = data_file(), {}, ""
    for split in ("train", "valid", "test"):
        molecules = load_qm9(path, split)
        rows = np.flatnonzero(molecules.n_atoms == QM9_ATOMS)
        parts[split] = molecules.stack(rows)[1]
        digest = molecules.sha256
    return Particles("qm9_positional", parts["train"], parts["valid"], parts["test"], digest)
