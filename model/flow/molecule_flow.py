"""MoleculeFlow: a normalizing flow over molecules, to sample from and to score with."""

from collections.abc import Iterator, Sequence

from enflow.model.chem.formula import parse_formula
from enflow.model.chem.molecule import Molecule, MoleculeLike, as_molecules, check_vocabulary
from enflow.model.config import ENCODE_TOLERANCE, STANDARD, STRENGTH, FlowConfig, FragmentConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.arguments import SizeRange, checked_count, checked_seed, checked_sizes
from enflow.model.flow.components import FlowComponents
from enflow.model.flow.estimate import Likelihood
from enflow.model.flow.estimator_options import Divergence, EstimatorOptions
from enflow.model.flow.likelihood_estimator import LikelihoodEstimator
from enflow.model.flow.refinement import refined, refinement_times
from enflow.model.flow.states import (
    EncodedLatent,
    Latent,
    OnMismatch,
    Sample,
    SizeOrFormula,
    check_success,
    compared_with_parents,
    molecules_in_order,
)

DEQUANTIZE_BATCH = 64
"""The number of molecules that are dequantized together."""


class MoleculeFlow(FlowComponents):
    """A continuous normalizing flow over sizes, atom types and positions.

    N ~ p(N); z ~ N(0, 1) without centre of mass; d(x, h)/dt = velocity(t, x, h) from t = 0 to 1; the inverse of
    ActNorm; types by `quantize` of the dequantizer (Satorras et al. 2021).

    Args:
        config: the architecture. The weights are those of an untrained model, and p(N) is uniform.
    """

    def __init__(self, config: FlowConfig) -> None:
        if isinstance(config.dynamics, FragmentConfig):
            raise ConfigError('found dynamics "fragment", expected a dynamics of all atoms; FragmentFlow takes it')
        super().__init__(config)

    def sample(
        self,
        n_atoms: SizeOrFormula | Sequence[SizeOrFormula],
        seed: int = 0,
        rtol: float = STANDARD,
        atol: float = STANDARD,
        temperature: float = 1.0,
        refinements: int | None = None,
    ) -> list[Molecule]:
        """Return molecules with the properties "status", "nfe", "seed" and "index"; the last two fix each of them.

        Refined ones have "refinements" too. A notebook shows the list in 3D; `enflow.to_dataframe` makes a table of it,
        `enflow.select` filters and sorts.

        Args:
            n_atoms: the number of atoms of each molecule; None = drawn from p(N), (10, 14) = drawn from p(N) restricted
                to 10 to 14. For a model whose types are given also a formula, such as "C7H10O2". A single value, such
                as 9, is one molecule; a range has to be in a list.
            seed: the seed of all noise.
            rtol, atol: relative and absolute tolerance of the solver, per molecule, 1e-13 to 1.
            temperature: standard deviation of the noise, 0.1 to 2. At 1 the samples have the model's distribution;
                below 1 more of them are stable, and they are less diverse (docs/science.md has the curve).
            refinements: the number of refinements, 0 to 10 (see `refinement`); None = as many as the model was
                evaluated with. More of the refined molecules are stable; with 0 they are those of the flow alone.

        Returns:
            One molecule per entry of `n_atoms`.

        Raises:
            SolverError: the solver left the range of molecules (`samples` yields the other molecules).
            VocabularyError: a size or an element that the model does not know; a range without a size that it knows.
            ConfigError: a formula for a model that draws the elements itself; an option out of range.

        Example:
            `flow.sample(9)` is one molecule of 9 atoms, `flow.sample([9, 18, None])` are three molecules, and
            `flow.sample([(10, 14)] * 4)` are four molecules of 10 to 14 atoms.
        """
        sizes = checked_sizes(n_atoms)
        return molecules_in_order(self.samples(sizes, seed, rtol, atol, None, temperature, refinements))

    def samples(
        self,
        n_atoms: Sequence[SizeOrFormula],
        seed: int = 0,
        rtol: float = STANDARD,
        atol: float = STANDARD,
        indices: Sequence[int] | None = None,
        temperature: float = 1.0,
        refinements: int | None = None,
    ) -> Iterator[Sample]:
        """Return an iterator over the samples in the order in which they finish; see `sample`.

        Args:
            n_atoms, seed, rtol, atol, temperature, refinements: see `sample`.
            indices: the index of each molecule, which fixes it together with the seed; None = its place in the list.
        """
        seed, conditions = checked_seed(seed), checked_sizes(n_atoms)
        names = range(len(conditions)) if indices is None else indices
        sizes = [self._size(each, seed, i) for i, each in zip(names, conditions, strict=True)]
        self.n_atoms.check(sizes)
        formulas = [each if isinstance(each, str) else None for each in conditions]
        drawn = zip(names, sizes, formulas, strict=True)
        latents = [self.draw_latent(n, seed, i, formula, temperature) for i, n, formula in drawn]

        def noised(place: int, molecule: Molecule, t: float, number: int) -> Latent:
            return self.noised(molecule, t, seed, names[place], number, temperature)

        times = refinement_times(self.config.refinements if refinements is None else refinements)
        found = refined(self, noised, latents, times, rtol, atol)
        return (one.named(names[one.index], seed) for one in found)

    def _size(self, condition: int | str | SizeRange | None, seed: int, index: int) -> int:
        if isinstance(condition, str):
            return sum(parse_formula(condition, self.vocabulary))
        return condition if isinstance(condition, int) else self.draw_n_atoms(seed, index, condition)

    def variations(
        self,
        molecule: MoleculeLike,
        n: int = 8,
        strength: float = STRENGTH,
        seed: int = 0,
        rtol: float = STANDARD,
        atol: float = STANDARD,
    ) -> list[Molecule]:
        """Return molecules near a molecule: noise is added as at time t = 1 - strength, and the flow removes it again.

        Atom i of each molecule comes from atom i of the given one; (seed, place in the list) fixes each of them.

        Args:
            molecule: the molecule to vary, of Enflow, RDKit or ASE, angstrom.
            n: the number of molecules.
            strength: the share of noise, 0 to 1; 0 = the molecule itself, 1 = any molecule of its size.
            seed: the seed of all noise.
            rtol, atol: relative and absolute tolerance of the solver, per molecule.

        Raises:
            ConfigError: the number, the strength or the seed is out of range.
            SolverError: the solver left the range of molecules.
            StructureError: the object is no molecule.
            VocabularyError: an element or a size that the model does not know.
        """
        if not 0 <= strength <= 1:
            raise ConfigError(f"found strength {strength}, expected 0 to 1")
        seed, n = checked_seed(seed), checked_count(n)
        (parent,) = as_molecules([molecule])
        starts = [self.noised(parent, 1 - strength, seed, index) for index in range(n)]
        found = self.decoded(starts, rtol, atol, 1 - strength)
        return molecules_in_order(one.named(one.index, seed) for one in found)

    def encode(
        self,
        molecules: MoleculeLike | Sequence[MoleculeLike],
        seed: int = 0,
        rtol: float = ENCODE_TOLERANCE,
        atol: float = ENCODE_TOLERANCE,
    ) -> list[Latent]:
        """Return the latents of molecules; `decode` is the inverse.

        Args:
            molecules: one molecule or several, of Enflow, RDKit or ASE, angstrom.
            seed: the seed of the dequantization, together with the place in the list.
            rtol, atol: relative and absolute tolerance of the solver, per molecule.

        Raises:
            SolverError: a path did not reach its end.
            StructureError: an object is no molecule.
            VocabularyError: an element or a size that the model does not know.
        """
        latents = {}
        parents = self._known(molecules)
        for end in self.solve(self._points(parents, checked_seed(seed)), 1.0, 0.0, rtol, atol):
            check_success(end.index, end.status)
            latents[end.index] = EncodedLatent(end.x, end.h, parents[end.index])
        return [latents[index] for index in range(len(parents))]

    def decode(
        self,
        latents: Sequence[Latent],
        rtol: float = ENCODE_TOLERANCE,
        atol: float = ENCODE_TOLERANCE,
        *,
        on_mismatch: OnMismatch = "warn",
    ) -> list[Molecule]:
        """Return the molecules of latents, with the properties "status" and "nfe".

        A latent of `encode` knows its molecule, and the result has the property "parent_distance": the largest
        displacement of an atom, angstrom. Between two modes of the density the map stretches an error of the solver by
        up to 1e9, so that such a molecule comes back as another one.

        Args:
            latents: points under the base, as `encode` returns them.
            rtol, atol: relative and absolute tolerance of the solver, per molecule.
            on_mismatch: "warn" or "raise" if a molecule comes back displaced by more than 0.001 angstrom or with other
                elements; "ignore" to compare only.

        Raises:
            SolverError: the solver left the range of molecules; a molecule does not come back, and "raise" was asked.
            ConfigError: `on_mismatch` is unknown.
        """
        decoded = molecules_in_order(self.decoded(latents, rtol, atol))
        return compared_with_parents(decoded, latents, on_mismatch)

    def log_prob(
        self,
        molecules: MoleculeLike | Sequence[MoleculeLike],
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
        A structure and a seed fix the score up to rounding, for any order of the atoms, any orientation and any batch:
        the canonical form of the structure seeds the noise. A velocity that is not equivariant depends on orientation.

        Args:
            molecules: one molecule or several, of Enflow, RDKit or ASE, in any position and orientation, angstrom.
            seed: the seed of all noise, together with the structure.
            target_error: the standard error, nats, at which draws stop; at most 32 are made.
            divergence: "hutchinson" for an estimated trace, "exact" for the exact trace.
            probes: Hutchinson probes per node; None = 3.
            draws: draws of the dequantizer; None = as many as the target error needs (2 with "exact").
            rtol, atol: relative and absolute tolerance, per molecule.

        Returns:
            One `Likelihood` per molecule, in their order; NaN if a path failed.

        Raises:
            ConfigError: an option is out of range.
            StructureError: an object is no molecule.
            VocabularyError: an element or a size that the model does not know.
        """
        given = self._known(molecules)
        options = EstimatorOptions(divergence, probes, draws, rtol, atol, target_error)
        found = dict(self.likelihoods(given, seed, options))
        return [found[index] for index in range(len(given))]

    def likelihoods(
        self,
        molecules: Sequence[Molecule],
        seed: int = 0,
        options: EstimatorOptions = EstimatorOptions(),  # noqa: B008 - frozen
        indices: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Likelihood]]:
        """Yield (index, likelihood) of each molecule as soon as it is known; see `log_prob`.

        Args:
            molecules: the molecules in any position and orientation, angstrom.
            seed: the seed of all noise, together with the structure.
            options: the options of the estimate.
            indices: the index of each molecule in the result; None = its place in the list.
        """
        names = range(len(molecules)) if indices is None else indices
        return LikelihoodEstimator(self, options).estimates(molecules, checked_seed(seed), names)

    def _known(self, molecules: MoleculeLike | Sequence[MoleculeLike]) -> list[Molecule]:
        """Return the molecules, all of which the vocabulary covers; an error names the molecule and its atom."""
        found = as_molecules(molecules)
        for place, molecule in enumerate(found, start=1):
            check_vocabulary(molecule, self.vocabulary, f"molecule {place}: " if len(found) > 1 else "")
        return found

    def _points(self, molecules: Sequence[Molecule], seed: int) -> list[Latent]:
        # In batches, since a learned dequantizer holds features of all pairs of atoms of its batch.
        points = list[Latent]()
        for first in range(0, len(molecules), DEQUANTIZE_BATCH):
            part = molecules[first : first + DEQUANTIZE_BATCH]
            rows = self.dequantize(part, seed, range(first, first + len(part))).rows()
            points += [point for point, _, _ in rows]
        return points
