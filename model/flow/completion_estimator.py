"""The estimator of the log-likelihoods of completions: the other atoms of a molecule, given a fragment."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from enflow.model.flow.completion import Completion, relative_to_fragment
from enflow.model.flow.estimate import Likelihood, combine
from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.likelihood import DrawState, Terms, complete_draw, quadrature_tolerance
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.batched_solver import FinalState
from enflow.model.flow.probes import draw_probes
from enflow.model.flow.states import Latent

if TYPE_CHECKING:
    from enflow.model.flow.fragment_flow import FragmentFlow


class CompletionEstimator:
    """The estimator of the log-likelihoods of completions; `FragmentFlow.log_prob` says what is estimated.

    Args:
        flow: the flow.
        options: the options of the estimate.
    """

    def __init__(self, flow: "FragmentFlow", options: EstimatorOptions) -> None:
        self._flow = flow
        self._options = options

    def estimates(self, completions: Sequence[Completion], seed: int, draws: int) -> list[Likelihood]:
        """Return the likelihoods of molecules, each from so many draws."""
        wanted = [(i, draw) for i in range(len(completions)) for draw in range(draws)]
        points = [self._flow.dequantize_completion(completions[i], seed, i, draw) for i, draw in wanted]
        found = {}
        paths = self._flow.solve([x for x, _ in points], 1.0, 0.0, *self._options.path_tolerances, record=True)
        for end in paths:
            i, draw = wanted[end.index]
            state = self._state(completions[i], seed, i, draw, *points[end.index])
            self._complete(state, end)
            found[end.index] = state.result(end.nfe)
        finished = [found[place] for place in range(len(wanted))]
        free = [one.molecule.n_atoms - len(one.given) for one in completions]
        exact = self._options.exact
        return [combine(finished[i * draws : (i + 1) * draws], n, 0.0, exact) for i, n in enumerate(free)]

    @torch.no_grad()
    def start_draw(self, completion: Completion, seed: int, index: int, draw: int) -> tuple[Latent, DrawState]:
        """Return the initial point of a draw of a likelihood, at t = 1, and its state before the path."""
        point, log_q = self._flow.dequantize_completion(completion, seed, index, draw)
        return point, self._state(completion, seed, index, draw, point, log_q)

    def _state(
        self, completion: Completion, seed: int, index: int, draw: int, point: Latent, log_q: float
    ) -> DrawState:
        probes = None
        if not self._options.exact:
            source = generator(seed, index, f"probe:{draw}")
            positions = point.x.double().cpu().numpy()
            probes = draw_probes(source, positions, point.h.shape[-1], self._options.probes_per_node)
            # The flag and the types of the fragment are no coordinates: the trace over them is 0.
            probes.signs[:, : len(completion.given), 3:] = 0.0
            probes.signs[..., -1] = 0.0
        return DrawState(Terms(log_q, 0.0), probes, quadrature_tolerance(self._options.rtol))

    @torch.no_grad()
    def _complete(self, state: DrawState, end: FinalState) -> None:
        state.pieces = end.path
        base = float(self._flow.log_prob_base(end.x[None], end.h[None], end.mask))
        x, h = relative_to_fragment(end.x[None], end.h[None])
        state.finish_path(base, x[0], h[0], end.status)
        complete_draw(state, self._flow.velocity, self._flow.dtype)
