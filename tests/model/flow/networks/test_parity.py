"""Types given an even number of odd ones, against the sum over all of them."""

import itertools
import math

import pytest
import torch

from enflow.model.config import VectorEGNNConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.networks.parity import SURE, condition_on_parity

ODD = torch.tensor([True, False, True])


def by_hand(logits: torch.Tensor) -> torch.Tensor:
    """Probabilities (N, 3) of each atom's type, of all ways with an even number of odd ones."""
    total, each = torch.zeros_like(logits), torch.log_softmax(logits, -1)
    for types in itertools.product(range(3), repeat=len(logits)):
        if not sum(bool(ODD[kind]) for kind in types) % 2:
            chance = torch.stack([each[i, kind] for i, kind in enumerate(types)]).sum().exp()
            for i, kind in enumerate(types):
                total[i, kind] += chance
    return total / total.sum(-1, keepdim=True)


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0, 15.0])
def test_it_is_bayes_rule(scale: float) -> None:
    sizes = [5, 4, 3, 1]
    logits = scale * torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mask = torch.arange(5) < torch.tensor(sizes)[:, None]
    found = torch.softmax(condition_on_parity(logits, mask, ODD), -1)
    for row, n in enumerate(sizes):
        # The sign of an undecided atom is made smooth.
        torch.testing.assert_close(found[row, :n], by_hand(logits[row, :n]), rtol=0, atol=1e-4)


def test_the_last_atom_follows_from_the_others_and_two_are_free() -> None:
    sure = torch.tensor([[9.0, -9.0, -9.0], [-9.0, 9.0, -9.0]])  # one odd atom, one even
    open_atom = torch.tensor([[0.0, math.log(2.0), 0.0]])  # as likely odd as even
    mask = torch.ones(1, 3, dtype=torch.bool)
    one = torch.softmax(condition_on_parity(torch.cat([sure, open_atom])[None], mask, ODD), -1)[0, 2]
    torch.testing.assert_close(one, torch.tensor([0.5, 0.0, 0.5]), rtol=0, atol=1e-6)
    two = torch.cat([sure[:1], open_atom, open_atom])[None]
    torch.testing.assert_close(condition_on_parity(two, mask, ODD)[0, 1:], two[0, 1:], rtol=0, atol=1e-6)


def test_of_atoms_too_sure_of_an_odd_number_the_least_sure_changes() -> None:
    logits = torch.tensor([[30.0, 0.0, 0.0], [0.0, 30.0, 0.0], [0.0, 6.0, 0.0]])[None]
    found = condition_on_parity(logits, torch.ones(1, 3, dtype=torch.bool), ODD)[0]
    assert found.argmax(-1).tolist() == [0, 1, 0]
    assert (found - logits[0]).abs().max() < SURE


def test_it_is_smooth_where_an_atom_is_undecided() -> None:
    logits = torch.tensor([[0.0, 1e-9, -40.0], [4.0, 0.0, 0.0], [0.0, 30.0, 0.0]], dtype=torch.float64)[None]
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda o: condition_on_parity(o, mask, ODD), logits.requires_grad_())


def test_padding_has_no_say() -> None:
    logits = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False]])
    alone = condition_on_parity(logits[:, :3], mask[:, :3], ODD)
    torch.testing.assert_close(condition_on_parity(logits, mask, ODD)[:, :3], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"odd_types": (5,)}, {"odd_types": (0, 0)}, {"odd_types": (0,), "output": "still"}])
def test_types_that_there_are_not_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"odd_types is \[.*expected some, not all, of the types 0 to 4"):
        VectorEGNNConfig(**wrong)
