"""One structure has one canonical form, and one score, however it is given."""

import numpy as np
import pytest

from enflow.model.chem.molecule import Molecule
from enflow.model.flow.canonical_form import canonical_form
from tests.model.flow.small_networks import small_flow

T = 0.629
METHANE = Molecule([6, 1, 1, 1, 1], [[0, 0, 0], [T, T, T], [-T, -T, T], [-T, T, -T], [T, -T, -T]])
CARBON_DIOXIDE = Molecule([6, 8, 8], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.16], [0.0, 0.0, -1.16]])
angles = np.arange(6) * np.pi / 3
ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
BENZENE = Molecule([6] * 6 + [1] * 6, np.concatenate([1.39 * ring, 2.48 * ring]))
source = np.random.default_rng(3)
CHIRAL = Molecule([6, 1, 9, 8, 7, 1, 1, 1], 1.6 * source.normal(size=(8, 3)))
ALL = pytest.mark.parametrize("molecule", [METHANE, CARBON_DIOXIDE, BENZENE, CHIRAL], ids=lambda one: one.formula)


def copies(molecule: Molecule, count: int) -> list[Molecule]:
    """Return the molecule with its atoms permuted, turned, mirrored and moved at random."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(count):
        turn, order = np.linalg.qr(draw.normal(size=(3, 3)))[0], draw.permutation(molecule.n_atoms)
        found.append(Molecule(molecule.atomic_numbers[order], (molecule.positions @ turn + draw.normal(size=3))[order]))
    return found


@ALL
def test_copies_have_one_form(molecule: Molecule) -> None:
    expected = canonical_form(molecule)
    for copy in copies(molecule, 10):
        found = canonical_form(copy)
        assert found.key == expected.key
        np.testing.assert_array_equal(found.molecule.atomic_numbers, expected.molecule.atomic_numbers)
        np.testing.assert_allclose(found.molecule.positions, expected.molecule.positions, atol=1e-9)
        np.testing.assert_array_equal(copy.atomic_numbers[found.order], found.molecule.atomic_numbers)


def test_another_conformation_has_another_key() -> None:
    longer = Molecule(METHANE.atomic_numbers, 1.01 * METHANE.positions)
    assert canonical_form(longer).key != canonical_form(METHANE).key


def test_without_an_orientation_only_the_order_changes() -> None:
    form = canonical_form(CHIRAL, orient=False)
    np.testing.assert_array_equal(form.molecule.positions, CHIRAL.positions[form.order])


@pytest.mark.parametrize("molecule", [METHANE, CHIRAL], ids=lambda one: one.formula)
def test_copies_have_one_score_in_any_company(molecule: Molecule) -> None:
    flow = small_flow()
    (alone,) = flow.log_prob([molecule], seed=5, probes=1, draws=2)
    others = flow.log_prob([CARBON_DIOXIDE, *copies(molecule, 3)], seed=5, probes=1, draws=2)[1:]
    assert [each.log_prob for each in others] == pytest.approx([alone.log_prob] * 3, abs=1e-6)
    assert flow.log_prob([molecule], seed=6, probes=1, draws=2)[0].log_prob != pytest.approx(alone.log_prob, abs=1e-3)
