"""P(types | N) sums to one over all sequences of types, and samples follow it."""

import itertools
import math
from collections import Counter

import pytest
import torch

from enflow.model.config import DequantizerConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.composition_prior import CompositionPrior, types_of
from enflow.model.flow.dequantization import build
from enflow.model.flow.noise import generator

SEEN = torch.tensor([[4, 1, 0]] * 5 + [[2, 0, 1]] * 3 + [[1, 1, 1]] + [[2, 1, 0]] * 2)


@pytest.fixture
def prior() -> CompositionPrior:
    prior = CompositionPrior(n_types=3, capacity=6)
    prior.fit(SEEN)
    return prior


@pytest.mark.parametrize("n_atoms", [1, 3, 5])
def test_probabilities_of_all_sequences_of_types_sum_to_one(prior: CompositionPrior, n_atoms: int) -> None:
    types = torch.tensor(list(itertools.product(range(3), repeat=n_atoms)))
    log_p = prior.log_prob(types, torch.ones_like(types, dtype=torch.bool))
    assert torch.logsumexp(log_p, 0).item() == pytest.approx(0, abs=1e-12)
    orders = {tuple(sorted(row)) for row in types.tolist()}
    for order in orders:  # all arrangements of a composition are equally likely
        same = [p for row, p in zip(types.tolist(), log_p.tolist(), strict=True) if tuple(sorted(row)) == order]
        assert max(same) == pytest.approx(min(same), abs=1e-12)


def test_a_composition_of_the_data_has_its_share(prior: CompositionPrior) -> None:
    mask = torch.ones(1, 5, dtype=torch.bool)
    log_p = prior.log_prob(torch.tensor([[0, 0, 1, 0, 0]]), mask)
    assert log_p.item() == pytest.approx(math.log((5 + 1 / 21) / 6) - math.log(5), abs=1e-12)  # five places for the 1


def test_padding_and_other_rows_change_nothing(prior: CompositionPrior) -> None:
    types = torch.tensor([[0, 2, 0, 1, 1], [0, 0, 0, 0, 1]])
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    together = prior.log_prob(types, mask)
    alone = prior.log_prob(types[:1, :3], mask[:1, :3])
    assert together[:1].tolist() == alone.tolist()


@pytest.mark.parametrize("n_atoms", [3, 4])
def test_samples_follow_the_table(prior: CompositionPrior, n_atoms: int) -> None:
    drawn = Counter(tuple(prior.sample(n_atoms, generator(0, i, "composition"))) for i in range(3000))
    assert {sum(counts) for counts in drawn} == {n_atoms}
    for counts in itertools.product(range(n_atoms + 1), repeat=3):
        if sum(counts) == n_atoms:
            types = types_of(counts)[None]
            arrangements = math.factorial(n_atoms) / math.prod(map(math.factorial, counts))
            expected = arrangements * prior.log_prob(types, torch.ones_like(types, dtype=torch.bool)).exp().item()
            assert drawn[counts] / 3000 == pytest.approx(expected, abs=4 * math.sqrt(expected / 3000) + 1e-3)


def test_more_compositions_than_the_capacity_are_an_error() -> None:
    with pytest.raises(ValueError, match="found 4 compositions, expected at most 2"):
        CompositionPrior(n_types=3, capacity=2).fit(SEEN)


def test_seven_elements_with_given_types_are_an_error() -> None:
    with pytest.raises(ConfigError, match="vocabulary: found 7 elements, expected at most 6 if types are given"):
        build(DequantizerConfig("given"), (1, 6, 7, 8, 9, 16, 17))
