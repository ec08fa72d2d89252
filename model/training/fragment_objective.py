"""The objective of a velocity around a fragment: flow matching with random parts of molecules as given atoms."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from enflow.model.config import FragmentConfig
from enflow.model.flow.coupling import transport_around
from enflow.model.flow.dynamics import centre_velocity
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.fragment_prior import noise_around
from enflow.model.flow.geometry import centre
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.data.fragments import random_fragments
from enflow.model.training.data.qm9 import MoleculeDataset
from enflow.model.training.flow_matching import CoupledPairs, draw_times, even_times
from enflow.model.training.objectives import EMBEDDING, FlowMatching


@dataclass(frozen=True)
class FragmentPairs:
    """Coupled noise and molecules, and the flag (B, N, 1) that is 1 for the given atoms."""

    pairs: CoupledPairs
    flag: Tensor


def couple_around(
    atom_types: NDArray[np.int64],
    positions: NDArray[np.float32],
    given: NDArray[np.bool_],
    corners: NDArray[np.float32],
    sigma: float,
    rng: np.random.Generator,
    numbers: NDArray[np.int64],
) -> FragmentPairs:
    """Draw noise around the fragments of molecules of one size, and couple it to the other atoms.

    Args:
        atom_types: (B, N) indices into the vocabulary.
        positions: (B, N, 3) angstrom.
        given: (B, N) True for the atoms of the fragment.
        corners: (K, K) noiseless features of each type.
        sigma: standard deviation of the noise that is added to the features.
        rng: source of the noise.
        numbers: (B, N) atomic numbers.
    """
    flag = given[..., None].astype(np.float32)
    middle = (positions * flag).sum(1, keepdims=True) / flag.sum(1, keepdims=True)
    centres, x1 = corners[atom_types], positions - middle
    h1 = centres + sigma * (1 - flag) * rng.standard_normal(centres.shape, dtype=np.float32)
    x0, h0 = x1.copy(), h1.copy()
    for row, part in enumerate(given):
        fragment, free = x1[row, part], ~part
        noise = rng.standard_normal((free.sum() + 1, 3), dtype=np.float32)
        drawn = noise_around(noise, numbers[row, part], fragment)
        features = rng.standard_normal((len(drawn), corners.shape[1]), dtype=np.float32)
        x0[row, free], h0[row, free] = transport_around(drawn, features, x1[row, free], h1[row, free], fragment)
    mask = torch.ones(given.shape, dtype=torch.bool)
    x0_, x1_, h0_, h1_, c = (torch.from_numpy(a) for a in (x0, x1, h0, h1, centres))
    return FragmentPairs(CoupledPairs(centre(x0_, mask), centre(x1_, mask), h0_, h1_, c, mask), torch.from_numpy(flag))


class FragmentMatching(FlowMatching):
    """Regression of the velocity of the atoms around one random part of each molecule, or around two."""

    def copy_weights(self, network: nn.Module, flow: MoleculeFlow | FragmentFlow) -> None:
        """Copy the velocity of a flow around fragments, or of all atoms; then the weights of the flag begin at zero."""
        if isinstance(flow, FragmentFlow):
            network.load_state_dict(flow.dynamics.state_dict())
            return
        weights, n_types = dict(flow.dynamics.state_dict()), flow.dequantizer.n_types
        embedding = weights[EMBEDDING]
        parts = embedding[:, :n_types], torch.zeros_like(embedding[:, :1]), embedding[:, n_types:]
        weights[EMBEDDING] = torch.cat(parts, 1)
        network.load_state_dict(weights)

    def draw(
        self,
        network: object,  # noqa: ARG002
        data: MoleculeDataset,
        rows: NDArray[np.int64],
        seed: int,
        step: int,
    ) -> tuple[Any, Tensor]:
        """Draw fragments, coupled noise and molecules, and times."""
        rng = np.random.default_rng([seed, step, 1])
        types, positions = data.stack(rows)
        numbers = np.array(self.config.vocabulary)[types]
        given = np.stack([random_fragments(n, x, rng) for n, x in zip(numbers, positions, strict=True)])
        assert self.sigma is not None, "the types of the other atoms are generated"
        drawn = couple_around(types, positions, given, self.corners, self.sigma, rng, numbers)
        return drawn, draw_times(len(rows), self.matching, rng)

    def losses(self, network: Any, drawn: tuple[Any, Tensor]) -> dict[str, Tensor]:
        """Return the squared errors of the velocity of the other atoms, per atom: positions and features."""
        x, h = self.errors(network, *drawn)
        return {"loss_x": x, "loss_h": h}

    def errors(self, network: Any, drawn: FragmentPairs, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared errors of the velocity (B,), per atom that is not given."""
        pairs, flag = drawn.pairs.to(self.device), drawn.flag.to(self.device)
        s, free = t.to(self.device)[:, None, None], 1.0 - flag
        x, h = torch.lerp(pairs.x0, pairs.x1, s), torch.lerp(pairs.h0, pairs.h1, s)
        dx, dh = network(s[:, 0, 0], x, torch.cat([h, flag], -1), pairs.mask)
        target = centre_velocity(s[:, 0, 0], h, pairs.centres, self.sigma or 0.0)
        n = free.sum((1, 2))
        error_x = (dx - (pairs.x1 - pairs.x0)).square().sum((1, 2)) / n
        return error_x, (free * (dh[..., :-1] - target)).square().sum((1, 2)) / n

    @torch.no_grad()
    def validate(self, network: Any, drawn: list[tuple[Any, Tensor]]) -> dict[str, list[float]]:
        """Return the squared velocity error per atom that is not given in the four quarters of time."""
        found: dict[str, list[float]] = {"x": [], "h": []}
        for quarter in range(4):
            parts = [torch.stack(self.errors(network, pairs, even_times(len(t), quarter))) for pairs, t in drawn]
            mean = torch.cat(parts, 1).mean(1)
            found["x"].append(float(mean[0]))
            found["h"].append(float(mean[1]))
        return found

    def flow(self, network: nn.Module) -> FragmentFlow:  # type: ignore[override]
        """Return the flow with this velocity."""
        assert isinstance(self.config.dynamics, FragmentConfig), "the objective of this dynamics"
        flow = FragmentFlow(self.config)
        flow.dynamics.load_state_dict(network.state_dict())
        return flow
