"""MoleculeFlow where everything about its density is known, and what it promises of seeds and failures."""

import math
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch

from enflow.model.checkpoint import load
from enflow.model.chem.io.smiles import read_smiles
from enflow.model.chem.io.text import ReadLimits
from enflow.model.chem.molecule import Molecule
from enflow.model.config import DequantizerConfig, EGNNConfig, FlowConfig
from enflow.model.errors import ConfigError, InverseWarning, SolverError, StructureError, VocabularyError
from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.likelihood_estimator import LikelihoodEstimator
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.probes import Probes, draw_probes
from tests.model.flow.fields import Linear
from tests.model.flow.small_networks import small_flow

A, B = 0.3, -0.2
WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])
HYDROGEN = Molecule([1, 1], [[0.0, 0.0, 0.4], [0.0, 0.0, -0.4]])


def gaussian_flow(act_norm: bool = False) -> MoleculeFlow:
    """x(1) = exp(A) z, h(1) = exp(B) z: positions and features are Gaussian, and each type has probability 1/5."""
    wide = DequantizerConfig("truncated", scale=0.6, sigma=0.6)
    flow = MoleculeFlow(
        FlowConfig(dynamics=EGNNConfig(node_dim=4, edge_dim=4, n_layers=1), dequantizer=wide, act_norm=act_norm)
    )
    flow.dynamics = Linear(A, B)
    return flow.double().requires_grad_(False).eval()


def log_normal(values: torch.Tensor, log_scale: float, dimensions: int) -> float:
    squares = float(values.square().sum()) * math.exp(-2 * log_scale)
    return -0.5 * squares - dimensions * (0.5 * math.log(2 * math.pi) + log_scale)


def test_log_prob_is_that_of_the_gaussian_it_is() -> None:
    flow, seed = gaussian_flow(), 4
    found = flow.log_prob([HYDROGEN, WATER], seed=seed, divergence="exact", draws=1, rtol=1e-6, atol=1e-6)
    forms = [flow.canonical_form(molecule) for molecule in (HYDROGEN, WATER)]
    dequantized = flow.dequantize([form.molecule for form in forms], seed, [form.key for form in forms])
    for row, n in enumerate((2, 3)):
        x, h = dequantized.x[row, :n], dequantized.h[row, :n]
        density = log_normal(x, A, 3 * (n - 1)) + log_normal(h, B, 5 * n)
        assert math.isclose(found[row].log_prob, density - float(dequantized.log_q[row]) - math.log(29), abs_tol=1e-4)
        assert math.isclose(found[row].parts["divergence"], 3 * (n - 1) * A + 5 * n * B, abs_tol=1e-5)
        assert math.isclose(found[row].parts["n_atoms"], math.log(29))


@pytest.mark.parametrize("value", [-1.0, 0.0, 1e-15, 10.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_a_tolerance_out_of_range_is_refused(name: str, value: float) -> None:
    flow, expected = small_flow(), f"found {name} {value}, expected 1e-13 to "
    for call in (
        lambda **tolerance: flow.sample(3, **tolerance),
        lambda **tolerance: flow.sample(3, refinements=2, **tolerance),
        lambda **tolerance: flow.log_prob(WATER, draws=1, **tolerance),
        lambda **tolerance: flow.encode(WATER, **tolerance),
        lambda **tolerance: flow.variations(WATER, 1, **tolerance),
    ):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            call(**{name: value})


def test_probes_are_drawn_when_a_draw_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of 10,000 molecules together would take half a gigabyte."""
    drawn = list[object]()

    def counting(source: torch.Generator, *given: Any) -> Probes:
        drawn.append(source)
        return draw_probes(source, *given)

    monkeypatch.setattr("enflow.model.flow.likelihood_estimator.draw_probes", counting)
    found = gaussian_flow().likelihoods([WATER] * 20, 0, EstimatorOptions(draws=1))
    next(found)
    assert len(drawn) == 1
    assert len(list(found)) == 19
    assert len(drawn) == 20


def test_act_norm_changes_the_density_by_its_scale() -> None:
    flow = gaussian_flow(act_norm=True)
    flow.act_norm.x_log_scale.fill_(0.4)
    (found,) = flow.log_prob([WATER], divergence="exact", draws=1, rtol=1e-6, atol=1e-6)
    form = flow.canonical_form(WATER)
    dequantized = flow.dequantize([form.molecule], 0, [form.key])
    angstrom = torch.tensor(WATER.centred().positions)
    density = log_normal(angstrom, A + 0.4, 6) + log_normal(dequantized.h[0], B, 15)
    assert math.isclose(found.log_prob, density - float(dequantized.log_q[0]) - math.log(29), abs_tol=1e-4)


def test_importance_weights_tighten_the_bound_up_to_the_probability_itself() -> None:
    flow = gaussian_flow()
    # The types' probability is 1/5 each, whatever the dequantizer: features are alike in every channel.
    truth = log_normal(torch.tensor(HYDROGEN.positions), A, 3) + 2 * math.log(1 / 5) - math.log(29)
    (many,) = flow.log_prob([HYDROGEN], divergence="exact", draws=80)
    assert many.log_prob < truth - 0.1
    assert abs(many.log_prob + many.importance_gain - truth) < 0.3
    assert many.std_error < 0.2


def test_probes_scatter_around_the_exact_divergence() -> None:
    flow = small_flow()
    (exact,) = flow.log_prob([WATER], divergence="exact", draws=2, rtol=1e-4, atol=1e-4)
    (estimate,) = flow.log_prob([WATER], draws=2, probes=20, rtol=1e-4, atol=1e-4)
    assert estimate.parts["base"] == pytest.approx(exact.parts["base"], abs=1e-3)
    assert abs(estimate.log_prob - exact.log_prob) < estimate.std_error


def test_a_molecule_is_the_same_alone_in_company_and_in_single_precision() -> None:
    flow = small_flow()
    company = flow.sample([4, 9, None, 6], seed=11)
    latent = flow.draw_latent(6, seed=11, index=3)
    (alone,) = flow.decode([latent], rtol=1e-3, atol=1e-3)
    assert np.abs(alone.positions - company[3].positions).max() < 1e-12
    assert alone.atomic_numbers.tolist() == company[3].atomic_numbers.tolist()
    assert company[3].properties["status"] == "SUCCESS"
    assert company[2].n_atoms == flow.draw_n_atoms(seed=11, index=2)
    ranged = flow.sample([(4, 6)] * 12, seed=11)
    assert {each.n_atoms for each in ranged} == {4, 5, 6}
    again = flow.sample([9, (4, 6)], seed=11)[1]
    assert again.n_atoms == ranged[1].n_atoms
    assert np.abs(again.positions - ranged[1].positions).max() < 1e-12
    single = flow.float().sample([4, 9], seed=11)
    assert np.abs(single[1].positions - company[1].positions).max() < 1e-3


@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_a_sample_at_a_temperature_begins_with_the_same_noise_scaled(temperature: float) -> None:
    flow = small_flow()
    latent = flow.draw_latent(6, seed=11, index=1)
    cold = flow.draw_latent(6, seed=11, index=1, temperature=temperature)
    torch.testing.assert_close(cold.x, temperature * latent.x)
    torch.testing.assert_close(cold.h, temperature * latent.h)
    sampled = flow.sample([4, 6], seed=11, temperature=temperature)
    (decoded,) = flow.decode([cold], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sampled[1].positions, decoded.positions, atol=1e-12)
    assert np.abs(sampled[1].positions - flow.sample([4, 6], seed=11)[1].positions).max() > 0.1


def test_a_temperature_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"found temperature 0\.0, expected 0\.1 to 2"):
        small_flow().sample(5, temperature=0.0)


def test_tolerances_beyond_single_precision_are_kept() -> None:
    flow = gaussian_flow().float()
    latent = flow.draw_latent(5, seed=2, index=0)
    (molecule,) = flow.decode([latent], rtol=1e-10, atol=1e-10)
    growth = math.exp(float(np.float32(A)))  # as the weights have it
    assert np.abs(molecule.positions - growth * latent.x.numpy()).max() < 1e-8
    (encoded,) = flow.encode([molecule])
    assert np.abs(encoded.x.numpy() - latent.x.numpy()).max() < 1e-6  # angstroms enter in the model's own precision
    assert flow.dtype == torch.float32


def test_samples_of_a_gaussian_have_its_width() -> None:
    spread = [one.positions for one in gaussian_flow().sample([8] * 60, seed=1)]
    assert math.isclose(np.mean(np.square(spread)) * 8 / 7, math.exp(2 * A), rel_tol=0.1)  # 1260 dimensions: 4 %


def test_a_single_number_is_one_molecule_of_that_size() -> None:
    assert [molecule.n_atoms for molecule in gaussian_flow().sample(9)] == [9]


def test_failures_are_named() -> None:
    flow = gaussian_flow()
    flow.dynamics.rates.fill_(17.0)
    with pytest.raises(SolverError, match="molecule 1: found an atom beyond all bounds, expected finite positions"):
        flow.sample([3])
    (lost,) = flow.samples([3])
    assert lost.molecule is None
    flow.dynamics.rates.fill_(torch.nan)
    with pytest.raises(SolverError, match="molecule 1: the solver stopped with NON_FINITE"):
        flow.encode([WATER])
    (failed,) = flow.log_prob([WATER])
    assert math.isnan(failed.log_prob)
    assert failed.status.name == "NON_FINITE"


def test_bad_arguments_say_what_is_wrong() -> None:
    flow = gaussian_flow()
    with pytest.raises(VocabularyError, match="found 30 atoms, expected 1 to 29"):
        flow.sample([3, 30])
    sulfide = Molecule([8, 1, 16], [[0, 0, 0], [1, 0, 0], [0, 2, 0]])
    for scored_or_encoded in (flow.log_prob, flow.encode):
        with pytest.raises(VocabularyError, match="molecule 2: found S as atom 3, expected one of"):
            scored_or_encoded([WATER, sulfide])
    with pytest.raises(VocabularyError, match="S"):
        flow.log_prob([Molecule([16], [[0.0, 0.0, 0.0]])])
    with pytest.raises(ConfigError, match="0 probes"):
        flow.log_prob([WATER], probes=0)


# A model to which the types are given


def formula_flow() -> MoleculeFlow:
    """x(1) = exp(A) z whatever the types, and three water for one methane among what was counted."""
    config = EGNNConfig(node_dim=4, edge_dim=4, n_layers=1, output="still")
    flow = MoleculeFlow(FlowConfig(dynamics=config, dequantizer=DequantizerConfig("given")))
    flow.dynamics = Linear(A, 0.0)
    flow.dequantizer.compositions.fit(torch.tensor([[2, 0, 0, 1, 0]] * 3 + [[4, 1, 0, 0, 0]]))
    return flow.double().requires_grad_(False).eval()


def test_the_likelihood_of_a_formula_s_molecule_is_exact() -> None:
    flow = formula_flow()
    (found,) = flow.log_prob([WATER], divergence="exact", rtol=1e-7, atol=1e-7)
    x = torch.tensor(WATER.centred().positions)
    possible = math.comb(7, 4)
    log_types = math.log((3 + 1 / possible) / (3 + 1)) - math.log(3)  # of three places the oxygen may have
    expected = log_normal(x, A, 6) + log_types - math.log(29)
    assert found.log_prob == pytest.approx(expected, abs=1e-5)
    assert found.parts["dequantizer"] == pytest.approx(-log_types, abs=1e-6)
    assert found.std_error == 0.0
    _, state = LikelihoodEstimator(flow, EstimatorOptions()).start_draw(flow.canonical_form(WATER), 0, 0)
    assert not state.probes.signs[..., 3:].any(), "features that stand still add no noise to an estimate"


def test_a_formula_is_what_comes_out() -> None:
    flow = formula_flow()
    molecules = flow.sample(["C2H6O", "CH4", None, 3], seed=5)
    assert [m.formula for m in molecules[:2]] == ["C2H6O", "CH4"]
    assert molecules[3].n_atoms == 3
    again = flow.sample(["C2H6O"], seed=5)[0]
    np.testing.assert_array_equal(again.positions, molecules[0].positions)
    assert np.abs(flow.sample("C2H6O", seed=6)[0].positions - again.positions).max() > 0.1


def test_a_formula_is_refused_by_a_model_that_draws_the_elements() -> None:
    with pytest.raises(ConfigError, match="found formula CH4, but this model draws the elements itself"):
        gaussian_flow().sample("CH4")
    with pytest.raises(ConfigError, match="together, or none"):
        FlowConfig(dynamics=EGNNConfig(output="still"))


def test_a_molecule_that_does_not_come_back_is_reported() -> None:
    """Tetrahydrofuran of RDKit lies between two modes: decoding multiplies an error by more than 1e8."""
    flow = load("qm9")
    (furan,) = read_smiles("C1CCOC1", ReadLimits())
    assert isinstance(furan, Molecule)
    latents = flow.encode([WATER, furan], rtol=1e-5, atol=1e-5)
    with pytest.warns(InverseWarning, match=r"^molecule 2: found a distance of [0-9.]+ angstrom"):
        water, other = flow.decode(latents, rtol=1e-5, atol=1e-5)
    assert water.properties["parent_distance"] < 1e-3
    assert other.properties["parent_distance"] > 1e-2
    with pytest.raises(SolverError, match=r"molecule 1: found a distance"):
        flow.decode(latents[1:], rtol=1e-5, atol=1e-5, on_mismatch="raise")
    (quiet,) = flow.decode(latents[1:], rtol=1e-5, atol=1e-5, on_mismatch="ignore")
    assert quiet.properties["parent_distance"] == pytest.approx(other.properties["parent_distance"], rel=0.01)
    moved, copied = latents[0]._replace(h=latents[0].h + 0.1), pickle.loads(pickle.dumps(latents[0]))
    elsewhere, back = flow.decode([moved, copied], rtol=1e-5, atol=1e-5, on_mismatch="raise")
    assert "parent_distance" not in elsewhere.properties  # another latent is that of no molecule
    assert back.properties["parent_distance"] < 1e-3


def test_a_latent_keeps_the_memory_of_its_own_atoms() -> None:
    latents = small_flow().encode([WATER] * 20)
    assert {each.x.untyped_storage().nbytes() for each in latents} == {latents[0].x.nbytes}


def test_one_molecule_or_several_of_any_package() -> None:
    flow = small_flow()
    mol, atoms = WATER.to_rdkit(), WATER.to_ase()
    (expected,) = flow.log_prob([WATER], draws=1)
    assert flow.log_prob(WATER, draws=1) == flow.log_prob(mol, draws=1) == flow.log_prob(atoms, draws=1) == [expected]
    several = flow.log_prob([WATER, mol, atoms], draws=1)
    assert [each.log_prob for each in several] == pytest.approx([expected.log_prob] * 3, abs=1e-9)
    assert len(flow.encode(atoms, rtol=1e-3, atol=1e-3)) == 1
    assert flow.variations(mol, 2, seed=3) == flow.variations(WATER, 2, seed=3)
    for wrong in ("O", [WATER, None]):
        with pytest.raises(StructureError, match=r"expected an enflow\.Molecule"):
            flow.log_prob(wrong)


def test_generated_molecules_know_their_seed_and_their_index() -> None:
    found = small_flow().sample([3, 4], seed=8)
    assert [(each.properties["seed"], each.properties["index"]) for each in found] == [(8, 0), (8, 1)]


def test_double_precision_as_the_default_changes_no_result() -> None:
    """The flow computes in its own precision, whatever `torch.set_default_dtype` says."""

    def results(flow: MoleculeFlow) -> tuple[object, ...]:
        latents = flow.encode([WATER], rtol=1e-5, atol=1e-5)
        return (
            flow.sample([3, None], seed=2),
            [each.log_prob for each in flow.log_prob([WATER], draws=2)],
            [each.log_prob for each in flow.log_prob([WATER], divergence="exact", draws=1)],
            flow.variations(WATER, 2),
            flow.decode(latents, rtol=1e-5, atol=1e-5),
        )

    for flow in (small_flow(), small_flow().double()):
        expected = results(flow)
        torch.set_default_dtype(torch.float64)
        try:
            found = results(flow)
        finally:
            torch.set_default_dtype(torch.float32)
        assert found == expected
