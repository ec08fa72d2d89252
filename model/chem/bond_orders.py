"""Bond orders and formal charges for given neighbours: an exact search under the valences."""

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from enflow.model.chem.elements import STABILITY_TABLE, SYMBOLS


class ValenceState(NamedTuple):
    """A combination of bonds and charge that gives an atom a closed shell."""

    bonds: int
    """Sum of the bond orders of the atom."""
    charge: int
    cost: float
    """Penalty of the state; 0 for the neutral one."""


STATES: Mapping[int, tuple[ValenceState, ...]] = MappingProxyType(
    {
        1: (ValenceState(1, 0, 0.0),),
        6: (ValenceState(4, 0, 0.0), ValenceState(3, -1, 5.0), ValenceState(3, 1, 6.0)),
        7: (ValenceState(3, 0, 0.0), ValenceState(4, 1, 2.0), ValenceState(2, -1, 3.0)),
        8: (ValenceState(2, 0, 0.0), ValenceState(1, -1, 2.0), ValenceState(3, 1, 4.0)),
        9: (ValenceState(1, 0, 0.0),),
    }
)
"""Atomic number -> states, cheapest first; the costs prefer a nitro group and an ammonium to a carbanion."""

MAX_CHOICES = 500
"""Choices of states that are tried; a pair of charges among nine heavy atoms is found well before this limit."""

MAX_UNSATURATED = 40
"""Largest number of bonds that may be multiple; with more there is no search."""


class Assignment(NamedTuple):
    """Orders of the given bonds and charges of the atoms."""

    orders: tuple[int, ...]
    charges: tuple[int, ...]


def assign_orders(
    atomic_numbers: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    distances: Sequence[float],
    charge: int,
    max_cost: float = math.inf,
) -> Assignment | None:
    """Find the bond orders that give every atom a closed shell at the least cost of charges.

    Among assignments of equal cost the one whose bond lengths fit best wins.

    Args:
        atomic_numbers: atomic number of each atom.
        pairs: the bonded atoms.
        distances: length of each bond in angstrom; compared with the lengths of the stability table.
        charge: total charge.
        max_cost: the largest cost of charges; 0 = no charged atoms.

    Returns:
        The assignment; None where there is none or the search would take too long.
    """
    degrees = Counter(atom for pair in pairs for atom in pair)
    options = [[s for s in STATES.get(z, ()) if s.bonds >= degrees[i]] for i, z in enumerate(atomic_numbers)]
    if not all(options):
        return None
    misfits = [_misfits(atomic_numbers[i], atomic_numbers[j], d) for (i, j), d in zip(pairs, distances, strict=True)]
    best, best_cost, best_misfit = None, max_cost, math.inf
    for cost, states in _cheapest_first(options, charge, max_cost):
        if cost > best_cost:
            break
        misfit, orders = _distribute(tuple(state.bonds - degrees[i] for i, state in enumerate(states)), pairs, misfits)
        if misfit < best_misfit:
            best, best_cost, best_misfit = Assignment(orders, tuple(s.charge for s in states)), cost, misfit
    return best


def charge_cost(atomic_number: int, charge: int) -> float:
    """Return the penalty of a formal charge, in the unit of the costs of `STATES`."""
    costs = [state.cost for state in STATES.get(atomic_number, ()) if state.charge == charge]
    return min(costs, default=10.0 * abs(charge))


def _cheapest_first(
    options: list[list[ValenceState]], charge: int, max_cost: float
) -> Iterator[tuple[float, list[ValenceState]]]:
    """Yield the choices of one state per atom with a total charge by rising cost, of the first `MAX_CHOICES` of all.

    A choice is an integer with two bits for each open atom, the first atom highest: choices of equal cost come in the
    order of their atoms, and a choice without the right charge costs no list.
    """
    states = [known[0] for known in options]
    open_atoms = [(atom, known) for atom, known in enumerate(options) if len(known) > 1]
    shifts = range(2 * len(open_atoms) - 2, -1, -2)
    heap = [(math.fsum(state.cost for state in states), 0, 0, sum(state.charge for state in states))]
    for _ in range(MAX_CHOICES):
        if not heap or heap[0][0] > max_cost:
            return
        cost, start, chosen, total = heapq.heappop(heap)
        if total == charge:
            for (atom, known), shift in zip(open_atoms, shifts, strict=True):
                states[atom] = known[chosen >> shift & 3]
            yield cost, states
        for at in range(start, len(open_atoms)):  # from the last changed atom on: each choice comes once
            known, shift = open_atoms[at][1], shifts[at]
            k = (chosen >> shift & 3) + 1
            if k < len(known):
                old, new = known[k - 1], known[k]
                dearer, more = cost + new.cost - old.cost, new.charge - old.charge
                heapq.heappush(heap, (dearer, at, chosen + (1 << shift), total + more))


def _misfits(first: int, second: int, distance: float) -> tuple[float, float, float]:
    """Return the squared difference in picometre to the table's length for the orders 1 to 3; infinite without one."""
    names = (SYMBOLS[first - 1], SYMBOLS[second - 1])
    lengths = STABILITY_TABLE.lengths
    known = [lengths[order].get(names, lengths[order].get(names[::-1], math.inf)) for order in (1, 2, 3)]
    single, double, triple = ((100 * distance - length) ** 2 for length in known)
    return single, double, triple


def _distribute(
    spare: tuple[int, ...], pairs: Sequence[tuple[int, int]], misfits: Sequence[tuple[float, float, float]]
) -> tuple[float, tuple[int, ...]]:
    """Return the least misfit of orders that use all spare bonds of every atom, and the orders; infinite without."""
    multiple = [k for k, (i, j) in enumerate(pairs) if spare[i] and spare[j]]
    last = {atom: at for at, k in enumerate(multiple) for atom in pairs[k]}
    if len(multiple) > MAX_UNSATURATED or any(count and atom not in last for atom, count in enumerate(spare)):
        return math.inf, ()

    @cache
    def least(at: int, left: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        if at == len(multiple):
            return 0.0, ()
        best: tuple[float, tuple[int, ...]] = math.inf, ()
        ends = pairs[multiple[at]]
        for more in range(min(2, *(left[atom] for atom in ends)) + 1):
            if any(last[atom] == at and left[atom] != more for atom in ends):
                continue
            rest = tuple(count - more * (atom in ends) for atom, count in enumerate(left))
            cost, orders = least(at + 1, rest)
            cost += misfits[multiple[at]][more]
            if cost < best[0]:
                best = cost, (more, *orders)
        return best

    misfit, extra = least(0, spare)
    orders = [1] * len(pairs)
    for k, more in zip(multiple, extra, strict=False):
        orders[k] += more
    single = math.fsum(misfits[k][0] for k in set(range(len(pairs))) - set(multiple))
    return misfit + single, tuple(orders)
