"""What training minimises, behind one interface: flow matching of the velocity, or the likelihood of the whole flow."""

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from enflow.model.batch import MoleculeBatch
from enflow.model.config import EGNNConfig, FlowConfig, VectorEGNNConfig
from enflow.model.flow.dequantization import Learned
from enflow.model.flow.distributions import AtomCountPrior
from enflow.model.flow.dynamics import build
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.noise import generator
from enflow.model.training.data.qm9 import MoleculeDataset
from enflow.model.training.flow_matching import CoupledPairs, MatchingConfig, couple, couple_given, flow_matching_loss
from enflow.model.training.max_likelihood import LikelihoodConfig, Noise, draw_noise, likelihood_terms

EMBEDDING = "network.embed.weight"
"""Columns: the features, then the context."""

ACT_NORM_MOLECULES = 256
"""From which ActNorm takes its first shift and scale."""


@runtime_checkable
class Objective(Protocol):
    """A network to train, random draws for a step, and what they cost it."""

    def build(self) -> Any:
        """A fresh network."""

    def begin(self, network: Any, data: MoleculeDataset) -> None:
        """Set what is not learned but counted, before the first step."""

    def adopt(self, network: Any, flow: MoleculeFlow) -> None:
        """Take over the weights of a flow, before the first step."""

    def draw(self, network: Any, data: MoleculeDataset, rows: NDArray[np.int64], seed: int, step: int) -> Any:
        """All that one step needs; a pure function of (seed, step)."""

    def losses(self, network: Any, drawn: Any) -> dict[str, Tensor]:
        """Terms per molecule, (B,) each; the mean of their sum is minimised."""

    def validate(self, network: Any, drawn: list[Any]) -> dict[str, Any]:
        """How well a network does on fixed draws."""

    def flow(self, network: Any) -> MoleculeFlow:
        """The flow that a trained network makes."""


class FlowMatching:
    """Regression of the velocity on coupled pairs (see `losses`).

    Args:
        matching: how noise and molecules are coupled, and what counts.
    """

    def __init__(self, config: FlowConfig, matching: MatchingConfig, device: str) -> None:
        self.config, self.matching, self.device = config, matching, device
        self.sigma = None if config.dequantizer.kind == "given" else config.dequantizer.sigma

    @property
    def corners(self) -> NDArray[np.float32]:
        """The features of each type without noise, (K, F)."""
        corners: NDArray[np.float32] = self.config.dequantizer.scale * np.eye(
            len(self.config.vocabulary), dtype=np.float32
        )
        return corners

    def build(self) -> nn.Module:
        """A fresh velocity; each atom's type is learnt for itself, whatever is made of all of them later."""
        dynamics = self.config.dynamics
        if isinstance(dynamics, EGNNConfig | VectorEGNNConfig):
            dynamics = replace(dynamics, odd_types=())
        return build(dynamics).to(self.device)

    def begin(self, network: nn.Module, data: MoleculeDataset) -> None:
        """Nothing: a velocity knows no sizes."""

    def adopt(self, network: nn.Module, flow: MoleculeFlow) -> None:
        """Its velocity; where types are given, that of a model which draws them, all but what it says of the types."""
        weights = dict(flow.dynamics.state_dict())
        if self.sigma is None and not flow.features_stand_still:
            weights = {name: value for name, value in weights.items() if not name.startswith("network.readout.")}
            scale = torch.ones(weights[EMBEDDING].shape[1])  # one-hot types of length 1 are read as theirs at the data
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
        """Coupled pairs and times."""
        rng = np.random.default_rng([seed, step, 1])
        rounds = self.matching.transport
        if self.sigma is None:
            pairs = couple_given(*data.stack(rows), len(self.config.vocabulary), rng, rounds)
        else:
            pairs = couple(*data.stack(rows), self.corners, self.sigma, rng, rounds)
        t = rng.random(len(rows), dtype=np.float32) ** (1.0 / (self.matching.time_power + 1.0))
        return pairs.to(self.device), torch.from_numpy(t).to(self.device)

    def losses(self, network: Any, drawn: tuple[CoupledPairs, Tensor]) -> dict[str, Tensor]:
        """Squared errors of the velocity of positions and of features, per atom, and of the weighted distances."""
        errors = flow_matching_loss(network, *drawn, self.sigma)
        losses = {"loss_x": errors.x} | ({} if self.sigma is None else {"loss_h": errors.h})
        if self.matching.distance_weight:
            losses["loss_distances"] = self.matching.distance_weight * errors.distances
        return losses

    @torch.no_grad()
    def validate(self, network: Any, drawn: list[tuple[CoupledPairs, Tensor]]) -> dict[str, list[float]]:
        """Squared velocity error per molecule in the four quarters of time, positions and features."""
        errors: dict[str, list[float]] = {"x": [], "h": []}
        for quarter in range(4):
            totals = np.zeros(2)
            for p, _ in drawn:
                t = (torch.arange(len(p.x0)) + 0.5) / len(p.x0) * 0.25 + 0.25 * quarter
                x, h, _ = flow_matching_loss(network, p, t.to(p.x0), self.sigma)
                n = p.mask.sum(-1)
                totals += [float((x * n).sum()), float((h * n).sum())]
            count = sum(len(p.x0) for p, _ in drawn)
            errors["x"].append(totals[0] / count)
            errors["h"].append(totals[1] / count)
        return errors

    def flow(self, network: nn.Module) -> MoleculeFlow:
        """The flow with this velocity."""
        flow = MoleculeFlow(self.config)
        flow.dynamics.load_state_dict(network.state_dict())
        return flow


class MaximumLikelihood:
    """The paper's way: the bound on the likelihood by a solve per step (see `likelihood`)."""

    def __init__(self, config: FlowConfig, likelihood: LikelihoodConfig, device: str) -> None:
        self.config, self.likelihood, self.device = config, likelihood, device

    def build(self) -> MoleculeFlow:
        """A fresh flow: velocity, dequantizer and ActNorm learn together."""
        return MoleculeFlow(self.config).float().to(self.device)

    @torch.no_grad()
    def begin(self, network: MoleculeFlow, data: MoleculeDataset) -> None:
        """p(N), and ActNorm's first shift and scale, from the training molecules."""
        network.n_atoms = sizes(self.config, data).to(network.device, network.dtype)
        if network.act_norm is not None:
            rows = np.flatnonzero(data.n_atoms == np.median(data.n_atoms).astype(int))[:ACT_NORM_MOLECULES]
            batch, noise = self.draw(network, data, rows, seed=0, step=0)
            h, _ = network.dequantizer.dequantize(batch.atom_types, batch.positions, batch.mask, noise.dequantizer)
            network.act_norm.initialize(batch.positions, h, batch.mask)

    def adopt(self, network: MoleculeFlow, flow: MoleculeFlow) -> None:
        """All of it."""
        network.load_state_dict(flow.state_dict())

    def draw(
        self, network: MoleculeFlow, data: MoleculeDataset, rows: NDArray[np.int64], seed: int, step: int
    ) -> tuple[MoleculeBatch, Noise]:
        """MoleculeDataset and their noise."""
        types, positions = data.stack(rows)
        mask = torch.ones(types.shape, dtype=torch.bool)
        parts = (torch.from_numpy(positions), torch.from_numpy(types), mask)
        batch = MoleculeBatch(*(part.to(self.device) for part in parts))
        sources = [generator(seed, step, f"train:{row}") for row in range(len(rows))]
        return batch, draw_noise(network, batch, sources, self.likelihood)

    def losses(self, network: MoleculeFlow, drawn: tuple[MoleculeBatch, Noise]) -> dict[str, Tensor]:
        """The bound on the negative log-likelihood, nats, and the weighted regularisers."""
        nll, kinetic, jacobian = likelihood_terms(network, *drawn, self.likelihood)
        weighted = {"kinetic": self.likelihood.kinetic * kinetic, "jacobian": self.likelihood.jacobian * jacobian}
        return {"nll": nll, **weighted}

    @torch.no_grad()
    def validate(self, network: MoleculeFlow, drawn: list[tuple[MoleculeBatch, Noise]]) -> dict[str, float]:
        """Mean bound on the negative log-likelihood, nats, and its standard error."""
        nll = torch.cat([likelihood_terms(network, *one, self.likelihood).nll for one in drawn])
        return {"nll": float(nll.mean()), "nll_se": float(nll.std() / len(nll) ** 0.5)}

    def flow(self, network: MoleculeFlow) -> MoleculeFlow:
        """The network itself."""
        return network


class DequantizerFit(MaximumLikelihood):
    """The same bound with the flow as it is: only q(h | types, x) learns, which begins as a Gaussian at the corners.

    Whatever q, the bound holds; the fit closes what of E[KL(q | posterior)] its family can.
    """

    def build(self) -> MoleculeFlow:
        """A flow of which nothing but the dequantizer learns."""
        network = super().build()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith("dequantizer."))
        return network

    @torch.no_grad()
    def adopt(self, network: MoleculeFlow, flow: MoleculeFlow) -> None:
        """Everything but its dequantizer; the new one's mean and log-width begin at zero."""
        network.load_state_dict(network.dequantizer.state_dict(prefix="dequantizer.") | _without_dequantizer(flow))
        if isinstance(network.dequantizer, Learned) and (readout := network.dequantizer.network.readout):
            for parameter in readout.parameters():
                parameter.zero_()

    def losses(self, network: MoleculeFlow, drawn: tuple[MoleculeBatch, Noise]) -> dict[str, Tensor]:
        """The bound on the negative log-likelihood, nats: of a path that stays there is nothing to regularise."""
        return {"nll": likelihood_terms(network, *drawn, self.likelihood).nll}


def _without_dequantizer(flow: MoleculeFlow) -> dict[str, Tensor]:
    return {name: value for name, value in flow.state_dict().items() if not name.startswith("dequantizer.")}


def compositions(config: FlowConfig, data: MoleculeDataset) -> Tensor:
    """Atoms of each type in every molecule, (M, K)."""
    rows = np.repeat(np.arange(len(data)), data.n_atoms)
    counts = np.zeros((len(data), len(config.vocabulary)), np.int64)
    np.add.at(counts, (rows, data.atom_types), 1)
    return torch.from_numpy(counts)


def sizes(config: FlowConfig, data: MoleculeDataset) -> AtomCountPrior:
    """p(N) of these molecules."""
    return AtomCountPrior.from_counts(np.bincount(data.n_atoms, minlength=config.max_atoms + 1).tolist())
