"""FragmentFlow: a normalizing flow over the atoms around a given fragment."""

from collections.abc import Iterator, Sequence
from typing import Any

from enflow.model.chem.connectivity import opened
from enflow.model.chem.molecule import Molecule, MoleculeLike, as_molecules, check_vocabulary
from enflow.model.config import ENCODE_TOLERANCE, STANDARD
from enflow.model.errors import ConfigError
from enflow.model.flow.arguments import checked_count, checked_seed, checked_sizes
from enflow.model.flow.completion import Completion, completion_of, grown
from enflow.model.flow.completion_estimator import CompletionEstimator
from enflow.model.flow.estimate import Likelihood
from enflow.model.flow.estimator_options import Divergence, EstimatorOptions
from enflow.model.flow.fragment_components import FragmentComponents, formula_refused
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


class FragmentFlow(FragmentComponents):
    """A continuous normalizing flow over the elements and positions of N - M atoms around M given atoms.

    For the other atoms h(0) ~ N(0, 1), and x(0) ~ N(m, 1) with the place m in front of the open bonds of the fragment
    (see `fragment_prior`); d(x, h)/dt = velocity from t = 0 to 1, where the fragment stands still; types by `quantize`
    of the dequantizer.

    Args:
        config: the architecture, with the dynamics "fragment" and the dequantizer "truncated".
    """

    def sample(
        self,
        n: int | None = None,
        *,
        fragment: MoleculeLike,
        attach: Sequence[int] | None = None,
        n_atoms: int | Sequence[int | tuple[int, int] | None] | None = None,
        seed: int = 0,
        rtol: float = STANDARD,
        atol: float = STANDARD,
        temperature: float = 1.0,
        refinements: int | None = None,
    ) -> list[Molecule]:
        """Return molecules that begin with the fragment's atoms, where they are; (seed, index) fixes each of them.

        They have the properties "status", "nfe", "seed", "index", "refinements" (if there were any), "fragment_atoms"
        (the number of the fragment's atoms) and "connected" (all atoms are in one piece, by their distances).

        Args:
            n: the number of molecules; None = 1, or the length of the list `n_atoms`.
            fragment: the given atoms, in one piece or several, of Enflow, RDKit or ASE, angstrom.
            attach: atoms of the fragment, counted from 1, at which it grows: a hydrogen atom is removed, a heavy atom
                loses all its hydrogen atoms; None = the fragment as it is. See `connectivity.opened`.
            n_atoms: the number of atoms of all molecules or of each, with the M of the fragment that stay; None = drawn
                from p(N | N > M). The size of a molecule in the list may be a range, as for `MoleculeFlow.sample`.
            seed: the seed of all noise.
            rtol, atol: relative and absolute tolerance of the solver, per molecule.
            temperature, refinements: see `MoleculeFlow.sample`.

        Raises:
            ConfigError: n and a list of sizes disagree; an option out of range.
            SolverError: the solver left the range of molecules.
            VocabularyError: an element or a size that the model does not know.
            StructureError: a size that leaves no atom beside the fragment; no molecule; an atom that is not there.

        Example:
            `flow.sample(4, fragment=benzene, attach=[1], n_atoms=15)` are four molecules around a phenyl group.
        """
        found = self.samples(
            _sizes(n, n_atoms),
            seed,
            rtol,
            atol,
            temperature=temperature,
            refinements=refinements,
            fragment=fragment,
            attach=attach,
        )
        return molecules_in_order(found)

    def samples(
        self,
        n_atoms: Sequence[SizeOrFormula],
        seed: int = 0,
        rtol: float = STANDARD,
        atol: float = STANDARD,
        indices: Sequence[int] | None = None,
        temperature: float = 1.0,
        refinements: int | None = None,
        *,
        fragment: MoleculeLike,
        attach: Sequence[int] | None = None,
    ) -> Iterator[Sample]:
        """Return an iterator over the samples in the order in which they finish; see `sample`.

        Args:
            n_atoms: the number of atoms of each molecule, a range of it, or None.
            seed, rtol, atol, temperature, refinements, fragment, attach: see `sample`.
            indices: the index of each molecule, which fixes it together with the seed; None = its place in the list.

        Raises:
            ConfigError: a formula; this model draws the other elements itself.
        """
        seed, sizes = checked_seed(seed), checked_sizes(n_atoms)
        (whole,) = as_molecules([fragment])
        check_vocabulary(whole, self.vocabulary)
        given = opened(whole, attach)
        names = range(len(sizes)) if indices is None else indices
        latents = []
        for index, size in zip(names, sizes, strict=True):
            if isinstance(size, str):
                raise formula_refused(size)
            latents.append(self.draw_completion(given, size, seed, index, temperature))

        def noised(place: int, molecule: Molecule, t: float, number: int) -> Latent:
            return self.noised_completion(completion_of(molecule, given), t, seed, names[place], number, temperature)

        times = refinement_times(self.config.refinements if refinements is None else refinements)
        found = refined(self, noised, latents, times, rtol, atol)
        return (grown(one.named(names[one.index], seed), given) for one in found)

    def encode(
        self,
        completions: Sequence[Completion],
        seed: int = 0,
        rtol: float = ENCODE_TOLERANCE,
        atol: float = ENCODE_TOLERANCE,
    ) -> list[Latent]:
        """Return the latents of molecules; `decode` is the inverse.

        Raises:
            SolverError: a path did not reach its end.
            VocabularyError: an element or a size that the model does not know.
        """
        seed = checked_seed(seed)
        points = [self.dequantize_completion(each, seed, index)[0] for index, each in enumerate(completions)]
        latents = {}
        for end in self.solve(points, 1.0, 0.0, rtol, atol):
            check_success(end.index, end.status)
            latents[end.index] = EncodedLatent(end.x, end.h, completions[end.index].ordered)
        return [latents[index] for index in range(len(completions))]

    def decode(
        self,
        latents: Sequence[Latent],
        rtol: float = ENCODE_TOLERANCE,
        atol: float = ENCODE_TOLERANCE,
        *,
        on_mismatch: OnMismatch = "warn",
    ) -> list[Molecule]:
        """Return the molecules of latents, centred, the fragment first, with the properties "status" and "nfe".

        A molecule that was encoded is compared with itself, as `MoleculeFlow.decode` does.

        Raises:
            SolverError: the solver left the range of molecules; a molecule does not come back, and "raise" was asked.
        """
        decoded = molecules_in_order(self.decoded(latents, rtol, atol))
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
        return CompletionEstimator(self, options).estimates(completions, checked_seed(seed), draws)


def _sizes(n: Any, n_atoms: Any) -> list[SizeOrFormula]:
    sizes: list[SizeOrFormula] = [*checked_sizes(n_atoms, 1 if n is None else checked_count(n))]
    if n not in (None, len(sizes)):
        raise ConfigError(f"found n = {n} and {len(sizes)} entries of n_atoms, expected one of them")
    return sizes
