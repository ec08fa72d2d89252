"""`select` keeps the molecules that the conditions ask for, and the same ones as one place after the other would."""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from enflow.model.chem.molecule import Molecule, Molecules
from enflow.model.errors import ConfigError
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.states import Sample
from enflow.model.selection import Selection, select
from tests.model.flow.small_networks import small_flow


def embedded(smiles: str) -> Molecule:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    AllChem.MMFFOptimizeMolecule(mol)
    return Molecule.from_rdkit(mol)


ETHANOL, BENZENE, METHANE = embedded("CCO"), embedded("c1ccccc1"), embedded("C")
TORN = Molecule(METHANE.atomic_numbers, 3 * METHANE.positions)
PAIR = Molecule([*METHANE.atomic_numbers] * 2, np.concatenate([METHANE.positions, METHANE.positions + 5.0]))
"""Two molecules of methane, which is valid and in two pieces."""


class KnownFlow:
    """A flow whose molecules are known by index, the last one again and again; None = no molecule."""

    def __init__(self, *molecules: Molecule | None) -> None:
        self.molecules = molecules
        self.asked: list[int] = []
        self.options: set[tuple[float, int | None]] = set()

    def samples(
        self,
        _sizes: object,
        seed: int,
        _rtol: float,
        _atol: float,
        indices: Sequence[int],
        temperature: float,
        refinements: int | None,
    ) -> Iterator[Sample]:
        self.asked += indices
        self.options.add((temperature, refinements))
        for index in reversed(indices):
            molecule = self.molecules[min(index, len(self.molecules) - 1)]
            yield Sample(index, molecule, Status.SUCCESS, 60).named(index, seed)


def chosen(flow: KnownFlow, n: int, **conditions: object) -> Molecules:
    return select.__wrapped__(cast("MoleculeFlow", flow), [None] * n, Selection(**conditions), 1)  # type: ignore[attr-defined, arg-type, no-any-return]


def indices(molecules: Molecules) -> list[object]:
    return [each.properties["index"] for each in molecules]


@pytest.mark.parametrize(("temperature", "refinements"), [(1.0, None), (0.8, 2)])
def test_every_attempt_has_temperature_and_refinements(temperature: float, refinements: int | None) -> None:
    flow, options = KnownFlow(METHANE, METHANE, BENZENE), {"temperature": temperature, "refinements": refinements}
    select.__wrapped__(flow, [None] * 2, Selection(unique=True), 1, **options)  # type: ignore[attr-defined]
    assert flow.asked == [0, 1, 3]
    assert flow.options == {(temperature, refinements)}


def test_unique_tries_on_at_the_place_of_a_duplicate() -> None:
    """The molecules of the test of the service: 1 repeats 0, so that place 1 of 3 gets index 4."""
    flow = KnownFlow(ETHANOL, ETHANOL, BENZENE, METHANE, METHANE)
    found = chosen(flow, 3, unique=True)
    assert indices(found) == [0, 4, 2]
    assert flow.asked == [0, 1, 2, 4]
    assert [each.properties["smiles"] for each in found] == ["CCO", "C", "c1ccccc1"]


def test_where_keeps_the_molecules_within_bounds_and_sort_orders_them() -> None:
    """Weights by index: 46, none (torn), 78, 16, 78; place 1 of 2 tries 1, 3 and 5."""
    flow = KnownFlow(ETHANOL, TORN, BENZENE, METHANE, BENZENE)
    found = chosen(flow, 2, where={"weight": (20.0, None)}, sort="-weight")
    assert indices(found) == [5, 0]
    assert found[0].properties["inchikey"] == "UHOVQNZJYSORNB-UHFFFAOYSA-N"
    assert flow.asked == [0, 1, 3, 5]


def test_connected_molecules_are_valid_and_in_one_piece() -> None:
    flow = KnownFlow(PAIR, TORN, ETHANOL)
    (found,) = chosen(flow, 1, only="connected")
    assert flow.asked == [0, 1, 2]
    assert (found.properties["smiles"], found.properties["connected"]) == ("CCO", True)
    assert indices(chosen(KnownFlow(ETHANOL, TORN, PAIR), 1, where={"connected": False})) == [2]
    with pytest.warns(UserWarning, match=r"found 0 of 1 molecules; not kept: 2 x the bonds make 2 pieces"):
        assert chosen(KnownFlow(PAIR), 1, only="connected", attempts=2) == []


def test_without_conditions_each_place_has_one_attempt() -> None:
    flow = KnownFlow(ETHANOL, None, TORN)
    with pytest.warns(UserWarning, match=r"found 2 of 3 molecules; not kept: 1 x solver: SUCCESS"):
        found = chosen(flow, 3, sort="qed")
    assert indices(found) == [0, 2]  # the molecule without bonds has no QED
    assert flow.asked == [0, 1, 2]


def test_it_stops_at_the_attempts_and_says_what_it_reached() -> None:
    flow = KnownFlow(ETHANOL)
    with pytest.warns(UserWarning, match=r"found 1 of 2 molecules; not kept: 4 x the SMILES of a molecule with"):
        assert indices(chosen(flow, 2, unique=True, attempts=4)) == [0]
    with pytest.warns(UserWarning, match=r"found 0 of 1 molecules; not kept: 3 x rings below 1"):
        assert chosen(flow, 1, where={"rings": (1.0, None)}, attempts=3) == []


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"where": {"mass": (1.0, None)}}, "found where 'mass'"),
        ({"where": {"connected": (0.0, 1.0)}}, "found where 'connected': .*True or False for connected or novel"),
        ({"where": {"qed": True}}, "found where 'qed': True, expected"),
        ({"where": {"qed": (1.0, 0.0)}}, r"found where 'qed': \(1.0, 0.0\), expected .* numbers in ascending order"),
        ({"where": {"qed": (float("nan"), None)}}, r"found where 'qed': \(nan, None\), expected"),
        ({"attempts": 0}, "found 0 attempts, expected an integer of at least 1"),
        ({"sort": "mass"}, "found sort 'mass', expected one of weight, heavy_atoms, logp"),
    ],
)
def test_a_wrong_condition_is_refused(conditions: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection(**conditions)  # type: ignore[arg-type]


def test_a_flow_gives_the_molecules_of_its_sample() -> None:
    flow = small_flow()
    assert select(flow, [3, 5], seed=4) == flow.sample([3, 5], seed=4)
    assert select(flow, 3, seed=4) == flow.sample(3, seed=4)
    by_nll = select(flow, [3, 5, 4], Selection(sort="nll"), seed=4)
    scores = sorted(score.nll for score in flow.log_prob(flow.sample([3, 5, 4], seed=4), 4))
    np.testing.assert_allclose([float(str(each.properties["nll"])) for each in by_nll], scores, rtol=1e-6)
