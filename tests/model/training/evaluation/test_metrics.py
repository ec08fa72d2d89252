"""The truth: figures worked out by hand, molecules whose stability is known."""

import json

import numpy as np
import pytest

from enflow.model.chem.analysis.metrics import Share
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import DataError, SolverError
from enflow.model.training.evaluation import metrics
from enflow.model.training.evaluation.metrics import (
    Reference,
    likelihood_metrics,
    median_interval,
    percentiles,
    sample_metrics,
)
from enflow.model.training.evaluation.records import SampleRecord, ScoreRecord

METHANE = Molecule(
    [6, 1, 1, 1, 1],
    [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]],
)
WATER = Molecule([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])


def generated(index: int, molecule: Molecule | None, n_atoms: int, nfe: int, status: str = "SUCCESS") -> SampleRecord:
    numbers = molecule.atomic_numbers.tolist() if molecule else []
    positions = molecule.positions.tolist() if molecule else []
    return SampleRecord(index, n_atoms, numbers, positions, nfe, status)


def scored(row: int, nll: float | None, n_atoms: int = 5, fluorine: bool = False) -> ScoreRecord:
    parts = {} if nll is None else {"base": nll - 1.0, "n_atoms": 1.0}
    return ScoreRecord(row, n_atoms, fluorine, nll, parts, 10, "MAX_STEPS" if nll is None else "SUCCESS")


def test_shares_of_molecules_whose_fate_is_known():
    torn = Molecule([6, 1, 1, 1, 1], METHANE.positions * 3)  # five atoms in five pieces: none has its valence
    entries = [
        generated(0, METHANE, 5, 40),
        generated(1, METHANE, 5, 50),
        generated(2, WATER, 3, 60),
        generated(3, torn, 5, 70),
        generated(4, None, 7, 80, "MAX_STEPS"),
    ]
    found, drawn = sample_metrics(entries, Reference.of({"[H]O[H]"}, [METHANE, WATER]))
    assert found["samples"] == 5
    assert found["failed"] == 1
    assert found["atom_stability"] == pytest.approx(13 / 25)
    assert found["molecule_stability"] == pytest.approx(3 / 5)
    assert found["inferred_validity"] == pytest.approx(3 / 5)
    assert found["nfe_mean"] == 60
    paper = {name: found["en_flows"][name] for name in ("validity", "uniqueness", "novelty")}
    assert paper == {"validity": 1.0, "uniqueness": pytest.approx(2 / 3), "novelty": pytest.approx(2 / 3)}
    assert drawn["sizes"]["samples"][:8] == [0, 0, 0, 1, 0, 3, 0, 0]
    assert sum(drawn["nfe"]["samples"]) == 5
    low, high = found["intervals_95"]["molecule_stability"]
    assert low < 3 / 5 < high
    json.dumps(found, allow_nan=False)


def test_compositions_and_electrons_are_counted():
    methyl = Molecule([1, 6, 1, 1], METHANE.positions[[1, 0, 2, 3]])  # CH3, nine electrons
    entries = [
        generated(0, METHANE, 5, 9),  # known; ten electrons
        generated(1, WATER, 3, 9),  # unknown; ten electrons
        generated(2, methyl, 4, 9),  # known; an odd number
        generated(3, None, 5, 9, "MAX_STEPS"),  # counts as neither
    ]
    known = {frozenset({(6, 1), (1, 4)}), frozenset({(6, 1), (1, 3)})}
    found, _ = sample_metrics(entries, Reference.of(set(), [METHANE, WATER], known))
    assert (found["known_composition"], found["even_electrons"]) == (2 / 4, 2 / 4)
    assert found["known_heavy_atoms"] == 3 / 4
    assert set(found["intervals_95"]) >= {"known_composition", "known_heavy_atoms", "even_electrons"}
    assert "known_composition" not in sample_metrics(entries, Reference.of(set(), [METHANE, WATER]))[0]


def test_the_same_shares_of_the_data_stand_beside_those_of_samples():
    torn = Molecule([6, 1, 1, 1, 1], METHANE.positions * 3)
    known = {frozenset({(6, 1), (1, 4)})}
    found, drawn = sample_metrics(
        [generated(0, METHANE, 5, 9)], Reference.of(set(), [METHANE, WATER, torn, torn], known)
    )
    assert (found["molecule_stability"], found["data"]["molecule_stability"]) == (1.0, 2 / 4)
    assert (found["rdkit_validity"], found["data"]["rdkit_validity"]) == (1.0, 2 / 4)
    assert (found["known_composition"], found["data"]["known_composition"]) == (1.0, 3 / 4)
    assert drawn["rings"] == {"samples": [1, *[0] * 10], "data": [2, *[0] * 10]}
    assert "posebusters" not in found
    json.dumps([found, drawn], allow_nan=False)


def test_posebusters_checks_the_first_samples_and_a_failed_one_passes_nothing(monkeypatch):
    checked = []

    def checks(mols):
        checked.extend(mols)
        return {"all": Share(1, len(mols))}

    monkeypatch.setattr(metrics, "posebusters_checks", checks)
    entries = [generated(0, METHANE, 5, 9), generated(1, None, 5, 9, "MAX_STEPS"), generated(2, WATER, 3, 9)]
    found, _ = sample_metrics(entries, Reference.of(set(), [WATER]), 2)
    assert [mol and mol.GetNumAtoms() for mol in checked] == [5, None]
    assert found["posebusters"] == {"samples": 2, "all": 0.5}


def test_no_molecule_at_all_says_what_the_solver_said():
    with pytest.raises(SolverError, match=r"all 2 samples failed with MAX_STEPS"):
        sample_metrics([generated(i, None, 5, 9, "MAX_STEPS") for i in range(2)], Reference.of(set(), [WATER]))


def test_mean_error_and_the_share_without_fluorine():
    entries = [scored(0, -10.0), scored(1, -20.0), scored(2, 30.0, fluorine=True), scored(3, None)]
    found, _ = likelihood_metrics(entries)
    assert found["test_nll"] == pytest.approx(0.0)
    assert found["test_nll_se"] == pytest.approx(np.sqrt((100 + 400 + 900) / 2 / 3))
    assert found["test_nll_without_f"] == pytest.approx(-15.0)
    assert found["test_nll_without_f_se"] == pytest.approx(np.sqrt(50 / 2))
    assert (found["test_molecules"], found["test_molecules_with_f"], found["test_failed"]) == (3, 1, 1)
    assert found["test_nll_without_f_parts"] == {"base": -16.0, "n_atoms": 1.0}
    assert sum(found["test_nll_parts"].values()) == pytest.approx(found["test_nll"])


def test_too_few_scores_are_refused():
    with pytest.raises(DataError, match="1 of 2 molecules have a score"):
        likelihood_metrics([scored(0, 1.0), scored(1, None)])


def test_percentiles_hold_the_scores_by_size_in_order():
    entries = [scored(i, nll, n) for i, (nll, n) in enumerate([(3.0, 5), (-1.0, 5), (2.0, 18), (None, 18)])]
    assert percentiles(entries, "ab") == {"weights_sha256": "ab", "nll": {"5": [-1.0, 3.0], "18": [2.0]}}
    assert percentiles(entries, "ab", 20.123)["std_error"] == {"5": 20.12, "18": 20.12}
    many = percentiles([scored(i, float(i)) for i in range(1001)], "ab")["nll"]["5"]
    assert many == pytest.approx(np.arange(0, 1001, 5))


def test_a_gain_is_taken_off_the_bound():
    entries = [
        ScoreRecord(i, 5, False, nll, {"base": nll}, 9, "SUCCESS", gain)
        for i, nll, gain in [(0, 4.0, 1.0), (1, 6.0, 3.0)]
    ]
    found, _ = likelihood_metrics(entries)
    assert found["test_nll"] == 5.0
    assert found["importance_weighted"] == {"test_nll": 3.0, "gain": 2.0, "gain_se": pytest.approx(1.0)}


def test_strain_stands_beside_that_of_the_data():
    stretched = Molecule(METHANE.atomic_numbers, 1.05 * METHANE.positions)
    entries = [generated(i, stretched, 5, 9) for i in range(3)]
    found, _ = sample_metrics(entries, Reference.of(set(), [METHANE, WATER]))
    assert found["strain"]["share"] == 1.0
    assert (
        found["strain"]["median"] > found["strain"]["data_median"] + 3
    )  # four bonds 5 % too long: see test_histograms
    assert found["divergences"]["sizes"] == pytest.approx(0.2157616, abs=1e-6)  # of (0, 1) and (1/2, 1/2)


def test_the_interval_of_a_median_holds_its_level():
    rng = np.random.default_rng(0)
    held = [
        (interval := median_interval(rng.exponential(size=60).tolist())).low <= np.log(2) <= interval.high
        for _ in range(2000)
    ]
    assert 0.94 < np.mean(held) < 0.985  # order statistics are discrete: at least the level, hardly more
    assert median_interval([1.0, 2.0]) is None
