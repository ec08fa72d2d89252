"""The components of a flow over molecules: base distributions, velocity with its solver, ActNorm and dequantizer."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from enflow.model.batch import MoleculeBatch, collate, split
from enflow.model.chem.elements import QM9, Vocabulary
from enflow.model.chem.formula import parse_formula
from enflow.model.chem.molecule import Molecule
from enflow.model.config import LOOSEST, FlowConfig, check_tolerances
from enflow.model.errors import ConfigError, StructureError
from enflow.model.flow import dequantization, dynamics
from enflow.model.flow.act_norm import ActNorm
from enflow.model.flow.arguments import SizeRange
from enflow.model.flow.canonical_form import CanonicalForm, canonical_form
from enflow.model.flow.compiled_velocity import Arguments, CompiledVelocity
from enflow.model.flow.coupling import transport
from enflow.model.flow.distributions import AtomCountPrior, CenteredGaussian, FeatureGaussian, FixedFeatures
from enflow.model.flow.noise import check_temperature, generator, latent_purpose
from enflow.model.flow.ode.batched_solver import FinalState, InitialState, solve_batched
from enflow.model.flow.ode.step_control import working_dtype
from enflow.model.flow.ode.tolerances import COARSE, FINE, Ending
from enflow.model.flow.states import DequantizedMolecules, Latent, Perturbation, Sample


class FlowComponents(nn.Module):
    """The components of a flow, the solver of its velocity, and the maps that need no solver.

    Args:
        config: the architecture. The weights are those of an untrained model, and p(N) is uniform.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        n_features = config.dynamics.n_features
        self.vocabulary = _vocabulary(config)
        self.dynamics = dynamics.build(config.dynamics)
        self.act_norm = ActNorm(n_features) if config.act_norm else None
        self.dequantizer = dequantization.build(config.dequantizer, config.vocabulary)
        self.n_atoms = AtomCountPrior.from_counts([0] + [1] * config.max_atoms)
        self.base_positions = CenteredGaussian()
        self.base_features = FixedFeatures() if self.fixed_features else FeatureGaussian(n_features)
        self.compiled: CompiledVelocity | None = None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.n_atoms.log_probs.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.dynamics.parameters()).dtype

    @property
    def fixed_features(self) -> bool:
        """True if the types are given, so that the features do not change along a path."""
        return isinstance(self.dequantizer, dequantization.Given)

    def velocity(
        self, t: Float[Tensor, " B"], x: Float[Tensor, "B N 3"], h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N F"]]:
        """Return (dx, dh) / dt in flow space, by compiled code where there is some and no derivative is taken.

        Args:
            t: times; t = 0 is the base, t = 1 is data.
            x, h, mask: centred positions, features and mask.
        """
        if self.compiled is not None and self.compiled.fits(self.dynamics, (t, x, h, mask)):
            return self.compiled(t, x, h, mask)
        dx, dh = self.dynamics(t, x, h, mask)
        return dx, dh

    @property
    def divergence(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None:
        """The divergence of the velocity as a function (t, x, h, mask) -> (B,); None if the dynamics has none."""
        return getattr(self.dynamics, "divergence", None)

    def example(self) -> Arguments:
        """Return arguments of the velocity: two latents of the largest size."""
        drawn = [self.draw_latent(self.config.max_atoms, seed=0, index=index) for index in range(2)]
        x, h = (torch.stack(parts).to(self.device, self.dtype) for parts in zip(*drawn, strict=True))
        return x.new_tensor([0.25, 0.5]), x, h, torch.ones_like(x[..., 0], dtype=torch.bool)

    def in_double(self) -> "FlowComponents":
        """Return a copy in float64, for tolerances below the precision of float32."""
        return copy.deepcopy(self).double()

    def solve(
        self,
        points: Sequence[Latent],
        t0: float,
        t1: float,
        rtol: float,
        atol: float,
        record: bool = False,
        ending: Ending = FINE,
    ) -> Iterator[FinalState]:
        """Return an iterator over the final states of points, in the order in which they finish.

        Args:
            points: the points of flow space at t0.
            t0, t1: times of the start and of the end.
            rtol, atol: relative and absolute tolerance, per molecule.
            record: keep the accepted steps.
            ending: the end of the path.

        Raises:
            ConfigError: a tolerance is out of range.
        """
        check_tolerances(rtol, atol, COARSE.factor * LOOSEST)
        # The decorator switches gradients off during each evaluation alone: a `with` in a generator would leak to its
        # caller.
        like = torch.empty(0, dtype=working_dtype(min(rtol, atol), self.dtype), device=self.device)
        starts = [InitialState(x.to(like), h.to(like), t0, t1, rtol, atol, ending) for x, h in points]
        flow = self if like.dtype == self.dtype else self.in_double()
        return solve_batched(torch.no_grad()(flow.velocity), starts, record)

    def decoded(
        self, points: Sequence[Latent], rtol: float, atol: float, t: float = 0.0, ending: Ending = FINE
    ) -> Iterator[Sample]:
        """Return an iterator over the samples of points at time t, in the order in which they finish.

        Their molecules have the properties "status" and "nfe". The other arguments are those of `solve`.
        """
        for end in self.solve(points, t, 1.0, rtol, atol, ending=ending):
            molecule: Molecule | None
            try:
                (molecule,) = self.to_molecules(end.x[None], end.h[None], end.mask)
            except StructureError:
                molecule = None
            yield Sample(end.index, molecule, end.status, end.nfe).counted()

    def draw_n_atoms(self, seed: int, index: int, within: SizeRange | None = None) -> int:
        """Return the number of atoms of molecule (seed, index), drawn from p(N), or from p(N) restricted to a range.

        Raises:
            VocabularyError: the model knows no size in the range.
        """
        return self.n_atoms.sample(generator(seed, index, "n_atoms"), within=within)

    def draw_latent(
        self,
        n_atoms: int,
        seed: int,
        index: int,
        formula: str | None = None,
        temperature: float = 1.0,
        refinement: int = 0,
    ) -> Latent:
        """Return the latent of molecule (seed, index), float64 on the CPU; dtype, device and batch do not change it.

        Args:
            n_atoms: the number of atoms, N.
            seed, index: the seed of the request and the index of the molecule in it.
            formula: the elements, for a model whose types are given; None = drawn from P(types | N).
            temperature: standard deviation of the latent; 1 = the base distribution. Elements that are drawn from
                P(types | N) do not depend on it.
            refinement: the number of the refinement that needs new noise; 0 = the latent of the molecule.

        Raises:
            ConfigError: a formula for a model that draws the elements itself; a temperature out of range.
        """
        check_temperature(temperature)
        mask, source = torch.ones(1, n_atoms, dtype=torch.bool), [generator(seed, index, latent_purpose(refinement))]
        x = temperature * self.base_positions.sample(mask, source)[0]
        if isinstance(self.dequantizer, dequantization.Given):
            drawn = self.dequantizer.compositions.sample(n_atoms, generator(seed, index, "composition"))
            return Latent(x, self.dequantizer.features(parse_formula(formula, self.vocabulary) if formula else drawn))
        if formula is not None:
            raise ConfigError(f"found formula {formula}, but this model draws the elements itself")
        assert isinstance(self.base_features, FeatureGaussian), "features are drawn where they are not given"
        return Latent(x, temperature * self.base_features.sample(mask, source)[0])

    @torch.no_grad()
    def dequantize(
        self,
        molecules: Sequence[Molecule],
        seed: int,
        indices: Sequence[int | str],
        draw: int = 0,
        mirrored: bool = False,
    ) -> DequantizedMolecules:
        """Return molecules in flow space: dequantized with the noise of (seed, index, draw), then through ActNorm.

        Args:
            molecules: the molecules, angstrom.
            seed: the seed of the noise.
            indices: an index or a canonical key per molecule.
            draw: the number of the draw.
            mirrored: mirror the noise at its centre.

        Raises:
            VocabularyError: an element or a size that the model does not know.
        """
        sources = [generator(seed, index, f"dequantize:{draw}") for index in indices]
        return self._dequantized(molecules, sources, mirrored)

    def _dequantized(
        self, molecules: Sequence[Molecule], sources: Sequence[Generator], mirrored: bool = False
    ) -> DequantizedMolecules:
        batch = collate(molecules, self.vocabulary, self.dtype, self.device)
        x, mask = batch.positions, batch.mask
        noise = self.dequantizer.sample_noise(sources, mask)
        noise = (self.dequantizer.mirrored(noise) if mirrored else noise).to(x)
        h, log_q = self.dequantizer.dequantize(batch.atom_types, x, mask, noise)
        if self.act_norm is None:
            return DequantizedMolecules(x, h, mask, log_q, torch.zeros_like(log_q))
        x, h = self.act_norm(x, h, mask)
        return DequantizedMolecules(x, h, mask, log_q, self.act_norm.ladj(mask))

    def noised(
        self, molecule: Molecule, t: float, seed: int, index: int, refinement: int = 0, temperature: float = 1.0
    ) -> Latent:
        """Return a molecule with noise, at time t of a straight path: x_t = (1 - t) x_0 + t x_1, and h_t alike.

        The noise (x_0, h_0) is the latent of molecule (seed, index), coupled to the molecule as in flow matching. Such
        states have the density at t that flow matching learns; so the flow from t to 1 turns molecules of the model's
        distribution into others of it.

        Args:
            molecule: the molecule at t = 1, angstrom.
            t: the time; 0 = noise alone, 1 = the molecule.
            seed, index: the seed of the noise and its index.
            refinement, temperature: see `draw_latent`.

        Raises:
            VocabularyError: an element or a size that the model does not know.
        """
        return self.all_noised([Perturbation(molecule, t, seed, index, refinement, temperature)])[0]

    def all_noised(self, perturbations: Sequence[Perturbation]) -> list[Latent]:
        """Return the state of each perturbation (see `noised`); molecules of one size are computed together."""
        found = dict[int, Latent]()
        for size in {each.molecule.n_atoms for each in perturbations}:
            places = [i for i, each in enumerate(perturbations) if each.molecule.n_atoms == size]
            found |= zip(places, self._noised([perturbations[i] for i in places]), strict=True)
        return [found[i] for i in range(len(perturbations))]

    @torch.no_grad()
    def _noised(self, perturbations: Sequence[Perturbation]) -> list[Latent]:
        """Return the states of molecules of one size."""
        sources = [generator(each.seed, each.index, f"dequantize:{each.refinement}") for each in perturbations]
        data = self._dequantized([each.molecule for each in perturbations], sources)
        x1, h1 = (part.cpu().double() for part in (data.x, data.h))
        drawn = [
            self.draw_latent(each.molecule.n_atoms, each.seed, each.index, None, each.temperature, each.refinement)
            for each in perturbations
        ]
        x0, h0 = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        t = x1.new_tensor([each.t for each in perturbations])[:, None, None]
        if self.fixed_features:
            none, types = h1[..., :0].numpy(), h1.argmax(-1).numpy()
            moved, _ = transport(x0.numpy(), none, x1.numpy(), none, foreign=types[:, :, None] != types[:, None, :])
            return [Latent(*state) for state in zip(torch.lerp(torch.from_numpy(moved), x1, t), h1, strict=True)]
        coupled = transport(x0.numpy(), h0.numpy(), x1.numpy(), h1.numpy())
        states = (torch.lerp(torch.from_numpy(start), end, t) for start, end in zip(coupled, (x1, h1), strict=True))
        return [Latent(*state) for state in zip(*states, strict=True)]

    @torch.no_grad()
    def to_molecules(
        self, x: Float[Tensor, "B N 3"], h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]
    ) -> list[Molecule]:
        """Return the molecules of points of flow space at t = 1, angstrom.

        Raises:
            StructureError: a position is not finite, or far outside the range of molecules.
        """
        if self.act_norm is not None:
            x, h = self.act_norm.inverse(x, h, mask)
        return split(MoleculeBatch(x, self.dequantizer.quantize(h, mask), mask), self.vocabulary)

    def log_prob_base(
        self, x: Float[Tensor, "B N 3"], h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]
    ) -> Float[Tensor, " B"]:
        """Return log p_z(x) + log p_z(h) of points at t = 0, nats per molecule."""
        return self.base_positions.log_prob(x, mask) + self.base_features.log_prob(h, mask)

    def canonical_form(self, molecule: Molecule) -> CanonicalForm:
        """Return the canonical form of a structure that is scored; oriented too if the velocity is equivariant."""
        return canonical_form(molecule, orient=bool(getattr(self.dynamics, "equivariant", False)))


def _vocabulary(config: FlowConfig) -> Vocabulary:
    if (config.vocabulary, config.max_atoms) == (QM9.atomic_numbers, QM9.max_atoms):
        return QM9
    return Vocabulary("the model's vocabulary", config.vocabulary, config.max_atoms)
