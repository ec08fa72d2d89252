"""The noise and the data of a flow around fragments as states."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from enflow.model.batch import collate
from enflow.model.chem.molecule import Molecule
from enflow.model.config import FlowConfig, FragmentConfig
from enflow.model.errors import ConfigError, StructureError
from enflow.model.flow.arguments import SizeRange
from enflow.model.flow.completion import Completion, relative_to_fragment
from enflow.model.flow.components import FlowComponents
from enflow.model.flow.coupling import transport_around
from enflow.model.flow.distributions import LOG_2PI
from enflow.model.flow.fragment_prior import log_density, noise_around
from enflow.model.flow.noise import check_temperature, generator, latent_purpose, normal
from enflow.model.flow.states import DequantizedMolecules, Latent


class FragmentComponents(FlowComponents):
    """The parts of a `FragmentFlow`, and the map from fragments, noise and molecules to its states.

    States have the fragment first, all atoms centred, and a flag as the last feature, which is 1 for the fragment.

    Args:
        config: the architecture, with the dynamics "fragment" and the dequantizer "truncated".
    """

    def __init__(self, config: FlowConfig) -> None:
        if not isinstance(config.dynamics, FragmentConfig) or config.act_norm:
            raise ConfigError(f'found dynamics {config.dynamics.kind!r}, expected "fragment", and no act_norm')
        super().__init__(config)

    def draw_size(self, fragment: Molecule, seed: int, index: int, within: SizeRange | None = None) -> int:
        """Return the number of atoms of molecule (seed, index), drawn from p(N | N > M) for M given atoms.

        Args:
            fragment: the given atoms.
            seed, index: the seed of the request and the index of the molecule in it.
            within: the range of the number; None = all.

        Raises:
            VocabularyError: the fragment leaves no place for another atom, or the range has no size above it.
        """
        return self.n_atoms.sample(generator(seed, index, "n_atoms"), fragment.n_atoms, within)

    def draw_latent(
        self,
        n_atoms: int,
        seed: int,
        index: int,
        formula: str | None = None,
        temperature: float = 1.0,
        refinement: int = 0,
    ) -> Latent:
        """Return the latent of molecule (seed, index) around a single atom; see `draw_completion`.

        Raises:
            ConfigError: a formula; this model draws the other elements itself.
        """
        if formula is not None:
            raise formula_refused(formula)
        atom = Molecule([self.vocabulary.atomic_numbers[-1]], [[0.0, 0.0, 0.0]])
        return self.draw_completion(atom, n_atoms, seed, index, temperature, refinement)

    def draw_completion(
        self,
        fragment: Molecule,
        n_atoms: int | SizeRange | None,
        seed: int,
        index: int,
        temperature: float = 1.0,
        refinement: int = 0,
    ) -> Latent:
        """Return the latent of molecule (seed, index) around a fragment, float64 on the CPU; see `sample`.

        Args:
            fragment: the given atoms.
            n_atoms: the number of all atoms; a range or None = drawn by `draw_size`.
            seed, index: the seed of the noise and its index.
            temperature: standard deviation of the noise around the place of the other atoms.
            refinement: the number of the refinement that needs new noise; 0 = the latent of the molecule.

        Raises:
            ConfigError: a temperature out of range.
            VocabularyError: an element or a size that the model does not know.
            StructureError: the size leaves no atom beside the fragment.
        """
        check_temperature(temperature)
        if not isinstance(n_atoms, int):
            n_atoms = self.draw_size(fragment, seed, index, n_atoms)
        free, source = n_atoms - fragment.n_atoms, generator(seed, index, latent_purpose(refinement))
        if free < 1:
            raise StructureError(f"found {n_atoms} atoms in all, expected more than the {fragment.n_atoms} given ones")
        self.n_atoms.check([n_atoms])
        x, h = self._given(fragment)
        noise = [temperature * normal(shape, source) for shape in ((free + 1, 3), (free, self.dequantizer.n_features))]
        others = noise_around(noise[0].numpy(), fragment.atomic_numbers, fragment.positions)
        return _state(torch.cat([x, torch.from_numpy(others)]), torch.cat([h, noise[1]]), len(x))

    def noised_completion(
        self, completion: Completion, t: float, seed: int, index: int, refinement: int, temperature: float = 1.0
    ) -> Latent:
        """Return a molecule with noise on the atoms that are not given, at time t; see `FlowComponents.noised`.

        The noise is that of `draw_completion`, coupled to the atoms by `transport_around` as in the training.
        """
        data, _ = self.dequantize_completion(completion, seed, index, refinement)
        molecule, m = completion.ordered, len(completion.given)
        fragment = Molecule(molecule.atomic_numbers[:m], molecule.positions[:m])
        drawn = self.draw_completion(fragment, molecule.n_atoms, seed, index, temperature, refinement)
        ends = [relative_to_fragment(x[None].double().cpu(), h[None].double().cpu()) for x, h in (drawn, data)]
        (x0, h0), (x1, h1) = [(x[0, m:].numpy(), h[0, m:].numpy()) for x, h in ends]
        given, types = self._given(fragment)
        moved = transport_around(x0, h0, x1, h1, given.numpy())
        x, h = (torch.from_numpy((1 - t) * start + t * end) for start, end in zip(moved, (x1, h1), strict=True))
        return _state(torch.cat([given, x]), torch.cat([types, h]), m)

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

    def _dequantized(
        self,
        molecules: Sequence[Molecule],  # noqa: ARG002
        sources: Sequence[Generator],  # noqa: ARG002
        mirrored: bool = False,  # noqa: ARG002
    ) -> DequantizedMolecules:
        raise ConfigError(
            "found molecules without given atoms, expected completions: see dequantize_completion, noised_completion"
        )

    def log_prob_base(self, x: Float[Tensor, "B N 3"], h: Float[Tensor, "B N F"], mask: Tensor) -> Float[Tensor, " B"]:
        """Return log p_z of the other atoms at t = 0, given the fragment, nats per molecule."""
        given, free = (h[..., -1] > 0.5) & mask, (h[..., -1] <= 0.5) & mask
        y, features = relative_to_fragment(x, h)
        log_h = -0.5 * (free.unsqueeze(-1) * (features.square() + LOG_2PI)).sum((1, 2))
        numbers = torch.tensor(self.vocabulary.atomic_numbers)[h[..., :-1].argmax(-1).cpu()]
        rows = zip(*(each.cpu().numpy() for each in (y, free, numbers, x, given)), strict=True)
        return log_h + log_h.new_tensor([log_density(y[f], z[g], x[g]) for y, f, z, x, g in rows])

    def _given(self, fragment: Molecule) -> tuple[Tensor, Tensor]:
        """Return the positions of a fragment, centred, and the noiseless features of its types, float64 on the CPU."""
        batch = collate([fragment], self.vocabulary, torch.float64, "cpu")
        corners = torch.eye(self.dequantizer.n_types, dtype=torch.float64) * self.config.dequantizer.scale
        return batch.positions[0], corners[batch.atom_types[0]]


def formula_refused(formula: str) -> ConfigError:
    """Return the error of a formula for a model that draws the elements itself."""
    return ConfigError(f"found formula {formula}, but this model draws the elements itself")


def _state(x: Float[Tensor, "N 3"], h: Float[Tensor, "N F"], n_given: int) -> Latent:
    flag = torch.zeros_like(h[:, :1])
    flag[:n_given] = 1.0
    return Latent(x - x.mean(0), torch.cat([h, flag], -1))
