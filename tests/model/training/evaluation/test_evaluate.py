"""An evaluation against an uninterrupted one, and against the bounds of single draws."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from enflow.model.chem.molecule import Molecule
from enflow.model.config import EGNNConfig, FlowConfig
from enflow.model.errors import DataError
from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.evaluation.evaluate import EvaluationConfig, evaluate, rows_to_score
from enflow.model.training.evaluation.records import RecordFile, SampleRecord
from enflow.model.training.git_commit import git_commit
from tests.conftest import REPOSITORY

METHANE = Molecule(
    [6, 1, 1, 1, 1],
    [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]],
)
WATER = Molecule([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])


def test_a_larger_choice_contains_the_smaller():
    few, many = (rows_to_score(100, EvaluationConfig(molecules=n)).tolist() for n in (10, 40))
    assert many[:10] == few
    assert len(set(many)) == 40
    with pytest.raises(DataError, match="has 100 molecules; found a request for 101"):
        rows_to_score(100, EvaluationConfig(molecules=101))


class Counting(MoleculeFlow):
    """A flow that counts its samples, and stops after a given number of them."""

    drawn, remaining = 0, 10**9

    def samples(self, *args, **kwargs):
        for one in super().samples(*args, **kwargs):
            if self.remaining == 0:
                raise KeyboardInterrupt
            self.drawn, self.remaining = self.drawn + 1, self.remaining - 1
            yield one


@pytest.fixture
def flow() -> Counting:
    torch.manual_seed(0)
    flow = Counting(FlowConfig(dynamics=EGNNConfig(node_dim=4, edge_dim=4, n_layers=1, n_radial=4)))
    return flow.eval()


@pytest.fixture
def data(tmp_path):
    """A prepared file of twelve molecules; eight of them are in the test split."""
    molecules = [METHANE, WATER] * 6
    np.savez(
        tmp_path / "qm9.npz",
        num_atoms=np.array([m.n_atoms for m in molecules], np.uint8),
        atomic_numbers=np.concatenate([m.atomic_numbers for m in molecules]).astype(np.uint8),
        positions=np.concatenate([m.positions for m in molecules]).astype(np.float32),
        split=np.array([0, 0, 0, 1] + [2] * 8, np.uint8),
    )
    return tmp_path / "qm9.npz"


def silent(what, done, total, note=""):
    pass


def test_an_interrupted_evaluation_resumes_with_the_same_result(flow, data, tmp_path):
    settings = EvaluationConfig(samples=6, molecules=3, tolerance=0.05, probes=1)
    whole = evaluate(flow, "ab", data, tmp_path / "whole", settings, silent)
    assert flow.drawn == 6
    flow.drawn, flow.remaining = 0, 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(flow, "ab", data, tmp_path / "parts", settings, silent)
    with (tmp_path / "parts" / "samples.jsonl").open("a") as file:
        file.write('{"index": 5, "n_at')  # half a line, as after a power cut
    flow.remaining = 10**9
    again = evaluate(flow, "ab", data, tmp_path / "parts", settings, silent)
    assert flow.drawn == 6
    assert again == whole
    more = EvaluationConfig(samples=7, molecules=3, tolerance=0.05, probes=1)
    evaluate(flow, "ab", data, tmp_path / "parts", more, silent)
    assert flow.drawn == 7
    evaluate(flow, "cd", data, tmp_path / "parts", settings, silent)  # other weights: nothing is reused
    assert flow.drawn == 13
    evaluate(flow, "ab", data, tmp_path / "parts", more, silent)  # and nothing was lost
    assert flow.drawn == 13


def test_samples_at_another_temperature_are_others_and_the_metrics_say_so(flow, data, tmp_path):
    first = EvaluationConfig(samples=3, molecules=2, tolerance=0.05)
    plain = evaluate(flow, "ab", data, tmp_path, first, silent)
    cold = evaluate(flow, "ab", data, tmp_path, replace(first, temperature=0.5), silent)
    assert flow.drawn == 6
    assert "temperature" not in plain.metrics
    assert cold.metrics["temperature"] == 0.5
    assert cold.metrics["test_nll"] == plain.metrics["test_nll"]
    header = {"weights_sha256": "ab", "seed": 0, "tolerance": 0.05}
    files = [RecordFile(tmp_path / "samples.jsonl", header | at, SampleRecord) for at in ({}, {"temperature": 0.5})]
    sizes = [np.linalg.norm(each.records[1].positions) for each in files]
    assert sizes[1] < 0.8 * sizes[0]


def test_refined_samples_are_others_and_the_metrics_say_so(flow, data, tmp_path):
    first = EvaluationConfig(samples=3, molecules=2, tolerance=0.05)
    plain = evaluate(flow, "ab", data, tmp_path, first, silent)
    refined = evaluate(flow, "ab", data, tmp_path, replace(first, refinements=1), silent)
    assert "refinements" not in plain.metrics
    assert refined.metrics["refinements"] == 1
    header = {"weights_sha256": "ab", "seed": 0, "tolerance": 0.05}
    files = [RecordFile(tmp_path / "samples.jsonl", header | at, SampleRecord) for at in ({}, {"refinements": 1})]
    assert files[0].records[1].positions != files[1].records[1].positions


def test_another_tolerance_in_the_same_folder_keeps_the_earlier_results(flow, data, tmp_path):
    first = EvaluationConfig(samples=3, molecules=2, tolerance=0.05)
    whole = evaluate(flow, "ab", data, tmp_path, first, silent)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    evaluate(flow, "ab", data, tmp_path, EvaluationConfig(samples=3, molecules=2, tolerance=0.1), silent)
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(tmp_path.glob("*.jsonl"))) == 2 * len(before)
    drawn = flow.drawn
    assert evaluate(flow, "ab", data, tmp_path, first, silent) == whole
    assert flow.drawn == drawn


@pytest.mark.parametrize("damage", [b'{"index": 0, "n_at', b"\x00\x00", b"\xff\xfe", b"[]", b'{"index": 0}', b""])
def test_a_damaged_line_costs_no_other_record(tmp_path, damage):
    header, records = {"seed": 0}, [SampleRecord(index, 1, [1], [[0.0, 0.0, 0.0]], 9, "SUCCESS") for index in range(3)]
    file = RecordFile(tmp_path / "samples.jsonl", header, SampleRecord)
    for record in records:
        file.append(record)
    lines = file.path.read_bytes().splitlines()
    lines[1] = damage
    file.path.write_bytes(b"\n".join(lines) + b"\n")
    again = RecordFile(file.path, header, SampleRecord)
    assert (again.path, again.records) == (file.path, {1: records[1], 2: records[2]})
    again.append(records[0])
    assert RecordFile(file.path, header, SampleRecord).records == {record.index: record for record in records}


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() == "unknown"


def test_the_commit_of_another_repository_is_not_that_of_this_code(tmp_path):
    """An environment within a repository of its user, in which the package is installed and ignored."""
    installed = tmp_path / "git_commit.py"
    installed.write_text((REPOSITORY / "model/training/git_commit.py").read_text())

    def found() -> str:
        code = "import git_commit; print(git_commit.git_commit())"
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, stdout=subprocess.PIPE).stdout

    def git(*arguments: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@b.test"]
        return subprocess.run(["git", *author, *arguments], cwd=tmp_path, text=True, stdout=subprocess.PIPE).stdout

    git("init", "-q")
    assert found() == "unknown\n"  # a repository without a commit
    git("commit", "-q", "--allow-empty", "-m", "first")
    assert found() == "unknown\n"
    git("add", installed.name)
    assert found() == git("rev-parse", "HEAD") != ""


def test_several_draws_report_the_gain_over_their_own_mean(flow, data, tmp_path):
    """By Jensen's inequality the importance-weighted bound is at least the mean bound of its draws."""
    settings = EvaluationConfig(samples=0, molecules=3, tolerance=0.05, divergence="exact", draws=3)
    found = evaluate(flow, "ab", data, tmp_path, settings, silent)
    options = EstimatorOptions("exact", 1, 3, 0.05, 0.05)
    molecules = {row: METHANE if one.n_atoms == 5 else WATER for one in found.scores for row in [one.index]}
    for one in found.scores:
        together = flow.likelihoods([molecules[one.index]], 0, options, indices=[one.index])
        ((_, likelihood),) = together
        assert one.nll == pytest.approx(likelihood.nll, abs=1e-3)
        assert sum(one.parts.values()) == pytest.approx(one.nll, abs=1e-3)
    weighted = found.metrics["importance_weighted"]
    assert weighted["gain"] > 0
    assert weighted["test_nll"] == pytest.approx(found.metrics["test_nll"] - weighted["gain"])


def test_the_error_of_one_draw_is_estimated(flow, data, tmp_path):
    """The error of a single draw equals that estimated from 31 draws of the same molecules."""
    settings = EvaluationConfig(samples=0, molecules=8, tolerance=0.01, probes=1)
    found = evaluate(flow, "ab", data, tmp_path, settings, silent)
    options = EstimatorOptions(probes=1, draws=31, rtol=0.01, atol=0.01)
    scored = dict(flow.likelihoods([WATER, METHANE], 1, options, indices=[3, 5]))
    known = [np.sqrt(31) * scored[one.n_atoms].std_error for one in found.scores]
    assert found.noise == pytest.approx(np.sqrt(np.mean(np.square(known))), rel=0.5)
    exact = EvaluationConfig(samples=0, molecules=3, tolerance=0.05, divergence="exact")
    assert evaluate(flow, "ab", data, tmp_path / "exact", exact, silent).noise == 0
