"""MoleculeFlow: the density of molecules, to sample from and to score with."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from enflow.model.batch import MoleculeBatch, collate, split
from enflow.model.chem.elements import QM9, Vocabulary
from enflow.model.chem.formula import parse_formula
from enflow.model.chem.molecule import Molecule
from enflow.model.config import TOLERANCES, FlowConfig
from enflow.model.errors import ConfigError, StructureError
from enflow.model.flow import dequantization, dynamics
from enflow.model.flow.act_norm import ActNorm
from enflow.model.flow.canonical_form import CanonicalForm, canonical_form
from enflow.model.flow.distributions import AtomCountPrior, CenteredGaussian, FeatureGaussian, Untouched
from enflow.model.flow.estimate import Draw, Likelihood, combine, further_draws
from enflow.model.flow.estimator_options import Divergence, EstimatorOptions
from enflow.model.flow.likelihood import (
    DrawState,
    Terms,
    complete_draw,
    draw_probes,
    path_tolerance,
    quadrature_tolerance,
)
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.batched_solver import FinalState, InitialState, travel
from enflow.model.flow.ode.dopri5 import arithmetic
from enflow.model.flow.states import Latent, LiftedMolecules, Sample, Wanted, check, in_order

BLOCK = 64
"""Molecules that are dequantized together."""

STANDARD = TOLERANCES["standard"]
INVERTIBLE = 1e-9
"""Tolerance of the way to the base and back: the path stretches errors. One molecule of 24 came back 0.05 angstrom away
at 1e-7, in float32 as in float64 (weights before the present ones, with which all come back at 1e-7)."""


class MoleculeFlow(nn.Module):
    """A continuous normalizing flow over sizes, atom types and positions.

    N ~ p(N); z ~ N(0, 1) without centre of mass; d(x, h)/dt = velocity(t, x, h) from t = 0 to 1; ActNorm's inverse;
    types by `quantize` of the dequantizer (Satorras et al. 2021).

    Args:
        config: everything but the weights. Until weights say otherwise p(N) is uniform.
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
        self.base_features = Untouched() if self.features_stand_still else FeatureGaussian(n_features)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.n_atoms.log_probs.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its arithmetic."""
        return next(self.dynamics.parameters()).dtype

    @property
    def features_stand_still(self) -> bool:
        """Whether the types are given, and no features flow."""
        return isinstance(self.dequantizer, dequantization.Given)

    def velocity(
        self, t: Float[Tensor, " B"], x: Float[Tensor, "B N 3"], h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N F"]]:
        """(dx, dh) / dt in flow space; t = 0 is the base, t = 1 data."""
        dx, dh = self.dynamics(t, x, h, mask)
        return dx, dh

    @property
    def divergence(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None:
        """The trace of the velocity's Jacobian (t, x, h, mask) -> (B,), where the dynamics knows it."""
        return getattr(self.dynamics, "divergence", None)

    def in_double(self) -> "MoleculeFlow":
        """A copy that computes in float64, for tolerances that float32 cannot meet."""
        return copy.deepcopy(self).double()

    def draw_n_atoms(self, seed: int, index: int) -> int:
        """The size of a molecule of which only (seed, index) is given."""
        return self.n_atoms.sample(generator(seed, index, "n_atoms"))

    def draw_latent(self, n_atoms: int, seed: int, index: int, formula: str | None = None) -> Latent:
        """A molecule's noise: float64 on the CPU, so that neither dtype, device nor company changes it.

        Raises:
            ConfigError: a formula for a model that draws the elements itself.
        """
        mask, source = torch.ones(1, n_atoms, dtype=torch.bool), [generator(seed, index, "latent")]
        x = self.base_positions.sample(mask, source)[0]
        if isinstance(self.dequantizer, dequantization.Given):
            drawn = self.dequantizer.compositions.sample(n_atoms, generator(seed, index, "composition"))
            return Latent(x, self.dequantizer.latent(parse_formula(formula, self.vocabulary) if formula else drawn))
        if formula is not None:
            raise ConfigError(f"found formula {formula}, but this model draws the elements itself")
        assert isinstance(self.base_features, FeatureGaussian), "features are drawn where they are not given"
        return Latent(x, self.base_features.sample(mask, source)[0])

    @torch.no_grad()
    def lift(
        self,
        molecules: Sequence[Molecule],
        seed: int,
        indices: Sequence[int | str],
        draw: int = 0,
        mirrored: bool = False,
    ) -> LiftedMolecules:
        """Molecules to flow space: dequantized with the noise of (seed, index, draw), then through ActNorm.

        Args:
            molecules: in angstrom.
            seed, indices, draw: of the noise.
            mirrored: mirror the noise at its centre.

        Raises:
            VocabularyError: an element or a size that the model does not know.
        """
        batch = collate(molecules, self.vocabulary, self.dtype, self.device)
        x, mask = batch.positions, batch.mask
        sources = [generator(seed, index, f"dequantize:{draw}") for index in indices]
        noise = self.dequantizer.sample_noise(sources, mask)
        noise = (self.dequantizer.mirrored(noise) if mirrored else noise).to(x)
        h, log_q = self.dequantizer.dequantize(batch.atom_types, x, mask, noise)
        if self.act_norm is None:
            return LiftedMolecules(x, h, mask, log_q, torch.zeros_like(log_q))
        x, h = self.act_norm(x, h, mask)
        return LiftedMolecules(x, h, mask, log_q, self.act_norm.ladj(mask))

    @torch.no_grad()
    def land(self, x: Float[Tensor, "B N 3"], h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]) -> list[Molecule]:
        """Flow space to molecules, in angstrom.

        Raises:
            StructureError: a position is not finite, or beyond all bounds.
        """
        if self.act_norm is not None:
            x, h = self.act_norm.inverse(x, h, mask)
        return split(MoleculeBatch(x, self.dequantizer.quantize(h, mask), mask), self.vocabulary)

    def log_prob_base(
        self, x: Float[Tensor, "B N 3"], h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"]
    ) -> Float[Tensor, " B"]:
        """log p_z(x) + log p_z(h), nats."""
        return self.base_positions.log_prob(x, mask) + self.base_features.log_prob(h, mask)

    def sample(
        self, n_atoms: Wanted | Sequence[Wanted], seed: int = 0, rtol: float = STANDARD, atol: float = STANDARD
    ) -> list[Molecule]:
        """Molecules, each fixed by (seed, its place in the list), with "status" and "nfe" among their properties.

        A notebook shows them in 3D.

        Args:
            n_atoms: the size of each, None = drawn from p(N); or, of a model to which the types are given, its formula,
                such as "C7H10O2". One alone = one molecule.
            seed: of all noise.
            rtol, atol: tolerances of the solver, per molecule.

        Raises:
            SolverError: an atom flew beyond all bounds (`samples` goes on where that happens).
            VocabularyError: a size, or an element, that the model does not know.
            ConfigError: a formula for a model that draws the elements itself.
        """
        sizes = [n_atoms] if n_atoms is None or isinstance(n_atoms, int | str) else n_atoms
        return in_order(self.samples(sizes, seed, rtol, atol))

    def samples(
        self,
        n_atoms: Sequence[Wanted],
        seed: int = 0,
        rtol: float = STANDARD,
        atol: float = STANDARD,
        indices: Sequence[int] | None = None,
    ) -> Iterator[Sample]:
        """As `sample`, each molecule as soon as it is finished; `indices` stand for the places in the list."""
        places = range(len(n_atoms)) if indices is None else indices
        sizes = [self._size(each, seed, i) for i, each in zip(places, n_atoms, strict=True)]
        self.n_atoms.log_prob(torch.tensor(sizes, dtype=torch.int64, device=self.device))  # raises for a foreign size
        formulas = [each if isinstance(each, str) else None for each in n_atoms]
        latents = [self.draw_latent(n, seed, i, f) for i, n, f in zip(places, sizes, formulas, strict=True)]
        return (replace(one, index=places[one.index]) for one in self._landing(latents, rtol, atol))

    def _size(self, wanted: Wanted, seed: int, index: int) -> int:
        if isinstance(wanted, str):
            return sum(parse_formula(wanted, self.vocabulary))
        return self.draw_n_atoms(seed, index) if wanted is None else wanted

    def encode(
        self, molecules: Sequence[Molecule], seed: int = 0, rtol: float = INVERTIBLE, atol: float = INVERTIBLE
    ) -> list[Latent]:
        """The latents of molecules, of which `decode` is the inverse; (seed, place) fixes the dequantization.

        Raises:
            SolverError: a path did not reach its end.
            VocabularyError: an element or a size that the model does not know.
        """
        points = [point for point, _, _ in self._lifted(molecules, seed, range(len(molecules)), 0)]
        latents = {}
        for arrival in self._travel(points, 1.0, 0.0, rtol, atol):
            check(arrival.index, arrival.status)
            latents[arrival.index] = Latent(arrival.x, arrival.h)
        return [latents[index] for index in range(len(molecules))]

    def decode(self, latents: Sequence[Latent], rtol: float = INVERTIBLE, atol: float = INVERTIBLE) -> list[Molecule]:
        """The molecules of latents, with "status" and "nfe" among their properties.

        Raises:
            SolverError: an atom flew beyond all bounds.
        """
        return in_order(self._landing(latents, rtol, atol))

    def log_prob(
        self,
        molecules: Sequence[Molecule],
        seed: int = 0,
        target_error: float = 2.0,
        *,
        divergence: Divergence = "hutchinson",
        probes: int | None = None,
        draws: int | None = None,
        rtol: float = STANDARD,
        atol: float = STANDARD,
    ) -> list[Likelihood]:
        """Return an estimate of a lower bound on each molecule's log-likelihood, nats, with its parts and error.

        log p >= E[log p_z(z) + int_1^0 div v dt + ladj - log q] + log p(N), the mean over draws of the dequantizer.
        One structure and seed have one score, up to rounding, in any order of atoms, orientation and company: noise is
        seeded by the structure's canonical form. A velocity that is not equivariant sees the orientation as it is.

        Args:
            molecules: in any position and orientation, angstrom.
            seed: of all noise, together with the structure.
            target_error: standard error, nats, at which draws stop; at most 32 are made.
            divergence: "hutchinson" for an estimated trace, "exact" for the exact one.
            probes: Hutchinson probes per node; None = 3.
            draws: draws of the dequantizer; None = as many as the target error needs (2 with "exact").
            rtol, atol: tolerances per molecule.

        Raises:
            ConfigError: an option is out of range.
            VocabularyError: an element or a size that the model does not know.
        """
        options = EstimatorOptions(divergence, probes, draws, rtol, atol, target_error)
        found = dict(self.likelihoods(molecules, seed, options))
        return [found[index] for index in range(len(molecules))]

    def likelihoods(
        self,
        molecules: Sequence[Molecule],
        seed: int = 0,
        options: EstimatorOptions = EstimatorOptions(),  # noqa: B008 - frozen
        indices: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Likelihood]]:
        """Yield (index, likelihood) of each molecule as soon as it is known; see `log_prob`.

        Args:
            molecules: in any position and orientation, angstrom.
            seed: of all noise, together with the structure.
            options: the estimator.
            indices: names of the molecules in the result; None = their places in the list.
        """
        names = range(len(molecules)) if indices is None else indices
        forms = [self.canonical_form(molecule) for molecule in molecules]
        done: list[list[Draw]] = [[] for _ in forms]
        wanted = [(place, draw) for place in range(len(forms)) for draw in range(self.first_draws(options))]
        while wanted:
            expected = Counter(place for place, _ in wanted)
            following = list[tuple[int, int]]()
            for place, draw in self._draws(forms, seed, wanted, options):
                done[place].append(draw)
                expected[place] -= 1
                if expected[place]:
                    continue
                more = self.further_draws(done[place], forms[place].molecule.n_atoms, options)
                following += [(place, len(done[place]) + i) for i in range(more)]
                if not more:
                    yield names[place], self.combine(done[place], forms[place].molecule.n_atoms, options)
            wanted = following

    def canonical_form(self, molecule: Molecule) -> CanonicalForm:
        """Return the structure as it is scored; an equivariant velocity allows to orient it too."""
        return canonical_form(molecule, orient=bool(getattr(self.dynamics, "equivariant", False)))

    def first_draws(self, options: EstimatorOptions) -> int:
        """Return the number of draws of the first round: one suffices where the dequantizer draws no noise."""
        return options.first_draws if self.dequantizer.random or options.draws else 1

    def combine(self, draws: Sequence[Draw], n_atoms: int, options: EstimatorOptions) -> Likelihood:
        """Return the likelihood of a molecule of N atoms that its draws give together."""
        log_n_atoms = float(self.n_atoms.log_prob(torch.tensor([n_atoms], device=self.device)))
        return combine(draws, n_atoms, log_n_atoms, options.exact, self.dequantizer.random)

    def further_draws(self, draws: Sequence[Draw], n_atoms: int, options: EstimatorOptions) -> int:
        """Return how many more draws a molecule of N atoms needs for its target error; 0 = it is finished."""
        return further_draws(draws, n_atoms, options, self.dequantizer.random)

    def start_draw(
        self, form: CanonicalForm, seed: int, draw: int, options: EstimatorOptions
    ) -> tuple[Latent, DrawState]:
        """Return the start of a draw's path in flow space, and the draw before its path.

        Args:
            form: the structure.
            seed, draw: of the noise, together with the structure; draws 2 k and 2 k + 1 may be a mirrored pair.
            options: the estimator.
        """
        paired = options.paired and self.dequantizer.random
        number, mirrored = (draw // 2, bool(draw % 2)) if paired else (draw, False)
        ((point, log_q, ladj),) = self.lift([form.molecule], seed, [form.key], number, mirrored).rows()
        probes = None
        if not options.exact:
            source, n_atoms = generator(seed, form.key, f"probe:{draw}"), form.molecule.n_atoms
            probes = draw_probes(source, n_atoms, self.config.dynamics.n_features, options.probes_per_node)
            if self.features_stand_still:
                probes.signs[..., 3:] = 0.0  # their part of the trace is zero, without any noise
        terms = Terms(log_q, ladj, number if paired else None)
        return point, DrawState(terms, probes, quadrature_tolerance(options.rtol))

    def _draws(
        self, forms: Sequence[CanonicalForm], seed: int, wanted: Sequence[tuple[int, int]], options: EstimatorOptions
    ) -> Iterator[tuple[int, Draw]]:
        """Yield (place, draw) for each wanted (place, number of the draw), in the order in which they end."""
        started = [self.start_draw(forms[place], seed, draw, options) for place, draw in wanted]
        points, states = [point for point, _ in started], [state for _, state in started]
        rtol, atol = path_tolerance(options.rtol, options.exact), path_tolerance(options.atol, options.exact)
        for end in self._travel(points, 1.0, 0.0, rtol, atol, record=True):
            state = states[end.index]
            self._complete(state, end)
            yield wanted[end.index][0], state.result(end.nfe)
            state.pieces = []

    @torch.no_grad()
    def _complete(self, state: DrawState, end: FinalState) -> None:
        base = float(self.log_prob_base(end.x[None], end.h[None], end.mask))
        state.pieces = end.path
        state.finish_path(base, end.x, end.h, end.status)
        complete_draw(state, self.velocity, self.dtype)

    def _lifted(
        self, molecules: Sequence[Molecule], seed: int, places: Sequence[int], draw: int
    ) -> list[tuple[Latent, float, float]]:
        # A block at a time: a learned dequantizer holds features of all pairs of its batch.
        blocks = [slice(first, first + BLOCK) for first in range(0, len(molecules), BLOCK)]
        return [row for at in blocks for row in self.lift(molecules[at], seed, places[at], draw).rows()]

    def _travel(
        self, points: Sequence[Latent], t0: float, t1: float, rtol: float, atol: float, record: bool = False
    ) -> Iterator[FinalState]:
        # Without gradients only while the stepper runs: a generator must not leave the switch with its caller.
        like = torch.empty(0, dtype=arithmetic(min(rtol, atol), self.dtype), device=self.device)
        starts = [InitialState(x.to(like), h.to(like), t0, t1, rtol, atol) for x, h in points]
        flow = self if like.dtype == self.dtype else self.in_double()
        return travel(torch.no_grad()(flow.velocity), starts, record)

    def _landing(self, latents: Sequence[Latent], rtol: float, atol: float) -> Iterator[Sample]:
        for arrival in self._travel(latents, 0.0, 1.0, rtol, atol):
            properties = {"status": arrival.status.name, "nfe": arrival.nfe}
            try:
                (bare,) = self.land(arrival.x[None], arrival.h[None], arrival.mask)
                molecule = Molecule(bare.atomic_numbers, bare.positions, "", properties)
            except StructureError:
                molecule = None
            yield Sample(arrival.index, molecule, arrival.status, arrival.nfe)


def _vocabulary(config: FlowConfig) -> Vocabulary:
    if (config.vocabulary, config.max_atoms) == (QM9.atomic_numbers, QM9.max_atoms):
        return QM9
    return Vocabulary("the model's vocabulary", config.vocabulary, config.max_atoms)
