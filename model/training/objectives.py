"""The objectives of molecules: flow matching, maximum likelihood, and the fit of a dequantizer."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from enflow.model.batch import MoleculeBatch
from enflow.model.config import EGNNConfig, FlowConfig, VectorNetworkConfig
from enflow.model.flow.dequantization import Learned
from enflow.model.flow.distributions import AtomCountPrior
from enflow.model.flow.dynamics import build
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.noise import generator
from enflow.model.training.data.qm9 import MoleculeDataset, batches
from enflow.model.training.flow_matching import (
    CoupledPairs,
    MatchingConfig,
    couple,
    couple_given,
    draw_times,
    even_times,
    flow_matching_loss,
)
from enflow.model.training.max_likelihood import LikelihoodConfig, Noise, draw_noise, likelihood_terms

EMBEDDING = "network.embed.weight"
"""Name of the first weight matrix. Its columns are the features, then the time and the size."""

ACT_NORM_MOLECULES = 256
"""Number of molecules from which ActNorm's first shift and scale are computed."""


@runtime_checkable
class Objective(Protocol):
    """A network, its data and its loss: everything that distinguishes one kind of training from another."""

    def build(self) -> Any:
        """Return a new network with random weights."""

    def initialize(self, network: Any, data: Any) -> None:
        """Set the values that are counted in the data instead of learned."""

    def copy_weights(self, network: Any, flow: Any) -> None:
        """Copy the weights of a trained flow into the network."""

    def batches(self, data: Any, batch_size: int, seed: int, first_step: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of one batch per step without end; a pure function of (seed, step)."""

    def draw(self, network: Any, data: Any, rows: NDArray[np.int64], seed: int, step: int) -> Any:
        """Return the data and the noise of one step; a pure function of (seed, step)."""

    def losses(self, network: Any, drawn: Any) -> dict[str, Tensor]:
        """Return the terms of the loss per sample, (B,) each; training minimises the mean of their sum."""

    def validate(self, network: Any, drawn: list[Any]) -> dict[str, Any]:
        """Return the errors of a network on fixed draws."""

    def flow(self, network: Any) -> Any:
        """Return the flow that uses the trained network."""


class MoleculeObjective:
    """The part that all objectives of molecules share: every epoch shows each molecule of a `MoleculeDataset` once."""

    def batches(
        self, data: MoleculeDataset, batch_size: int, seed: int, first_step: int
    ) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of the batches from `first_step` on."""
        return batches(data.n_atoms, batch_size, seed, first_step)


class FlowMatching(MoleculeObjective):
    """Regression of the velocity on noise that is coupled to molecules.

    Args:
        config: the model.
        matching: settings of flow matching.
        device: device of the network.
    """

    def __init__(self, config: FlowConfig, matching: MatchingConfig, device: str) -> None:
        self.config, self.matching, self.device = config, matching, device
        self.sigma = None if config.dequantizer.kind == "given" else config.dequantizer.sigma

    @property
    def corners(self) -> NDArray[np.float32]:
        """The noiseless features of each type, (K, F)."""
        corners: NDArray[np.float32] = self.config.dequantizer.scale * np.eye(
            len(self.config.vocabulary), dtype=np.float32
        )
        return corners

    def build(self) -> nn.Module:
        """Return a new velocity.

        It is trained without `odd_types`: each atom learns its own type, and the flow applies the parity of the whole
        molecule afterwards.
        """
        dynamics = self.config.dynamics
        if isinstance(dynamics, EGNNConfig | VectorNetworkConfig):
            dynamics = replace(dynamics, odd_types=())
        return build(dynamics).to(self.device)

    def initialize(self, network: nn.Module, data: MoleculeDataset) -> None:
        """Do nothing: a velocity has no values that are counted in the data."""

    def copy_weights(self, network: nn.Module, flow: MoleculeFlow) -> None:
        """Copy the velocity of a flow.

        If the types are given here and generated there, the readout of the types is left out, and the embedding is
        scaled from the corners of the dequantizer to one-hot types of length 1.
        """
        weights = dict(flow.dynamics.state_dict())
        if self.sigma is None and not flow.fixed_features:
            weights = {name: value for name, value in weights.items() if not name.startswith("network.readout.")}
            scale = torch.ones(weights[EMBEDDING].shape[1])
            scale[: len(self.config.vocabulary)] = flow.config.dequantizer.scale
            weights[EMBEDDING] = weights[EMBEDDING] * scale.to(weights[EMBEDDING])
        network.load_state_dict(weights)

    def draw(
        self,
        network: object,  # noqa: ARG002
        data: MoleculeDataset,
        rows: NDArray[np.int64],
        seed: int,
        step: int,
    ) -> tuple[CoupledPairs, Tensor]:
        """Draw coupled noise and molecules, and times."""
        rng = np.random.default_rng([seed, step, 1])
        shortening = self.matching.transport, self.matching.rotations
        if self.sigma is None:
            pairs = couple_given(*data.stack(rows), len(self.config.vocabulary), rng, *shortening)
        else:
            pairs = couple(*data.stack(rows), self.corners, self.sigma, rng, *shortening)
        return pairs.to(self.device), draw_times(len(rows), self.matching, rng).to(self.device)

    def losses(self, network: Any, drawn: tuple[CoupledPairs, Tensor]) -> dict[str, Tensor]:
        """Return the squared errors of the velocity of positions and features and, if weighted, of the distances."""
        errors = flow_matching_loss(network, *drawn, self.sigma)
        losses = {"loss_x": errors.x} | ({} if self.sigma is None else {"loss_h": errors.h})
        if self.matching.distance_weight:
            losses["loss_distances"] = self.matching.distance_weight * errors.distances
        return losses

    @torch.no_grad()
    def validate(self, network: Any, drawn: list[tuple[CoupledPairs, Tensor]]) -> dict[str, list[float]]:
        """Return the squared velocity error per molecule in the four quarters of time, positions and features."""
        errors: dict[str, list[float]] = {"x": [], "h": []}
        for quarter in range(4):
            totals = np.zeros(2)
            for p, _ in drawn:
                x, h, _ = flow_matching_loss(network, p, even_times(len(p.x0), quarter).to(p.x0), self.sigma)
                n = p.mask.sum(-1)
                totals += [float((x * n).sum()), float((h * n).sum())]
            count = sum(len(p.x0) for p, _ in drawn)
            errors["x"].append(totals[0] / count)
            errors["h"].append(totals[1] / count)
        return errors

    def flow(self, network: nn.Module) -> MoleculeFlow:
        """Return the flow with this velocity."""
        flow = MoleculeFlow(self.config)
        flow.dynamics.load_state_dict(network.state_dict())
        return flow


class MaximumLikelihood(MoleculeObjective):
    """Maximum likelihood by one ODE solve per step, as in the paper.

    Args:
        config: the model.
        likelihood: settings of the estimate.
        device: device of the network.
    """

    def __init__(self, config: FlowConfig, likelihood: LikelihoodConfig, device: str) -> None:
        self.config, self.likelihood, self.device = config, likelihood, device

    def build(self) -> MoleculeFlow:
        """Return a new flow; velocity, dequantizer and ActNorm are trained together."""
        return MoleculeFlow(self.config).float().to(self.device)

    @torch.no_grad()
    def initialize(self, network: MoleculeFlow, data: MoleculeDataset) -> None:
        """Set p(N), and the first shift and scale of ActNorm, from the training molecules."""
        network.n_atoms = atom_count_prior(self.config, data).to(network.device, network.dtype)
        if network.act_norm is not None:
            rows = np.flatnonzero(data.n_atoms == np.median(data.n_atoms).astype(int))[:ACT_NORM_MOLECULES]
            batch, noise = self.draw(network, data, rows, seed=0, step=0)
            h, _ = network.dequantizer.dequantize(batch.atom_types, batch.positions, batch.mask, noise.dequantizer)
            network.act_norm.initialize(batch.positions, h, batch.mask)

    def copy_weights(self, network: MoleculeFlow, flow: MoleculeFlow) -> None:
        """Copy all weights of a flow."""
        network.load_state_dict(flow.state_dict())

    def draw(
        self, network: MoleculeFlow, data: MoleculeDataset, rows: NDArray[np.int64], seed: int, step: int
    ) -> tuple[MoleculeBatch, Noise]:
        """Draw the noise of a batch of molecules."""
        types, positions = data.stack(rows)
        mask = torch.ones(types.shape, dtype=torch.bool)
        parts = (torch.from_numpy(positions), torch.from_numpy(types), mask)
        batch = MoleculeBatch(*(part.to(self.device) for part in parts))
        sources = [generator(seed, step, f"train:{row}") for row in range(len(rows))]
        return batch, draw_noise(network, batch, sources, self.likelihood)

    def losses(self, network: MoleculeFlow, drawn: tuple[MoleculeBatch, Noise]) -> dict[str, Tensor]:
        """Return the bound on the negative log-likelihood, nats, and the weighted regularisers."""
        nll, kinetic, jacobian = likelihood_terms(network, *drawn, self.likelihood)
        weighted = {"kinetic": self.likelihood.kinetic * kinetic, "jacobian": self.likelihood.jacobian * jacobian}
        return {"nll": nll, **weighted}

    @torch.no_grad()
    def validate(self, network: MoleculeFlow, drawn: list[tuple[MoleculeBatch, Noise]]) -> dict[str, float]:
        """Return the mean bound on the negative log-likelihood, nats, and its standard error."""
        nll = torch.cat([likelihood_terms(network, *one, self.likelihood).nll for one in drawn])
        return {"nll": float(nll.mean()), "nll_se": float(nll.std() / len(nll) ** 0.5)}

    def flow(self, network: MoleculeFlow) -> MoleculeFlow:
        """Return the network itself."""
        return network


class DequantizerFit(MaximumLikelihood):
    """Maximum likelihood of the dequantizer q(h | types, x) alone; the rest of the flow stays as it is.

    The bound holds for every q. Training reduces the gap E[KL(q | posterior)] as far as the family of q allows. The fit
    begins with a Gaussian at the corners.
    """

    def build(self) -> MoleculeFlow:
        """Return a new flow in which only the dequantizer has gradients."""
        network = super().build()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith("dequantizer."))
        return network

    @torch.no_grad()
    def copy_weights(self, network: MoleculeFlow, flow: MoleculeFlow) -> None:
        """Copy all weights but those of the dequantizer, whose mean and log-width begin at zero."""
        network.load_state_dict(network.dequantizer.state_dict(prefix="dequantizer.") | _without_dequantizer(flow))
        if isinstance(network.dequantizer, Learned) and (readout := network.dequantizer.network.readout):
            for parameter in readout.parameters():
                parameter.zero_()

    def losses(self, network: MoleculeFlow, drawn: tuple[MoleculeBatch, Noise]) -> dict[str, Tensor]:
        """Return the bound on the negative log-likelihood, nats; the path does not change, so nothing regularises."""
        return {"nll": likelihood_terms(network, *drawn, self.likelihood).nll}


def _without_dequantizer(flow: MoleculeFlow) -> dict[str, Tensor]:
    return {name: value for name, value in flow.state_dict().items() if not name.startswith("dequantizer.")}


def type_counts(config: FlowConfig, data: MoleculeDataset) -> Tensor:
    """Count the atoms of each type in every molecule, (M, K)."""
    rows = np.repeat(np.arange(len(data)), data.n_atoms)
    counts = np.zeros((len(data), len(config.vocabulary)), np.int64)
    np.add.at(counts, (rows, data.atom_types), 1)
    return torch.from_numpy(counts)


def atom_count_prior(config: FlowConfig, data: MoleculeDataset) -> AtomCountPrior:
    """Return p(N), the distribution of the number of atoms in the molecules."""
    return AtomCountPrior.from_counts(np.bincount(data.n_atoms, minlength=config.max_atoms + 1).tolist())
