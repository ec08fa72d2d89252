"""Cells and scores of particles, against a flow that is the distribution itself."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from enflow.model.checkpoint import load_particles
from enflow.model.config import SimpleConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.training.evaluation import particle_metrics
from enflow.model.training.experiments import particle_benchmark
from enflow.model.training.experiments.particle_cells import (
    MODELS,
    PUBLISHED,
    SIZES,
    VECTOR,
    Budget,
    Cell,
    Result,
    cells,
    read_results,
    write_result,
)
from enflow.model.training.experiments.particle_report import compare_objectives, publish, text
from tests.model.training.evaluation.test_particle_metrics import springs


@pytest.mark.parametrize("model", [*MODELS, VECTOR])
@pytest.mark.parametrize("system", SIZES)
def test_every_model_of_every_system_can_be_built(system: str, model: str) -> None:
    training = particle_benchmark.configuration(Cell(system, model, 10, 0), Budget(5, 0, 4, 2))
    config = training.config
    flow = ParticleFlow(config.flow)
    assert flow.dynamics.equivariant == (model in ("enf", "simple", "kernel", VECTOR))
    assert config.augment == (model == "gnn_att_aug")
    assert (config.objective, training.stopping.steps) == ("flow_matching", 5)
    assert len(PUBLISHED[system].get(model, SIZES[system])) == len(SIZES[system])


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(ConfigError, match="found model 'mlp'; expected one of enf, gnn"):
        particle_benchmark.dynamics_of("mlp", 3)


def test_a_cell_is_trained_scored_and_kept(tmp_path: Path) -> None:
    cell, data = Cell("dw4", "kernel", 20, 0), springs()
    result, flow = particle_benchmark.train_cell(cell, Budget(5, 0, 4, 10, 1e-3), data, lambda *_: None)
    assert result.nll == pytest.approx(particle_metrics.score(flow, data, 10, 1e-3)[0])
    write_result(tmp_path, result)
    assert read_results(tmp_path) == [result]


def test_of_few_samples_the_depth_that_validates_better_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, budget, data = Cell("dw4", "simple", 10, 0), Budget(5, 0, 8, 10, 1e-3), springs()
    dynamics = [training.config.flow.dynamics for training in particle_benchmark.candidates(cell, budget)]
    assert dynamics == [SimpleConfig(), SimpleConfig(n_layers=1)]
    for other in (replace(cell, samples=11), replace(cell, model="kernel"), replace(cell, objective="likelihood")):
        assert len(particle_benchmark.candidates(other, budget)) == 1
    for validated, layers in (((3.0, 2.0), 1), ((2.0, 3.0), 2)):
        answers = iter([("valid", validated[0]), ("valid", validated[1]), ("test", 7.0)])

        def score(*arguments: object) -> tuple[float, float]:
            split, nll = next(answers)  # noqa: B023
            assert ("valid" if len(arguments) == 5 else "test") == split, "the test samples choose nothing"
            return nll, 0.1

        monkeypatch.setattr(particle_benchmark, "score", score)
        result, flow = particle_benchmark.train_cell(cell, budget, data, lambda *_: None)
        assert flow.config.dynamics == SimpleConfig(n_layers=layers)
        assert result.nll == 7.0
        assert result.parameters == sum(p.numel() for p in flow.parameters())


def test_likelihood_goes_on_from_flow_matching_and_leaves_its_cell_alone(tmp_path: Path) -> None:
    data, budget, kept = springs(), Budget(20, 5, 8, 10, 1e-3), read_results
    wanted = cells("dw4", ["kernel"], [20], 1, budget.objective)
    trained = [*particle_benchmark.train_cells(wanted, budget, data, tmp_path, lambda *_: None)]
    assert trained == [(Cell("dw4", "kernel", 20, 0, "both"), True)]
    both, first = kept(tmp_path)
    assert [both.cell.objective, first.cell.objective] == ["both", "flow_matching"]
    assert (first.steps, both.steps) == (20, 5)
    before, after = (load_particles(tmp_path / result.cell.name).state_dict() for result in (first, both))
    moved = max(float((after[name] - value).abs().max()) for name, value in before.items())
    assert 0 <= moved < 0.05, "a few gentle steps from where it stood"
    assert [done for _, done in particle_benchmark.train_cells(wanted, budget, data, tmp_path, lambda *_: None)] == [
        False
    ]


def test_the_objective_follows_from_the_steps() -> None:
    budgets = Budget(5, 0, 1, 2), Budget(0, 5, 1, 2), Budget(5, 5, 1, 2)
    assert [budget.objective for budget in budgets] == ["flow_matching", "likelihood", "both"]
    configs = [particle_benchmark.configuration(Cell("dw4", "enf", 10, 0, b.objective), b).config for b in budgets]
    assert [config.objective for config in configs] == ["flow_matching", "likelihood", "likelihood"]
    assert configs[1].optimizer.adam_rate > configs[2].optimizer.adam_rate


def test_objectives_are_compared_over_the_seeds_they_share() -> None:
    budget = Budget(1, 1, 1, 2)
    nlls = {("flow_matching", 0): 8.0, ("flow_matching", 1): 9.0, ("both", 0): 7.5}
    results = [
        Result(Cell("dw4", "enf", 100, seed, objective), nll, 0.1, nll - 7, 10, 1, 1.0, budget)
        for (objective, seed), nll in nlls.items()
    ]
    (row,) = compare_objectives(results)
    assert row == {"model": "enf", "samples": 100, "seeds": 1, "flow_matching": 8.0, "likelihood": None, "both": 7.5}


def test_first_seeds_come_first() -> None:
    found = cells("dw4", ["enf", "gnn"], [100, 1000], 2)
    assert [(c.model, c.samples, c.seed) for c in found[:5]] == [
        ("enf", 100, 0), ("gnn", 100, 0), ("enf", 1000, 0), ("gnn", 1000, 0), ("enf", 100, 1)
    ]  # fmt: skip


def test_a_table_says_mean_spread_and_what_is_missing(tmp_path: Path) -> None:
    budget = Budget(1, 0, 1, 2)
    for seed, nll in enumerate((8.0, 9.0)):
        result = Result(Cell("dw4", "enf", 100, seed), nll, 0.1, nll - 7, 10, 1, 1.0, budget)
        write_result(tmp_path, result)
    write_result(tmp_path, replace(result, cell=Cell("dw4", "enf", 1000, 0)))
    data = replace(springs(), name="dw4")
    document = publish(tmp_path, data)
    assert document["table"]["enf"]["100"] == {
        "nll": 8.5,
        "spread": pytest.approx(0.5**0.5),
        "seeds": 2,
        "published": 8.31,
    }
    assert "| E-NF | 8.50 ± 0.71 (8.31) | 9.00 (8.15) | - (7.69) | - (7.48) |" in text(document)
    assert len(document["missing"]) == 6 * 4 * 3 - 3
    assert document["hours_missing"] == pytest.approx(69 / 3600, abs=0.005)  # every cell so far took a second
    assert json.loads((tmp_path / "dw4.json").read_text())["floor"] == data.entropy
    assert publish(tmp_path, data) == document, "what it wrote is no cell"
    assert "floor: the entropy" in (tmp_path / "dw4.svg").read_text()
