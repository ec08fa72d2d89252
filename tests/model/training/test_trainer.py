"""A training run: it learns, resumes exactly, anneals, and refuses wrong configurations."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from enflow.model.checkpoint import load
from enflow.model.config import DequantizerConfig, EGNNConfig, FlowConfig
from enflow.model.errors import ConfigError, DataError
from enflow.model.training.config import TrainConfig, read_config
from enflow.model.training.data.qm9 import SETTING, batch_plan, batches, load_qm9
from enflow.model.training.export import export, flow_of
from enflow.model.training.max_likelihood import LikelihoodConfig
from enflow.model.training.optimizer import OptimizerConfig, rate_at, split_parameters
from enflow.model.training.run import train, validation_draws
from enflow.model.training.trainer import Trainer, compiled, starting_flow

TINY = TrainConfig(
    flow=FlowConfig(dynamics=EGNNConfig(node_dim=16, edge_dim=8, n_layers=2, n_radial=4)),
    optimizer=OptimizerConfig(warmup_steps=4),
    passes=240,
    batch_size=8,
)
GIVEN = DequantizerConfig("given")


@pytest.fixture
def qm9(tmp_path, monkeypatch):
    """A small data set in the format of qm9.npz: squares of carbon with a random fifth atom."""
    rng = np.random.default_rng(0)
    counts = np.array([5] * 40 + [4] * 20, np.uint8)
    square = np.array([[0, 0, 0], [1.5, 0, 0], [0, 1.5, 0], [1.5, 1.5, 0], [0.7, 0.7, 1.2]], np.float32)
    positions = np.concatenate([square[:n] + 0.05 * rng.standard_normal((n, 3)) for n in counts])
    numbers = np.concatenate([[6, 6, 6, 6, rng.choice([1, 8])][:n] for n in counts]).astype(np.uint8)
    split = np.arange(60) % 3
    np.savez(
        tmp_path / "qm9.npz",
        num_atoms=counts,
        atomic_numbers=numbers,
        positions=positions.astype(np.float32),
        split=np.where(split == 1, 1, 0).astype(np.uint8),
    )
    monkeypatch.setenv(SETTING, str(tmp_path))
    return tmp_path / "qm9.npz"


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(qm9, tmp_path):
    data = load_qm9(qm9, "train")

    def steps(trainer, n):
        for rows in itertools.islice(batches(data.n_atoms, 8, 0, trainer.step), n):
            trainer.update(trainer.network, trainer.draw(data, rows, trainer.step), len(rows))
        return trainer

    straight = steps(Trainer(TINY), 9)
    steps(Trainer(TINY), 4).save(tmp_path / "state.pt")
    resumed = Trainer(TINY)
    resumed.load(tmp_path / "state.pt")
    steps(resumed, 5)
    assert resumed.passes == straight.passes
    for found, expected in zip(resumed.network.parameters(), straight.network.parameters(), strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(resumed.average, straight.average, strict=True):
        assert torch.equal(found, expected)


def test_training_lowers_the_validation_error_and_annealing_leaves_the_run_as_it_was(qm9, tmp_path):
    run = tmp_path / "run"
    first = validation(Trainer(TINY), qm9)
    records = list(train(TINY, run, resume=False))
    assert sum(records[-1]["valid"]["x"]) < 0.9 * first
    before = (run / "state.pt").read_bytes()
    annealed = list(train(TINY, run, resume=False, anneal=80))
    assert annealed[-1]["step"] == records[-1]["step"] + 10
    assert (run / "state.pt").read_bytes() == before
    assert (run / "annealed.pt").exists()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == records + annealed


def test_validation_batches_are_as_large_as_training_batches(qm9):
    drawn = validation_draws(Trainer(replace(TINY, batch_size=3)), load_qm9(qm9, "valid"))
    assert {len(pairs.x0) for pairs, _ in drawn} <= {2, 3}
    assert len(drawn) == 8


@pytest.mark.parametrize(("capability", "dtype"), [("AVX2", None), ("AVX512", torch.bfloat16)])
def test_messages_are_in_bfloat16_only_where_that_is_fast(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    config = replace(TINY, pair_dtype="bfloat16")
    assert compiled(Trainer(config).network, config).pair_dtype is dtype


def validation(trainer, path):
    return sum(trainer.validate(validation_draws(trainer, load_qm9(path, "valid")))["x"])


LIKELIHOOD = TrainConfig(
    objective="likelihood",
    flow=FlowConfig(
        dynamics=EGNNConfig(node_dim=8, edge_dim=4, n_layers=1, n_radial=3, output="velocity"), act_norm=True
    ),
    likelihood=LikelihoodConfig(tolerance=0.05, adjoint=False),
    optimizer=OptimizerConfig(warmup_steps=1, muon_rate=0.05, adam_rate=0.02, ema=0.5),
    passes=32,
    batch_size=8,
)


def test_training_by_likelihood_lowers_the_validation_nll_and_makes_a_flow(qm9, tmp_path):
    data, trainer = load_qm9(qm9, "train"), Trainer(LIKELIHOOD)
    trainer.initialize(data)
    first = trainer.validate(validation_draws(trainer, load_qm9(qm9, "valid")))
    *_, last = train(LIKELIHOOD, tmp_path / "run", resume=False)
    assert last["valid"]["nll"] < first["nll"] - 1.0
    trainer.load(tmp_path / "run" / "state.pt")
    flow = flow_of(trainer, data)
    assert flow.n_atoms.log_prob(torch.tensor([5])).exp().item() == pytest.approx((data.n_atoms == 5).mean(), abs=0.2)
    (molecule,) = flow.sample(5, rtol=0.1, atol=0.1)
    assert molecule.n_atoms == 5


@pytest.mark.parametrize("config", [TINY, LIKELIHOOD], ids=["flow matching", "likelihood"])
def test_training_starts_from_weights_of_the_same_model(qm9, tmp_path, config):
    data, first = load_qm9(qm9, "train"), Trainer(replace(config, seed=1))
    first.initialize(data)
    export(first, first.config, data, tmp_path / "weights")
    second = Trainer(replace(config, start=str(tmp_path / "weights")))
    second.initialize(data, starting_flow(second.config))
    for parameters in (second.network.parameters(), second.average):
        for found, expected in zip(parameters, first.network.parameters(), strict=True):
            assert torch.equal(found, expected)
    other = replace(config, start=second.config.start, flow=replace(config.flow, max_atoms=30))
    with pytest.raises(ConfigError, match="weights holds another model"):
        starting_flow(other)


def test_each_atom_learns_its_own_type_and_the_flow_applies_the_parity(qm9, tmp_path):
    flow = replace(TINY.flow, dynamics=replace(TINY.flow.dynamics, odd_types=(0, 2, 4)))
    data, alone, with_parity = load_qm9(qm9, "train"), Trainer(TINY), Trainer(replace(TINY, flow=flow))
    for trainer in (alone, with_parity):
        trainer.initialize(data)
        trainer.update(trainer.network, trainer.draw(data, np.arange(8), step=0), 8)
    for found, expected in zip(with_parity.network.parameters(), alone.network.parameters(), strict=True):
        assert torch.equal(found, expected)
    export(with_parity, with_parity.config, data, tmp_path / "weights")
    assert load(tmp_path / "weights").config.dynamics.odd_types == (0, 2, 4)
    t, x, h, mask = torch.full((1,), 0.9), torch.randn(1, 5, 3), torch.randn(1, 5, 5), torch.ones(1, 5).bool()
    first, second = (flow_of(trainer, data).velocity(t, x, h, mask) for trainer in (alone, with_parity))
    assert torch.equal(first[0], second[0])
    assert (first[1] - second[1]).abs().max() > 1e-4


def test_with_types_given_training_starts_from_a_model_that_draws_them(qm9, tmp_path):
    flow = replace(TINY.flow, dynamics=replace(TINY.flow.dynamics, odd_types=(0, 2, 4)))
    data, drawing = load_qm9(qm9, "train"), Trainer(replace(TINY, flow=flow))
    drawing.initialize(data)
    export(drawing, drawing.config, data, tmp_path / "weights")
    still = replace(TINY.flow, dynamics=replace(TINY.flow.dynamics, output="still"), dequantizer=GIVEN)
    given = Trainer(replace(TINY, flow=still, start=str(tmp_path / "weights")))
    given.initialize(data, starting_flow(given.config))
    pairs, _ = given.draw(data, np.flatnonzero(data.n_atoms == 5)[:4], step=0)
    t, scale = torch.full((4,), 0.7), TINY.flow.dequantizer.scale
    found, still_types = given.network(t, pairs.x0, pairs.h1, pairs.mask)
    expected, _ = drawing.network(t, pairs.x0, scale * pairs.h1, pairs.mask)
    torch.testing.assert_close(found, expected)
    assert not still_types.any()
    assert expected.abs().max() > 1e-4
    deeper = replace(still, dynamics=replace(still.dynamics, n_layers=3))
    with pytest.raises(ConfigError, match="weights holds another model"):
        starting_flow(replace(given.config, flow=deeper))


def test_a_run_is_neither_overwritten_nor_resumed_from_nothing(qm9, tmp_path):
    with pytest.raises(DataError, match="to resume from"):
        list(train(TINY, tmp_path / "run", resume=True))
    list(train(TINY, tmp_path / "run", resume=False))
    with pytest.raises(DataError, match="continue with --resume"):
        list(train(TINY, tmp_path / "run", resume=False))


def test_a_damaged_state_is_named(qm9, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(DataError, match="not a training state"):
        Trainer(TINY).load(tmp_path / "state.pt")


def test_an_epoch_shows_every_molecule_once_in_batches_of_one_size():
    n_atoms = np.random.default_rng(0).integers(3, 8, 100)
    plan = batch_plan(n_atoms, 8, seed=3, epoch=0)
    assert sorted(np.concatenate(plan)) == list(range(100))
    assert all(len(set(n_atoms[rows])) == 1 for rows in plan)
    later = [next(batches(n_atoms, 8, 3, step)) for step in range(len(plan) + 2)]
    expected = plan + batch_plan(n_atoms, 8, seed=3, epoch=1)[:2]
    assert all(np.array_equal(a, b) for a, b in zip(later, expected, strict=True))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_no_batch_is_left_with_one_molecule(batch_size):
    n_atoms = np.array([9] * 7 + [12] * 17 + [18] * 9 + [29])
    plan = batch_plan(n_atoms, batch_size, seed=3, epoch=0)
    assert set(np.concatenate(plan)) == set(range(len(n_atoms)))
    assert len(plan) == sum(-(-count // batch_size) for count in (7, 17, 9, 1))
    assert all(len(set(n_atoms[rows])) == 1 for rows in plan)
    sizes = {len(rows) for rows in plan}
    assert sizes == {1} if batch_size == 1 else sizes <= set(range(2, batch_size + 1))


def test_muon_gets_the_hidden_matrices_and_adam_all_else():
    network = Trainer(TINY).network
    hidden, rest = split_parameters(network)
    assert {p.ndim for p in hidden} == {2}
    assert len(hidden) == 2 * 7
    assert sum(p.numel() for p in hidden + rest) == sum(p.numel() for p in network.parameters())


def test_the_rate_warms_up_stays_and_anneals_to_zero():
    assert rate_at(0, 0, None) == 1.0
    assert [rate_at(s, 4, None) for s in (0, 1, 3, 99)] == [0.25, 0.5, 1.0, 1.0]
    assert [rate_at(s, 4, (100, 12)) for s in (100, 104, 106, 112, 113)] == pytest.approx([1.0, 0.75, 0.5, 0.0, 0.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"speed": 1}', "unknown key 'speed' in bad.json"),
        ('{"flow": {"dynamics": {"width": 3}}}', "unknown key 'width' in bad.json.flow.dynamics"),
        ('{"batch_size": "64"}', "bad.json.batch_size is '64'; expected"),
        ('{"batch_size": 0}', "bad.json.batch_size is 0; expected more than 0"),
        ('{"passes": -1}', "bad.json.passes is -1; expected more than 0"),
        ('{"checkpoint_minutes": 0}', "bad.json.checkpoint_minutes is 0; expected more than 0"),
        ('{"optimizer": {"warmup_steps": -1}}', "bad.json.optimizer.warmup_steps is -1; expected at least 0"),
        ('{"optimizer": {"ema": 1.0}}', "bad.json.optimizer.ema is 1.0; expected less than 1"),
        ('{"matching": {"transport": -1}}', "bad.json.matching.transport is -1; expected at least 0"),
        ('{"likelihood": {"tolerance": 0}}', "bad.json.likelihood.tolerance is 0; expected more than 0"),
        ('{"seed": -1}', "bad.json.seed is -1; expected at least 0"),
        ('{"optimizer": {"adam_rate": Infinity}}', "bad.json.optimizer.adam_rate is inf; expected a finite number"),
        ('{"flow": {"vocabulary": []}}', "expected at least one element, each once"),
        ('{"flow": {"vocabulary": [1, 1, 6]}}', "expected at least one element, each once"),
        ('{"flow": {"vocabulary": [1, 900]}}', "bad.json.flow.vocabulary item 2 is 900; expected at most 118"),
        ('{"flow": {"vocabulary": [1, 6]}}', "n_features 5; expected 2, for 2 elements"),
        ('{"flow": {"dynamics": {"n_features": 6}}}', "n_features 6; expected 5, for 5 elements"),
        ('{"flow": {"dynamics": {"kind": "gnn", "n_features": 5, "n_dims": 2}}}', "in 3 dimensions"),
        ('{"flow": {"dequantizer": {"kind": "gumbel"}}}', "bad.json.flow.dequantizer.kind is 'gumbel'; expected"),
        ('{"flow": {"dynamics": {"message_scale": 0}}}', "message_scale is 0; expected more than 0"),
        ('{"flow": {"dynamics": {"feature_sigma": -1.0}}}', "feature_sigma is -1.0; expected more than 0"),
        ('{"flow": {"dynamics": {"tanh_range": NaN}}}', "tanh_range is nan; expected a finite number"),
        ('{"pair_dtype": "float8"}', "expected one of float32, bfloat16"),
        ('{"objective": "score"}', "objective is 'score'; expected one of flow_matching, likelihood, dequantizer"),
        ('{"objective": "likelihood", "compile": true}', 'needs pair_dtype "float32" and no compile'),
        ('{"likelihood": {"probe": "cauchy"}}', "probe is 'cauchy'; expected"),
        ("{", "is not JSON"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_every_shipped_configuration_can_be_read():
    import enflow.model.training

    folder = Path(enflow.model.training.__file__).parent / "configs"
    found = {path.name: read_config(path) for path in folder.glob("*.json")}
    assert {config.objective for config in found.values()} == {"flow_matching", "likelihood", "dequantizer"}
