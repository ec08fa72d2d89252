"""Refinement of samples: a molecule is noised to a middle time, and the flow generates it again from there.

The noise is coupled to the molecule as in flow matching, so the state has the density that training had at that time: a
refinement leaves the distribution of a flow without errors as it is. Errors that a trained flow made before that time
are mostly forgotten. This is Restart sampling (Xu et al., NeurIPS 2023) with coupled noise.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from enflow.model.chem.molecule import Molecule
from enflow.model.config import MAX_REFINEMENTS
from enflow.model.errors import ConfigError
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.ode.tolerances import roughness
from enflow.model.flow.states import Latent, Sample

REFINEMENT_TIME = 0.6
"""The time to which a molecule is noised (docs/science.md compares others)."""

PART = 1024
"""The number of samples that are refined together; the first are finished before the last begin."""

Decode = Callable[[Sequence[Latent], float, float], Iterator[Sample]]
"""Solve from states at a time to t = 1: (states, time, factor on the tolerance)."""

Noised = Callable[[int, Molecule, int], Latent]
"""Return the state at REFINEMENT_TIME of a molecule, by its place and the number of the refinement, from 1."""


def check_refinements(refinements: int) -> int:
    """Return the number of refinements of a sample.

    Raises:
        ConfigError: it is out of range.
    """
    if not 0 <= refinements <= MAX_REFINEMENTS:
        raise ConfigError(f"found {refinements} refinements, expected 0 to {MAX_REFINEMENTS}")
    return refinements


def refined(
    decode: Decode, noised: Noised, latents: Sequence[Latent], refinements: int, time: float = REFINEMENT_TIME
) -> Iterator[Sample]:
    """Yield the samples of latents; "nfe" counts the evaluations of all passes.

    Args:
        decode: solves a pass.
        noised: gives the states with which a refinement begins.
        latents: the latents of the samples at t = 0.
        refinements: the number of refinements; 0 = the flow alone, in the order in which samples finish.
        time: the time of the states with which a refinement begins.
    """
    part = PART if refinements else max(1, len(latents))
    for first in range(0, len(latents), part):
        points = dict(enumerate(latents[first : first + part], first))
        yield from _refined_part(decode, noised, points, refinements, time)


def _refined_part(
    decode: Decode, noised: Noised, points: dict[int, Latent], refinements: int, time: float
) -> Iterator[Sample]:
    nfe, t = dict.fromkeys(points, 0), 0.0
    for number in range(refinements + 1):
        left, molecules = refinements - number, dict[int, Molecule]()
        places = list(points)
        for found in decode(list(points.values()), t, roughness(left)):
            place = places[found.index]
            nfe[place] += found.nfe
            if left and found.molecule is not None and found.status == Status.SUCCESS:
                molecules[place] = found.molecule
            else:
                yield replace(found, index=place, nfe=nfe[place]).counted()
        points = {place: noised(place, molecules[place], number + 1) for place in sorted(molecules)}
        t = time
