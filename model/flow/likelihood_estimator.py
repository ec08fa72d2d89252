"""The estimator of log-likelihoods: it draws, solves and integrates until each molecule has its target error."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from enflow.model.chem.molecule import Molecule
from enflow.model.flow.canonical_form import CanonicalForm
from enflow.model.flow.estimate import Draw, Likelihood, combine, further_draws
from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.likelihood import (
    DrawState,
    Terms,
    complete_draw,
    quadrature_tolerance,
)
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.batched_solver import FinalState
from enflow.model.flow.probes import draw_probes
from enflow.model.flow.states import Latent

if TYPE_CHECKING:
    from enflow.model.flow.components import FlowComponents


class LikelihoodEstimator:
    """The estimator of the log-likelihoods of one flow; `MoleculeFlow.log_prob` says what is estimated.

    `estimates` is the whole estimator. The other methods are its parts, which the engine combines with other requests.

    Args:
        flow: the flow.
        options: the options of the estimate.
    """

    def __init__(self, flow: "FlowComponents", options: EstimatorOptions) -> None:
        self._flow = flow
        self._options = options

    @property
    def first_draws(self) -> int:
        """The number of draws of the first round; 1 by default if the dequantizer draws no noise."""
        return self._options.first_draws if self._flow.dequantizer.random or self._options.draws else 1

    def estimates(
        self, molecules: Sequence[Molecule], seed: int, indices: Sequence[int]
    ) -> Iterator[tuple[int, Likelihood]]:
        """Yield (index, likelihood) of each molecule as soon as it is known.

        Args:
            molecules: the molecules, angstrom.
            seed: the seed of all noise, together with the structure.
            indices: the index of each molecule in the result.
        """
        forms = [self._flow.canonical_form(molecule) for molecule in molecules]
        finished: list[list[Draw]] = [[] for _ in forms]
        wanted = [(place, draw) for place in range(len(forms)) for draw in range(self.first_draws)]
        while wanted:
            expected = Counter(place for place, _ in wanted)
            following = list[tuple[int, int]]()
            for place, draw in self.draws(forms, seed, wanted):
                finished[place].append(draw)
                expected[place] -= 1
                if expected[place]:
                    continue
                n_atoms = forms[place].molecule.n_atoms
                more = self.further_draws(finished[place], n_atoms)
                following += [(place, len(finished[place]) + i) for i in range(more)]
                if not more:
                    yield indices[place], self.combine(finished[place], n_atoms)
                    finished[place] = []
            wanted = following

    def further_draws(self, draws: Sequence[Draw], n_atoms: int) -> int:
        """Return the number of further draws that a molecule needs for its target error; 0 = it is finished."""
        return further_draws(draws, n_atoms, self._options, self._flow.dequantizer.random)

    def combine(self, draws: Sequence[Draw], n_atoms: int) -> Likelihood:
        """Return the likelihood of a molecule of N atoms from its draws."""
        size = torch.tensor([n_atoms], device=self._flow.device)
        log_n_atoms = float(self._flow.n_atoms.log_prob(size))
        return combine(draws, n_atoms, log_n_atoms, self._options.exact, self._flow.dequantizer.random)

    def start_draw(self, form: CanonicalForm, seed: int, draw: int) -> tuple[Latent, DrawState]:
        """Return the initial point of a draw, at t = 1 in flow space, and its state before the path.

        Args:
            form: the structure.
            seed: the seed of all noise, together with the structure.
            draw: the number of the draw; draws 2 k and 2 k + 1 are a mirrored pair where the options allow it.
        """
        point, terms = self._point(form, seed, draw)
        return point, self._state(form, seed, draw, terms, point.h.shape[-1])

    def _point(self, form: CanonicalForm, seed: int, draw: int) -> tuple[Latent, Terms]:
        paired = self._options.paired and self._flow.dequantizer.random
        number, mirrored = (draw // 2, bool(draw % 2)) if paired else (draw, False)
        ((point, log_q, ladj),) = self._flow.dequantize([form.molecule], seed, [form.key], number, mirrored).rows()
        return point, Terms(log_q, ladj, number if paired else None)

    def _state(self, form: CanonicalForm, seed: int, draw: int, terms: Terms, n_features: int) -> DrawState:
        probes, options = None, self._options
        if not options.exact:
            source, positions = generator(seed, form.key, f"probe:{draw}"), form.molecule.positions
            probes = draw_probes(source, positions, n_features, options.probes_per_node)
            if self._flow.fixed_features:
                probes.signs[..., 3:] = 0.0  # the trace over fixed features is 0, and so is its estimate
        return DrawState(terms, probes, quadrature_tolerance(options.rtol))

    def draws(
        self, forms: Sequence[CanonicalForm], seed: int, wanted: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, Draw]]:
        """Yield (place, draw) for each wanted (place, number of the draw), in the order in which they finish.

        Args:
            forms: the structures.
            seed: the seed of all noise, together with the structure.
            wanted: the place of a structure in `forms`, and the number of the draw.
        """
        points, terms = zip(*(self._point(forms[place], seed, draw) for place, draw in wanted), strict=True)
        for end in self._flow.solve(points, 1.0, 0.0, *self._options.path_tolerances, record=True):
            place, draw = wanted[end.index]
            # The probes are drawn only now: those of 10,000 molecules of 18 atoms would take a gigabyte for each draw.
            state = self._state(forms[place], seed, draw, terms[end.index], end.h.shape[-1])
            self._complete(state, end)
            yield place, state.result(end.nfe)

    @torch.no_grad()
    def _complete(self, state: DrawState, end: FinalState) -> None:
        base = float(self._flow.log_prob_base(end.x[None], end.h[None], end.mask))
        state.pieces = end.path
        state.finish_path(base, end.x, end.h, end.status)
        complete_draw(state, self._flow.velocity, self._flow.dtype)
