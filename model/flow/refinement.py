"""Refinement of samples: a molecule is noised to a middle time, and the flow generates it again from there.

The noise is coupled to the molecule as in flow matching, so the state has the density that training had at that time: a
refinement leaves the distribution of a flow without errors as it is. Errors that a trained flow made before that time
are mostly forgotten. This is Restart sampling (Xu et al., NeurIPS 2023) with coupled noise. The passes before the last
are coarse (`ode.tolerances.COARSE`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from enflow.model.chem.molecule import Molecule
from enflow.model.config import MAX_REFINEMENTS, check_tolerances
from enflow.model.errors import ConfigError
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.ode.tolerances import COARSE, Accuracy, accuracy
from enflow.model.flow.states import Latent, Sample

if TYPE_CHECKING:
    from enflow.model.flow.components import FlowComponents

MIDDLE, STEP, SPREAD = 0.6, 0.1, 0.15
"""The times to which molecules are noised: around the middle, with a step between them, and at most so far from it
(docs/science.md compares them). A refinement from an early time repairs more molecules and damages more; so the times
of several refinements rise."""

PART = 1024
"""The number of samples that are refined together; the first are finished before the last begin."""

Noised = Callable[[int, Molecule, float, int], Latent]
"""Return the state of a molecule with noise: (its place, the molecule, time, number of the refinement, from 1)."""


def refinement_times(refinements: int) -> list[float]:
    """Return the times to which a molecule is noised, one after the other: 0.6, or 0.55 and 0.65, or 0.5, 0.6 and 0.7.

    Raises:
        ConfigError: the number of refinements is out of range.
    """
    if refinements not in range(MAX_REFINEMENTS + 1):  # 1.5 is not in it either
        raise ConfigError(f"found {refinements!r} refinements, expected an integer from 0 to {MAX_REFINEMENTS}")
    gaps = refinements - 1
    spread = min(SPREAD, STEP * gaps / 2)
    return [MIDDLE + spread * (2 * number / gaps - 1 if gaps else 0) for number in range(refinements)]


def refined(
    flow: "FlowComponents",
    noised: Noised,
    latents: Sequence[Latent],
    times: Sequence[float],
    rtol: float,
    atol: float,
    coarse: Accuracy = COARSE,
) -> Iterator[Sample]:
    """Yield the samples of latents; "nfe" counts the evaluations of all passes.

    Args:
        flow: the flow that solves the passes.
        noised: gives the states with which a refinement begins.
        latents: the latents of the samples at t = 0.
        times: the times of the refinements; none = the flow alone, in the order in which samples finish.
        rtol, atol: relative and absolute tolerance of the last pass.
        coarse: the accuracy of the passes before it.

    Raises:
        ConfigError: a tolerance is out of range.
    """
    check_tolerances(rtol, atol)
    part = PART if times else max(1, len(latents))
    for first in range(0, len(latents), part):
        points = dict(enumerate(latents[first : first + part], first))
        yield from _refined_part(flow, noised, points, times, (rtol, atol), coarse)


def _refined_part(
    flow: "FlowComponents",
    noised: Noised,
    points: dict[int, Latent],
    times: Sequence[float],
    tolerances: tuple[float, float],
    coarse: Accuracy,
) -> Iterator[Sample]:
    nfe = dict.fromkeys(points, 0)
    for number, t in enumerate([0.0, *times]):
        places, molecules, following = list(points), dict[int, Molecule](), times[number:]
        factor, ending = accuracy(len(following), coarse)
        rtol, atol = (factor * each for each in tolerances)
        for found in flow.decoded(list(points.values()), rtol, atol, t, ending):
            place = places[found.index]
            nfe[place] += found.nfe
            if following and found.molecule is not None and found.status == Status.SUCCESS:
                molecules[place] = found.molecule
            else:
                yield replace(found, index=place, nfe=nfe[place], refinements=number).counted()
        points = {place: noised(place, molecules[place], following[0], number + 1) for place in sorted(molecules)}
