"""The benchmark of fragments, where its figures are known: by counting, and in a world of one molecule."""

import numpy as np
import pytest
import torch

from benchmarks import fragments
from benchmarks.fragment_paths import WAYS
from benchmarks.fragments import (
    Judged,
    by_the_model,
    fragment_of,
    judged,
    one_part,
    section,
    shares,
    two_parts,
    uniqueness,
)
from enflow.model.chem.connectivity import joined
from enflow.model.chem.molecule import Molecule
from enflow.model.config import EGNNConfig, FlowConfig, FragmentConfig
from enflow.model.flow.completion import Completion
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.molecule_flow import MoleculeFlow

METHANE = Molecule(
    [6, 1, 1, 1, 1], 0.63 * np.array([[0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]], float)
)
TORN = Molecule(METHANE.atomic_numbers, 3.0 * METHANE.positions)
CHAIN = Molecule([6] * 7, [[1.5 * i, 0.0, 0.0] for i in range(7)])
COMPLETION = Completion(METHANE, (0, 2))


@pytest.fixture
def joint() -> MoleculeFlow:
    return MoleculeFlow(FlowConfig(dynamics=EGNNConfig(node_dim=8, edge_dim=4, n_layers=1, n_radial=4))).eval()


@pytest.fixture
def around() -> FragmentFlow:
    dynamics = FragmentConfig(node_dim=12, edge_dim=6, n_vectors=3, n_layers=1, n_radial=4)
    return FragmentFlow(FlowConfig(dynamics=dynamics)).eval()


def test_the_fragment_comes_first_in_both_ways(joint, around):
    given = fragment_of(COMPLETION)
    for sample in (
        lambda some: by_the_model(around, 1, some, 0),
        lambda some: fragments.by_replacement(joint, some, 0),
    ):
        found = sample([COMPLETION, Completion(TORN, (1,)), COMPLETION])
        for place in (0, 2):
            assert found[place].atomic_numbers[:2].tolist() == given.atomic_numbers.tolist()
            bond = found[place].positions[1] - found[place].positions[0]
            assert bond == pytest.approx(given.positions[1] - given.positions[0], abs=1e-5)
        assert found[0].positions != pytest.approx(found[2].positions, abs=1e-3)  # a place has its own noise


def test_replacement_finds_the_only_molecule_of_a_world(joint):
    """The velocity (x1 - x) / (1 - t) carries every noise to methane; so methane is found around each part of it."""
    only, corners = torch.tensor(METHANE.positions).float(), 0.25 * torch.eye(5)[torch.tensor([1, 0, 0, 0, 0])]

    def velocity(t, x, h, mask):
        left = (1.0 - t).clamp(min=1e-3)[:, None, None]
        u, _, v = torch.linalg.svd(x.mT @ only.expand_as(x))
        return (only @ (u @ v).mT - x) / left, (corners - h) / left

    joint.dynamics.forward = velocity
    (found,) = fragments.by_replacement(joint, [COMPLETION], 0)
    assert judged(found, "C") == Judged(True, True, "C", True)


def test_verdicts_of_molecules_that_are_known():
    assert judged(METHANE, "C") == Judged(True, True, "C", True)
    assert judged(METHANE, "CC") == Judged(True, True, "C", False)
    torn = judged(TORN, "C")
    assert not torn.connected
    assert not torn.stable
    assert not torn.recovered
    assert judged(None, None) == Judged()
    counted = shares([judged(METHANE, "C"), torn])
    assert counted["stable and connected"] == pytest.approx([0.5, 0.0945, 0.9055], abs=1e-4)  # Wilson, 1 of 2


def test_only_valid_molecules_are_unique():
    group = [Judged(smiles=smiles) for smiles in ("C", "C", "CC", None)]
    assert uniqueness([group, group[:1], [Judged()]])[0] == pytest.approx(3 / 4)


def test_two_parts_have_no_bond_between_them():
    bonds = joined(CHAIN.atomic_numbers, CHAIN.positions)
    found = [two_parts(CHAIN, np.random.default_rng(seed)) for seed in range(20)]
    for each in filter(None, found):
        rest = sorted(set(range(7)) - set(each.given))
        assert len(rest) > 0
        inner = bonds[np.ix_(each.given, each.given)]
        assert inner.sum() < 2 * (len(each.given) - 1)  # a connected chain of n atoms has n - 1 bonds
    assert sum(each is not None for each in found) > 15
    assert two_parts(METHANE, np.random.default_rng(0)) is None  # it has one heavy atom


def test_the_table_has_a_row_for_each_way_and_a_dash_for_what_was_not_measured(around):
    completions = [each for seed in range(3) if (each := one_part(METHANE, np.random.default_rng(seed)))]
    samplers = {"truth": None, "model": lambda some, first: by_the_model(around, 1, some, first)}
    rows = fragments.figures(around, samplers, completions, scored=2, copied=1)
    assert rows["truth"]["the true molecule"][0] == 1.0
    lines = section({"a fragment": rows}).splitlines()
    # Wilson, 3 of 3: 3 / (3 + 1.96^2)
    assert lines[2].startswith("| truth | 100.0 ± 56.1 |")
    assert "| - |" in lines[2]
    assert len(lines) == 2 + len(rows)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_noise_in_front_of_a_chain_is_nearer_to_its_continuation() -> None:
    """The open end of the first four atoms lies 2.25 angstrom from their mean, where that distance adds to the path."""
    rng = np.random.default_rng(0)
    mean, front, _ = (np.mean([way(Completion(CHAIN, (0, 1, 2, 3)), rng) for _ in range(200)]) for way in WAYS.values())
    assert mean > front > 1.0
