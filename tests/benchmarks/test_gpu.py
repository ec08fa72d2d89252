"""The GPU command on a CPU: every stage runs, on a machine with few packages, and what it brings can be evaluated."""

import json
import os
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu import checks, judge, supervisor
from benchmarks.gpu.bare import ROOT, unchecked_jaxtyping
from benchmarks.gpu.context import Context
from benchmarks.gpu.judge import record, weights_of
from benchmarks.gpu.parts import PART_BYTES, read_parts, write_parts
from benchmarks.gpu.references import references
from benchmarks.gpu.report import Report
from benchmarks.gpu.stages import STAGES, Stage, _attempt
from benchmarks.gpu.training import Steps, Training, coupled_by_workers, load_state, stretched
from enflow.model import checkpoint
from enflow.model.chem.molecule import Molecule
from enflow.model.config import FlowConfig, VectorEGNNConfig
from enflow.model.errors import DataError
from enflow.model.flow.divergence import velocity_and_vjp
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.methods import ADAMS, DORMAND_PRINCE
from enflow.model.training.config import TrainConfig
from enflow.model.training.data.qm9 import SETTING, batches, load_qm9
from enflow.model.training.export import export
from enflow.model.training.flow_matching import CoupledPairs
from enflow.model.training.optimizer import rate_at
from enflow.model.training.trainer import Trainer, compiled

NEEDED = {"torch", "numpy", "scipy", "pydantic", "safetensors", "torchdiffeq", "filelock"}  # torch brings the last

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}} on a bare machine", name=name)

sys.meta_path.insert(0, Blocker())
"""

CONFIG = {
    "flow": {
        "dynamics": {"kind": "vector_egnn", "node_dim": 8, "edge_dim": 4, "n_vectors": 2, "n_layers": 1},
        "refinements": 1,
    },
    "batch_size": 8,
    "pair_dtype": "bfloat16",
}
TINY = TrainConfig(
    flow=FlowConfig(dynamics=VectorEGNNConfig(node_dim=8, edge_dim=4, n_vectors=2, n_layers=1), refinements=1),
    batch_size=8,
    pair_dtype="bfloat16",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set, weights, a run and their references."""
    folder = tmp_path_factory.mktemp("gpu")
    rng = np.random.default_rng(0)
    counts = np.array([5] * 40 + [4] * 20, np.uint8)
    square = np.array([[0, 0, 0], [1.5, 0, 0], [0, 1.5, 0], [1.5, 1.5, 0], [0.7, 0.7, 1.2]], np.float32)
    positions = np.concatenate([square[:n] + 0.05 * rng.standard_normal((n, 3)) for n in counts])
    numbers = np.concatenate([[6, 6, 6, 6, rng.choice([1, 8])][:n] for n in counts]).astype(np.uint8)
    arrays = {"num_atoms": counts, "atomic_numbers": numbers, "positions": positions.astype(np.float32)}
    np.savez(folder / "qm9.npz", **arrays, split=(np.arange(60) % 3).astype(np.uint8))
    trainer, data = Trainer(TINY), load_qm9(folder / "qm9.npz", "train")
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(json.dumps(CONFIG))
    trainer.save(folder / "run" / "state.pt")
    export(trainer, TINY, data, folder / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SETTING, str(folder))
        known = references(folder / "weights", folder / "run", (4, 4, 2))
    np.savez(folder / "references.npz", **known)
    return folder


def start(place: Path, out: Path, *further: str) -> subprocess.Popen[str]:
    """Start the command where only what it needs can be imported."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    blocked = {name.replace("-", "_") for name in listed} - NEEDED
    (place / "blocker").mkdir(exist_ok=True)
    (place / "blocker" / "sitecustomize.py").write_text(BLOCKER.format(blocked=blocked))
    paths = os.pathsep.join([str(place / "blocker"), os.environ.get("PYTHONPATH", "")])
    folders = [f"--{name}={place / name}" for name in ("weights", "run")]
    command = [sys.executable, "-m", "benchmarks.gpu", "--device=cpu", "--smoke", f"--out={out}", *folders, *further]
    environment = {**os.environ, "PYTHONPATH": paths, SETTING: str(place)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def done(place):
    """The folder after the command, and its output."""
    process = start(place, place / "out", "--seconds=900", f"--references={place / 'references.npz'}")
    output, _ = process.communicate(timeout=550)
    return place / "out", output, process.returncode


def test_every_stage_passes_where_only_the_named_packages_are_and_files_stay_small(done):
    out, output, code = done
    outcomes = {one.name: one.outcome for one in Report.read(out).stages}
    assert outcomes == {stage.name: "PASS" for stage in STAGES} | {"graph replay": "SKIP"}, output
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == list(outcomes.values())
    files = list(out.iterdir())
    assert len(files) <= 8
    assert all(file.stat().st_size < 16_000_000 for file in files)


def test_what_it_brings_can_be_evaluated_and_trained_further(done, place, monkeypatch):
    monkeypatch.setenv(SETTING, str(place))
    weights = weights_of(done[0], place / "run")
    flow, card = checkpoint.load(weights), checkpoint.read_card(weights)
    assert record(done[0] / "samples.npz", place, card.weights_sha256) == 4
    lines = [json.loads(line) for line in (place / "samples.jsonl").read_text().splitlines()]
    assert lines[0] == {"weights_sha256": card.weights_sha256, "seed": 0, "tolerance": 1e-3}
    for one, line in zip(
        sorted(flow.samples([None] * 4, refinements=0), key=lambda one: one.index), lines[1:], strict=True
    ):
        assert line["atomic_numbers"] == one.molecule.atomic_numbers.tolist()
        np.testing.assert_allclose(line["positions"], one.molecule.positions, atol=1e-3)
    before, after = Trainer(TINY), Trainer(TINY)
    before.load(place / "run" / "state.pt")
    after.load(done[0] / "run" / "state.pt")
    assert after.anneal is None
    assert card.metrics["training_passes"] > after.passes > before.passes


def test_its_samples_are_judged_and_none_are_made_anew(done, place, monkeypatch):
    """The samples are not refined, whatever the configuration of the run says of refinements."""
    monkeypatch.setenv(SETTING, str(place))
    monkeypatch.setattr(sys, "argv", ["judge", str(done[0]), "--run", str(place / "run")])
    asked = []
    monkeypatch.setattr(MoleculeFlow, "samples", lambda _, sizes, *__: asked.extend(sizes) or iter(()))
    judge.main()
    assert asked == []
    metrics = checkpoint.read_card(done[0] / "weights").metrics
    assert metrics["samples"] == 4
    assert "refinements" not in metrics


@pytest.fixture
def context(place, tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, str(place))
    folders = place / "weights", place / "run", place / "references.npz"
    return Context(900.0, time.time(), "cpu", True, tmp_path, *folders)


def test_an_interrupted_training_saves_its_state(context, monkeypatch):
    training, step = Training(context, context.trainer()), Training._step

    def interrupted(self):
        step(self)
        if self.trainer.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.until(time.time() + 1e6, "state")
    found = Trainer(TINY)
    load_state(found, context.out, "state")
    assert found.step == 3


def test_a_stage_that_fails_has_its_reason_in_the_report_and_does_not_end_the_others(context):
    def lost(_context):
        raise torch.AcceleratorError("an illegal memory access")

    assert _attempt(Stage(lost), context) == ("FAIL", ANY, True)
    outcome, facts, ended = _attempt(Stage(checks.eager_velocity), replace(context, references=Path("nothing.npz")))
    assert (outcome, ended) == ("FAIL", False)
    assert facts["reason"].startswith("DataError: no nothing.npz; make it by")
    assert _attempt(Stage(checks.graph_replay), context) == ("SKIP", {"reason": "no GPU, no graph"}, False)
    assert _attempt(Stage(checks.versions), replace(context, start=0.0)) == ("SKIP", {"reason": "no time"}, False)


def test_references_of_other_weights_are_refused(context, tmp_path):
    with np.load(context.references) as file:
        np.savez(tmp_path / "other.npz", **{**file, "weights_sha256": "beef"})
    with pytest.raises(DataError, match="found references of weights beef, expected"):
        checks.eager_velocity(replace(context, references=tmp_path / "other.npz"))


def test_a_process_that_dies_fails_the_stage_that_was_next(context, monkeypatch):
    monkeypatch.setattr(supervisor, "process_arguments", lambda _context: ["--unknown"])
    assert supervisor.supervise(context)
    (found,) = Report.read(context.out).stages
    assert (found.name, found.outcome, found.facts) == (
        "versions", "FAIL", {"reason": "the process ended, exit code 2"}
    )  # fmt: skip


def test_parts_are_joined_and_mixed_parts_are_refused(tmp_path):
    content = np.random.default_rng(0).bytes(2 * PART_BYTES + 5)
    write_parts(tmp_path, "state", content[:100])
    write_parts(tmp_path, "state", content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.1of3", "state.2of3", "state.3of3"]
    assert read_parts(tmp_path, "state") == content
    (tmp_path / "state.2of3").write_bytes((tmp_path / "state.1of3").read_bytes())
    with pytest.raises(ValueError, match="not those of one file"):
        read_parts(tmp_path, "state")
    (tmp_path / "state.2of3").unlink()
    with pytest.raises(FileNotFoundError, match=r"found 2 parts of .*state, expected 3"):
        read_parts(tmp_path, "state")


def test_workers_draw_what_the_training_draws(place):
    data, trainer = load_qm9(place / "qm9.npz", "train"), Trainer(TINY)
    steps = Steps(TINY, data)
    rows = batches(data.n_atoms, TINY.batch_size, TINY.seed, 0)
    for step in range(2 * steps.per_epoch):
        pairs, times = trainer.draw(data, next(rows), step)
        packed, drawn = steps[step]
        assert torch.equal(drawn, times)
        parts = [pairs.x0, pairs.x1, pairs.h0, pairs.h1, pairs.centres]
        assert torch.equal(packed, torch.cat(parts, -1))


def test_workers_that_fail_are_replaced_without_a_gap(place, monkeypatch):
    steps = Steps(TINY, load_qm9(place / "qm9.npz", "train"))

    def failing(given, sampler, **_settings):
        yield from (given[number] for number in sampler[:3])
        raise RuntimeError("a worker was killed")

    monkeypatch.setattr("benchmarks.gpu.training.DataLoader", failing)
    found = zip(range(5, 12), coupled_by_workers(steps, 5, 2), strict=False)
    assert all(torch.equal(packed, steps[number][0]) for number, (packed, _) in found)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_two_processes_couple_as_one(place):
    steps = Steps(TINY, load_qm9(place / "qm9.npz", "train"))
    for number, (packed, times) in zip(range(4, 9), coupled_by_workers(steps, 4, 2), strict=False):
        assert torch.equal(packed, steps[number][0])
        assert torch.equal(times, steps[number][1])


def test_an_annealing_that_is_stretched_keeps_its_rate_and_ends_in_time():
    anneal = 1000, 400
    found = stretched(anneal, 1100, 900)
    assert rate_at(1100, 0, found) == pytest.approx(rate_at(1100, 0, anneal), abs=1e-3)
    assert rate_at(2000, 0, found) == pytest.approx(0, abs=1e-5)
    assert stretched(None, 5, 5) is None


def test_annotations_need_no_jaxtyping():
    assert unchecked_jaxtyping().Float[Tensor, "B N"] is Tensor


def test_the_bundled_references_are_those_of_this_code():
    """A change of a solver or of the estimator moves them; then `python -m benchmarks.gpu.references` is due."""
    flow, kept = checkpoint.load("qm9", "cpu", torch.float64), np.load(supervisor.DEFAULT_REFERENCES)
    index = int(kept["molecules_n_atoms"].argmin())
    n_atoms = int(kept["molecules_n_atoms"][index])
    (sample,) = flow.samples([n_atoms], seed=0, indices=[index], refinements=0)
    np.testing.assert_allclose(sample.molecule.positions, kept["molecules_positions"][index, :n_atoms], atol=1e-4)
    index = int(kept["likelihood_n_atoms"].argmin())
    numbers, positions = (kept[f"likelihood_{part}"][index] for part in ("numbers", "positions"))
    atoms = slice(int(kept["likelihood_n_atoms"][index]))
    (scored,) = flow.log_prob([Molecule(numbers[atoms], positions[atoms])], draws=1, probes=1)
    assert scored.nll == pytest.approx(float(kept["likelihood_nll"][index]), abs=1e-3)


def test_no_step_of_solver_or_training_reads_a_value_on_the_host(monkeypatch):
    """Tensors on the device "meta" have no values: whoever reads one gets an exception."""
    monkeypatch.setattr(
        import_module("torch.optim.optimizer"), "_get_fused_kernels_supported_devices", lambda: ["meta"]
    )
    with pytest.raises(RuntimeError, match="meta"):
        float(torch.ones((), device="meta"))
    trainer = Trainer(TINY, "meta")
    network = compiled(trainer.network, TINY)
    x, h, t = (torch.empty(4, *shape, device="meta") for shape in ((6, 3), (6, 5), ()))
    mask = torch.ones(4, 6, dtype=torch.bool, device="meta")
    for _ in range(3):
        trainer.update(network, (CoupledPairs(x, x, h, h, h, mask), t), 4)
    with torch.no_grad():
        for method in (ADAMS, DORMAND_PRINCE):
            state = method.init(network, x, h, mask, (0.0, 1.0), (1e-3, 1e-3))
            assert method.step(network, state).state.x.device.type == "meta"
    assert velocity_and_vjp(network, t, x, h, mask, torch.cat([x, h], -1))[1].shape == (
        4,
        *x.shape[1:-1],
        3 + h.shape[-1],
    )
