"""FragmentFlow: a normalizing flow over the atoms around a given fragment."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from enflow.model.batch import collate
from enflow.model.chem.molecule import Molecule
from enflow.model.config import TOLERANCES, FlowConfig, FragmentConfig
from enflow.model.errors import ConfigError, StructureError
from enflow.model.flow.components import FlowComponents
from enflow.model.flow.distributions import LOG_2PI
from enflow.model.flow.estimate import Likelihood, combine
from enflow.model.flow.estimator_options import Divergence, EstimatorOptions
from enflow.model.flow.likelihood import (
    DrawState,
    Terms,
    complete_draw,
    draw_probes,
    path_tolerance,
    quadrature_tolerance,
)
from enflow.model.flow.noise import generator, normal
from enflow.model.flow.ode.batched_solver import FinalState
from enflow.model.flow.states import (
    EncodedLatent,
    Latent,
    OnMismatch,
    Sample,
    check_success,
    compared_with_parents,
    molecules_in_order,
)

STANDARD = TOLERANCES["standard"]
PRECISE = 1e-9
"""The tolerance of `encode` and `decode`, as in `MoleculeFlow`."""


@dataclass(frozen=True)
class Completion:
    """A molecule of which some atoms are given.

    Attributes:
        molecule: the whole molecule, angstrom.
        given: the places of the given atoms in it, from 0; one or more, not all.
    """

    molecule: Molecule
    given: tuple[int, ...]

    def __post_init__(self) -> None:
        n_atoms, given = self.molecule.n_atoms, set(self.given)
        if not 0 < len(given) == len(self.given) < n_atoms or not given <= set(range(n_atoms)):
            raise StructureError(f"found the given atoms {[i + 1 for i in self.given]}, expected some of {n_atoms}")

    @property
    def ordered(self) -> Molecule:
        """The molecule with the given atoms first."""
        order = [*self.given, *(i for i in range(self.molecule.n_atoms) if i not in self.given)]
        return Molecule(self.molecule.atomic_numbers[order], self.molecule.positions[order])


class FragmentFlow(FlowComponents):
    """A continuous normalizing flow over the elements and positions of N - M atoms around M given atoms.

    Relative to the mean position of the fragment x(0) ~ N(0, 1), h(0) ~ N(0, 1) for the other atoms; d(x, h)/dt =
    velocity from t = 0 to 1, where the fragment stands still; types by `quantize` of the dequantizer. States have the
    fragment first, all atoms centred, and a flag as the last feature, which is 1 for the fragment.

    Args:
        config: the architecture, with the dynamics "fragment" and the dequantizer "truncated".
    """

    def __init__(self, config: FlowConfig) -> None:
        if not isinstance(config.dynamics, FragmentConfig) or config.act_norm:
            raise ConfigError(f'found dynamics {config.dynamics.kind!r}, expected "fragment", and no act_norm')
        super().__init__(config)

    def sample(
        self,
        fragment: Molecule,
        n_atoms: Sequence[int],
        seed: int = 0,
        rtol: float = STANDARD,
        atol: float = STANDARD,
    ) -> list[Molecule]:
        """Return molecules that begin with the fragment's atoms, where they are; (seed, place) fixes each of them.

        Args:
            fragment: the given atoms, angstrom.
            n_atoms: the number of atoms of each molecule, the fragment's included.
            seed: the seed of all noise.
            rtol, atol: relative and absolute tolerance of the solver, per molecule.

        Raises:
            SolverError: the solver left the range of molecules.
            VocabularyError: an element or a size that the model does not know.
            StructureError: a size that leaves no atom beside the fragment.
        """
        latents = [self.draw_completion(fragment, n, seed, index) for index, n in enumerate(n_atoms)]
        return [_placed(each, fragment) for each in self.decode(latents, rtol, atol)]

    def draw_completion(self, fragment: Molecule, n_atoms: int, seed: int, index: int) -> Latent:
        """Return the latent of molecule (seed, index) around a fragment, float64 on the CPU; see `sample`."""
        free, source = n_atoms - fragment.n_atoms, generator(seed, index, "latent")
        if free < 1:
            raise StructureError(f"found {n_atoms} atoms in all, expected more than the {fragment.n_atoms} given ones")
        self.n_atoms.log_prob(torch.tensor([n_atoms], device=self.device))  # checks the size
        x, h = self._given(fragment)
        noise = normal((free, 3), source), normal((free, self.dequantizer.n_features), source)
        return _state(torch.cat([x, noise[0]]), torch.cat([h, noise[1]]), len(x))

    def encode(
        self, completions: Sequence[Completion], seed: int = 0, rtol: float = PRECISE, atol: float = PRECISE
    ) -> list[Latent]:
        """Return the latents of molecules; `decode` is the inverse.

        Raises:
            SolverError: a path did not reach its end.
            VocabularyError: an element or a size that the model does not know.
        """
        points = [self.dequantize_completion(each, seed, index)[0] for index, each in enumerate(completions)]
        latents = {}
        for end in self.solve(points, 1.0, 0.0, rtol, atol):
            check_success(end.index, end.status)
            latents[end.index] = EncodedLatent(end.x, end.h, completions[end.index].ordered)
        return [latents[index] for index in range(len(completions))]

    def decode(
        self,
        latents: Sequence[Latent],
        rtol: float = PRECISE,
        atol: float = PRECISE,
        *,
        on_mismatch: OnMismatch = "warn",
    ) -> list[Molecule]:
        """Return the molecules of latents, centred, the fragment first, with the properties "status" and "nfe".

        A molecule that was encoded is compared with itself, as `MoleculeFlow.decode` does.

        Raises:
            SolverError: the solver left the range of molecules; a molecule does not come back, and "raise" was asked.
        """
        decoded = molecules_in_order(self._decoded(end) for end in self.solve(latents, 0.0, 1.0, rtol, atol))
        return compared_with_parents(decoded, latents, on_mismatch)

    def log_prob(
        self,
        completions: Sequence[Completion],
        seed: int = 0,
        *,
        divergence: Divergence = "hutchinson",
        probes: int | None = None,
        draws: int = 4,
        rtol: float = STANDARD,
        atol: float = STANDARD,
    ) -> list[Likelihood]:
        """Return a lower bound on log p(other atoms | fragment, N) of molecules, nats, with its parts and error.

        log p >= E[log p_z(z) + int_1^0 div v dt - log q], the mean over draws of the dequantizer. The other atoms are
        labelled; the part "n_atoms" is 0.

        Args:
            completions: the molecules and their given atoms.
            seed: the seed of all noise, together with the place in the list.
            divergence: "hutchinson" for an estimated trace, "exact" for the exact trace.
            probes: Hutchinson probes per node; None = 3.
            draws: draws of the dequantizer.
            rtol, atol: relative and absolute tolerance, per molecule.

        Raises:
            ConfigError: an option is out of range.
            VocabularyError: an element or a size that the model does not know.
        """
        options = EstimatorOptions(divergence, probes, draws, rtol, atol)
        started = [self._start(one, seed, i, k, options) for i, one in enumerate(completions) for k in range(draws)]
        points = [point for point, _ in started]
        path_rtol, path_atol = (path_tolerance(each, options.exact) for each in (rtol, atol))
        for end in self.solve(points, 1.0, 0.0, path_rtol, path_atol, record=True):
            self._complete(started[end.index][1], end)
        found = [state.result(0) for _, state in started]
        free = [one.molecule.n_atoms - len(one.given) for one in completions]
        return [combine(found[i * draws : (i + 1) * draws], n, 0.0, options.exact) for i, n in enumerate(free)]

    @torch.no_grad()
    def dequantize_completion(
        self, completion: Completion, seed: int, index: int, draw: int = 0
    ) -> tuple[Latent, float]:
        """Return a molecule as a state at t = 1, with noise on the types of the other atoms, and its log q."""
        molecule, m = completion.ordered, len(completion.given)
        batch = collate([molecule], self.vocabulary, self.dtype, self.device)
        x, types, mask = batch.positions, batch.atom_types[:, m:], batch.mask[:, m:]
        source = [generator(seed, index, f"dequantize:{draw}")]
        noise = self.dequantizer.sample_noise(source, mask).to(x)
        h, log_q = self.dequantizer.dequantize(types, x[:, m:], mask, noise)
        fragment = Molecule(molecule.atomic_numbers[:m], molecule.positions[:m])
        return _state(x[0], torch.cat([self._given(fragment)[1].to(x), h[0]]), m), float(log_q)

    def log_prob_base(self, x: Float[Tensor, "B N 3"], h: Float[Tensor, "B N F"], mask: Tensor) -> Float[Tensor, " B"]:
        """Return log p_z of the other atoms at t = 0, relative to the mean of the fragment, nats per molecule."""
        real = mask.unsqueeze(-1).to(x.dtype)
        flag, free = h[..., -1:] * real, (1.0 - h[..., -1:]) * real
        y = torch.cat([x - (x * flag).sum(1, keepdim=True) / flag.sum(1, keepdim=True), h[..., :-1]], -1)
        return -0.5 * (free * (y.square() + LOG_2PI)).sum((1, 2))

    def _given(self, fragment: Molecule) -> tuple[Tensor, Tensor]:
        """Return the positions of a fragment, centred, and the noiseless features of its types, float64 on the CPU."""
        batch = collate([fragment], self.vocabulary, torch.float64, "cpu")
        corners = torch.eye(self.dequantizer.n_types, dtype=torch.float64) * self.config.dequantizer.scale
        return batch.positions[0], corners[batch.atom_types[0]]

    def _decoded(self, end: FinalState) -> Sample:
        try:
            (bare,) = self.to_molecules(end.x[None], end.h[None], end.mask)
        except StructureError:
            return Sample(end.index, None, end.status, end.nfe)
        properties = {"status": end.status.name, "nfe": end.nfe}
        return Sample(end.index, Molecule(bare.atomic_numbers, bare.positions, "", properties), end.status, end.nfe)

    def _start(
        self, completion: Completion, seed: int, index: int, draw: int, options: EstimatorOptions
    ) -> tuple[Latent, DrawState]:
        point, log_q = self.dequantize_completion(completion, seed, index, draw)
        probes = None
        if not options.exact:
            source = generator(seed, index, f"probe:{draw}")
            probes = draw_probes(source, len(point.h), point.h.shape[-1], options.probes_per_node)
        return point, DrawState(Terms(log_q, 0.0), probes, quadrature_tolerance(options.rtol))

    @torch.no_grad()
    def _complete(self, state: DrawState, end: FinalState) -> None:
        state.pieces = end.path
        base = float(self.log_prob_base(end.x[None], end.h[None], end.mask))
        state.finish_path(base, end.x, end.h, end.status)
        complete_draw(state, self.velocity, self.dtype)


def _state(x: Float[Tensor, "N 3"], h: Float[Tensor, "N F"], n_given: int) -> Latent:
    flag = torch.zeros_like(h[:, :1])
    flag[:n_given] = 1.0
    return Latent(x - x.mean(0), torch.cat([h, flag], -1))


def _placed(molecule: Molecule, fragment: Molecule) -> Molecule:
    """Return a molecule where its fragment is, with the positions of the fragment as they were given."""
    m = fragment.n_atoms
    positions = molecule.positions + (fragment.positions.mean(axis=0) - molecule.positions[:m].mean(axis=0))
    positions[:m] = fragment.positions
    return Molecule(molecule.atomic_numbers, positions, molecule.name, molecule.properties)
