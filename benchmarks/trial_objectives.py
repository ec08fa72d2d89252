"""The objectives of trials that change more than a setting: their own couplings, noise, data or network."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.parity import BUNDLED
from enflow.model.checkpoint import load
from enflow.model.chem.analysis.metrics import stability, validity
from enflow.model.chem.molecule import Molecule
from enflow.model.config import VectorEGNNConfig
from enflow.model.flow.distributions import FeatureGaussian
from enflow.model.flow.dynamics import VectorEGNNDynamics, centre_velocity
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.data.qm9 import MoleculeDataset
from enflow.model.training.evaluation.evaluate import compositions
from enflow.model.training.evaluation.metrics import composition
from enflow.model.training.flow_matching import CoupledPairs, couple, draw_times
from enflow.model.training.objectives import FlowMatching

Drawn = tuple[CoupledPairs, Tensor]

FIRST = BUNDLED / "run"
"""The weights that the trials start from: those of 10.0 million passes, which were bundled before."""

PER_CHARGE = 0.1
"""The feature of the charge channel per unit of nuclear charge, as in EDM (Hoogeboom et al. 2022)."""

SEAM = 0.5
"""The time at which a network of its own takes over."""

OWN_SAMPLES, OWN_SEED = 6000, 1000
"""Number and seed of the model's own samples, of which the accepted ones are trained on."""

OWN_SHARE = 0.5
"""The share of own samples in a batch."""


class ChargedDynamics(VectorEGNNDynamics):
    """Classifies atoms as ever; the corners of their types have one channel more than there are types."""

    def __init__(self, config: VectorEGNNConfig, corners: NDArray[np.float32]) -> None:
        super().__init__(replace(config, n_features=corners.shape[1]))
        self.network.readout = nn.Linear(config.node_dim, len(corners))
        self.register_buffer("corners", torch.from_numpy(corners), persistent=False)

    def _features_velocity(self, t: Tensor, h: Tensor, outputs: Tensor) -> Tensor:
        return centre_velocity(t, h, torch.softmax(outputs, -1) @ self.corners, self.config.feature_sigma)


class Charged(FlowMatching):
    """Flow matching with the nuclear charge in a channel beside the types."""

    @property
    def corners(self) -> NDArray[np.float32]:
        """The features of each type without noise, (K, K + 1)."""
        charges = PER_CHARGE * np.array(self.config.vocabulary, dtype=np.float32)
        return np.concatenate([super().corners, charges[:, None]], 1)

    def build(self) -> nn.Module:
        """Return a new velocity."""
        return ChargedDynamics(self.config.dynamics, self.corners)

    def flow(self, network: nn.Module) -> MoleculeFlow:
        """Return a flow to sample from; types are read off their own channels."""
        flow = MoleculeFlow(self.config)
        flow.dynamics, flow.base_features = network, FeatureGaussian(self.corners.shape[1])
        return flow


class SeveralDraws(FlowMatching):
    """Half as many molecules in a step, each with two draws of noise and time."""

    def draw(self, network: object, data: MoleculeDataset, rows: NDArray[np.int64], seed: int, step: int) -> Drawn:
        """Draw the noise of each of the first half of the molecules twice."""
        half = rows[: (len(rows) + 1) // 2]
        return super().draw(network, data, np.concatenate([half, half])[: len(rows)], seed, step)


class LateExpert(FlowMatching):
    """A network of its own after `SEAM`; before it the weights that the trials begin with."""

    def draw(self, network: object, data: MoleculeDataset, rows: NDArray[np.int64], seed: int, step: int) -> Drawn:
        """Draw coupled pairs, and times after the seam with the density of the configuration."""
        pairs, t = super().draw(network, data, rows, seed, step)
        power = self.matching.time_power + 1.0
        return pairs, (SEAM**power + (1 - SEAM**power) * t**power) ** (1 / power)

    def flow(self, network: nn.Module) -> MoleculeFlow:
        """Return the flow of the first weights up to the seam and of the network after it."""
        flow = super().flow(network)
        flow.dynamics = _TwoNetworks(load(FIRST).dynamics, flow.dynamics)
        return flow


class _TwoNetworks(nn.Module):
    def __init__(self, early: nn.Module, late: nn.Module) -> None:
        super().__init__()
        self.early, self.late = early, late

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        choices = zip(self.early(t, x, h, mask), self.late(t, x, h, mask), strict=True)
        return tuple(torch.where(t[:, None, None] < SEAM, early, late) for early, late in choices)


class OwnSamples(FlowMatching):
    """Half of the molecules are samples of the first weights that pass a filter, with new noise.

    The filter takes stable, connected molecules of a composition that occurs in the training data: flow matching
    weighted by a reward (Fan et al. 2025, arXiv 2502.06061) of 0 or 1.
    """

    own: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] | None = None

    def draw(self, _: object, data: MoleculeDataset, rows: NDArray[np.int64], seed: int, step: int) -> Drawn:
        """Draw coupled noise and molecules, of which a share is replaced by own samples of the same size."""
        rng = np.random.default_rng([seed, step, 1])
        if self.own is None:
            self.own = _by_size(_accepted(load(FIRST), data), self.config.vocabulary)
        types, positions = data.stack(rows)
        if (own := self.own.get(types.shape[1])) is not None:
            replaced, picked = rng.random(len(rows)) < OWN_SHARE, rng.integers(len(own[0]), size=len(rows))
            types = np.where(replaced[:, None], own[0][picked], types)
            positions = np.where(replaced[:, None, None], own[1][picked], positions)
        pairs = couple(types, positions, self.corners, self.sigma, rng, self.matching.transport)
        return pairs, draw_times(len(rows), self.matching, rng)


def _accepted(flow: MoleculeFlow, data: MoleculeDataset) -> list[Molecule]:
    """Return the own samples that are stable, connected and of a composition of the training data."""
    known = compositions(data, flow.config.vocabulary)
    samples = flow.samples([None] * OWN_SAMPLES, OWN_SEED, refinements=0)
    found = [one.molecule for one in samples if one.molecule and composition(one.molecule.atomic_numbers) in known]
    stable = [molecule for molecule, good in zip(found, stability(found).stable, strict=True) if good]
    return [molecule for molecule in stable if validity([molecule], "EDM").whole]


def _by_size(
    molecules: list[Molecule], vocabulary: tuple[int, ...]
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Return the types (M, N) and centred positions (M, N, 3) of all molecules of each size N."""
    sizes: dict[int, list[Molecule]] = {}
    for molecule in molecules:
        sizes.setdefault(molecule.n_atoms, []).append(molecule.centred())
    return {
        size: (
            np.searchsorted(vocabulary, np.stack([one.atomic_numbers for one in some])),
            np.stack([one.positions for one in some]).astype(np.float32),
        )
        for size, some in sizes.items()
    }
