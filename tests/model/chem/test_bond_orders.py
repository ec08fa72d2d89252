"""The search is exact: on small graphs it agrees with an exhaustive search."""

import itertools

import numpy as np
import pytest

from enflow.model.chem.bond_orders import STATES, Assignment, assign_orders
from enflow.model.chem.elements import ATOMIC_NUMBERS, STABILITY_TABLE, SYMBOLS


def assign(symbols: str, pairs: list[tuple[int, int]], orders: list[int], charge: int = 0) -> Assignment | None:
    """Assign orders to bonds that have exactly the table's length for the given orders."""
    numbers = [ATOMIC_NUMBERS[s] for s in symbols]
    return assign_orders(
        numbers, pairs, [length(symbols[i], symbols[j], o) for (i, j), o in zip(pairs, orders, strict=True)], charge
    )


def length(first: str, second: str, order: int) -> float:
    table = STABILITY_TABLE.lengths[order]
    return table.get((first, second), table.get((second, first), np.inf)) / 100


@pytest.mark.parametrize(
    ("name", "symbols", "pairs", "orders", "charges"),
    [
        ("methane", "CHHHH", [(0, 1), (0, 2), (0, 3), (0, 4)], [1, 1, 1, 1], [0] * 5),
        ("nitrogen", "NN", [(0, 1)], [3], [0, 0]),
        ("carbon monoxide", "CO", [(0, 1)], [3], [-1, 1]),
        ("hydrogen cyanide", "HCN", [(0, 1), (1, 2)], [1, 3], [0, 0, 0]),
        ("carbon dioxide", "OCO", [(0, 1), (1, 2)], [2, 2], [0, 0, 0]),
        ("nitrous acid anion's ester", "CHHHNOO", [(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6)], [1, 1, 1, 1, 2, 1],
         [0, 0, 0, 0, 1, 0, -1]),
        ("hydrazoic acid", "HNNN", [(0, 1), (1, 2), (2, 3)], [1, 2, 2], [0, 0, 1, -1]),
        ("butadiene", "CCCCHHHHHH", [(0, 1), (1, 2), (2, 3), (0, 4), (0, 5), (1, 6), (2, 7), (3, 8), (3, 9)],
         [2, 1, 2, 1, 1, 1, 1, 1, 1], [0] * 10),
    ],
)  # fmt: skip
def test_textbook(name: str, symbols: str, pairs: list[tuple[int, int]], orders: list[int], charges: list[int]) -> None:
    assert assign(symbols, pairs, orders) == Assignment(tuple(orders), tuple(charges))


def test_lengths_choose_between_kekule_forms() -> None:
    ring = [(i, (i + 1) % 6) for i in range(6)]
    hydrogens = [(i, i + 6) for i in range(6)]
    for start in (0, 1):
        orders = [1 + (i + start) % 2 for i in range(6)] + 6 * [1]
        found = assign("CCCCCCHHHHHH", ring + hydrogens, orders)
        assert found is not None
        assert found.orders == tuple(orders)


def test_charge() -> None:
    ammonium = [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert assign("NHHHH", ammonium, [1] * 4, charge=1) == Assignment((1, 1, 1, 1), (1, 0, 0, 0, 0))
    assert assign("NHHHH", ammonium, [1] * 4, charge=0) is None


def test_no_answer() -> None:
    assert assign("CHHH", [(0, 1), (0, 2), (0, 3)], [1, 1, 1]) is None  # a radical
    assert assign("CHHHHH", [(0, i) for i in range(1, 6)], [1] * 5) is None  # five neighbours
    assert assign("HC", [], []) is None  # bonds wanted, no neighbours
    assert assign_orders([16, 1, 1], [(0, 1), (0, 2)], [1.34, 1.34], 0) is None  # no states for sulphur


def everything(numbers: list[int], pairs: list[tuple[int, int]], distances: list[float]) -> tuple[float, float] | None:
    """Return the least charge cost and the least misfit at that cost, over all orders and states."""
    best: tuple[float, float] | None = None
    for orders in itertools.product((1, 2, 3), repeat=len(pairs)):
        sums = [sum(o for o, pair in zip(orders, pairs, strict=True) if i in pair) for i in range(len(numbers))]
        choices = [[s for s in STATES[z] if s.bonds == total] for z, total in zip(numbers, sums, strict=True)]
        misfit = sum(
            (100 * (d - length(SYMBOLS[numbers[i] - 1], SYMBOLS[numbers[j] - 1], o))) ** 2
            for (i, j), d, o in zip(pairs, distances, orders, strict=True)
        )
        for states in itertools.product(*choices):
            if not sum(s.charge for s in states) and np.isfinite(misfit):
                rank = (sum(s.cost for s in states), misfit)
                best = rank if best is None else min(best, rank)
    return best


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_trying_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.choice([6, 6, 7, 8, 1], 6).tolist()
    edges = [(i, j) for i in range(6) for j in range(i)]
    pairs = [edges[k] for k in sorted(rng.choice(len(edges), 6, replace=False))]
    distances = rng.uniform(1.1, 1.6, len(pairs)).tolist()
    found, expected = assign_orders(numbers, pairs, distances, 0), everything(numbers, pairs, distances)
    if found is None or expected is None:
        assert found is expected is None
        return
    cost = sum(next(s.cost for s in STATES[z] if s.charge == q) for z, q in zip(numbers, found.charges, strict=True))
    misfit = sum(
        (100 * (d - length(SYMBOLS[numbers[i] - 1], SYMBOLS[numbers[j] - 1], o))) ** 2
        for (i, j), d, o in zip(pairs, distances, found.orders, strict=True)
    )
    assert (cost, misfit) == pytest.approx(expected)
    assert assign_orders(numbers, pairs, distances, 0, max_cost=0.0) == (None if cost else found)
