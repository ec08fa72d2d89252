"""The command line: its output and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from enflow import __version__
from enflow.service.__main__ import main


@pytest.fixture
def enflow(monkeypatch, capsys):
    """Run a command: (exit code, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["enflow", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate nowhere", "found no weights 'nowhere'"),
        ("particles evaluate nowhere", "found no weights 'nowhere'"),
        ("evaluate dw4", "dw4 holds a model of particles, expected one of molecules; `enflow particles evaluate`"),
        ("evaluate qm9-fragment", "expected one of all atoms; `enflow sample --fragment`"),
        ("particles evaluate qm9", "qm9 holds a model of molecules, expected one of particles; `enflow evaluate`"),
        ("data particles lj55", "found system 'lj55'; expected dw4 or lj13"),
        ("data qm9 --files nowhere", "no dsgdb9nsd.xyz.tar.bz2 in nowhere"),
        ("train nowhere.json", "cannot read nowhere.json"),
        ("import-en-flows nowhere out", "no file nowhere/flow.npy"),
        ("sample --n-atoms 30", "found 30 atoms; the model knows at most 29"),
        ("sample --out molecules.pdb", "found the ending 'pdb' of molecules.pdb; expected one of .xyz, .sdf, .json"),
        ("sample --out nowhere/molecules.sdf", "cannot write nowhere/molecules.sdf"),
        ("sample --tolerance fine", "found tolerance 'fine'; expected draft, standard, precise, or a number"),
        ("sample --weights nowhere", "found no weights 'nowhere', expected a directory with card.json"),
        ("sample weights/dw4 --out dw4.sdf", "dw4 is of particles; expected .xyz, .json or .html"),
        ("sample dw4 --only valid", "dw4 is one of particles: particles have no bonds and no valence"),
        ("sample --formula Foo", "found formula 'Foo', expected elements with counts, such as C7H10O2"),
        ("sample --formula SiH4", "found element Si, expected one of H, C, N, O, F"),
        ("sample --device toaster", "found device 'toaster'; expected auto, cpu or cuda"),
        ("serve --port 99999", "ENFLOW_PORT: Input should be less than or equal to 65535"),
        ("serve --host 0.0.0.0", "without API keys: anybody who reaches it could use it"),
        ("jobs list --url http://127.0.0.1:0", "found no service (ConnectError); start it by `enflow serve`"),
        (
            "jobs submit nowhere.json",
            "nowhere.json cannot be read: No such file or directory; expected JSON or a file with it",
        ),
        ("jobs results 0 --out molecules.pdb", "found the ending '.pdb' of molecules.pdb; expected one of .json"),
        ("serve --weights nowhere", "nowhere/card.json (No such file or directory)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(enflow, arguments, message):
    assert refusal(enflow(*arguments.split()), message) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate nowhere --samples many", "--samples"),
        ("evaluate nowhere --samples -1", "--samples"),
        ("evaluate nowhere --seed -1", "--seed"),
        ("data particles --seed -1", "--seed"),
        ("particles evaluate nowhere --seed -1", "--seed"),
        ("evaluate nowhere --divergence guess", "'guess' is not one of"),
        ("particles table lj55", "'lj55' is not one of"),
        ("sample -n 0", "-n"),
        ("sample --seed 9007199254740992", "--seed"),
        ("variations --seed 9007199254740992 molecule.sdf", "--seed"),
        ("likelihood --seed 9007199254740992 molecules.sdf", "--seed"),
        ("likelihood", "Missing argument"),
        ("likelihood --draws 0 molecules.sdf", "--draws"),
        ("paint", "No such command 'paint'"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(enflow, arguments, message):
    assert refusal(enflow(*arguments.split()), message) == 2


def refusal(ended: tuple[int, str, str], message: str) -> int:
    """Return the exit code of a command that printed this message in one line on standard error, and no result."""
    code, out, err = ended
    assert out == ""
    assert err.startswith("enflow: ")
    assert err.count("\n") == 1
    assert message in err
    return code


@pytest.mark.parametrize(
    "command", ["", "serve", "sample", "likelihood", "data", "data qm9", "train", "evaluate", "import-en-flows"]
)
def test_help_describes_a_command(enflow, command):
    code, out, err = enflow(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert "Usage: enflow" in out
    assert len(out.splitlines()) > 5


@pytest.mark.parametrize(
    ("commands", "text"),
    [
        ("data particles,train,compile", "Print the results as JSON, one object per line."),
        ("sample,variations,likelihood,evaluate,data qm9,data inchikeys,import-en-flows", "one object in one line."),
        ("particles table,particles evaluate,jobs submit,jobs list,jobs show,jobs wait", "one object in one line."),
    ],
)
def test_the_help_says_how_many_objects_a_command_prints(enflow, commands, text):
    for command in commands.split(","):
        assert text in " ".join(enflow(*command.split(), "--help")[1].split()), command


def test_a_command_of_several_results_prints_an_object_in_each_line(enflow, monkeypatch):
    monkeypatch.setattr("enflow.model.checkpoint.compile_weights", lambda name: Path(name) / "code")
    code, out, _ = enflow("compile", "dw4", "lj13", "--json")
    assert (code, [json.loads(line)["weights"] for line in out.splitlines()]) == (0, ["dw4", "lj13"])


def test_particles_are_sampled_and_scored_as_the_service_does(enflow, tmp_path, monkeypatch):
    """Bundled weights are found by their name in any working directory."""
    monkeypatch.chdir(tmp_path)
    code, out, _ = enflow("sample", "dw4", "-n", "2", "--seed", "3", "--with-nll", "--json")
    assert code == 0
    first, second = json.loads(out)["molecules"]
    assert (first["kind"], second["index"], len(first["positions"][0])) == ("particles", 1, 2)
    assert enflow("sample", "dw4", "-n", "2", "--seed", "3", "--out", "two.xyz")[0] == 0
    code, out, _ = enflow("likelihood", "two.xyz", "--weights", "dw4", "--divergence", "exact", "--json")
    assert code == 0
    scores = json.loads(out)["results"]
    # At the standard tolerance the quadrature may leave 0.3 nats, and the file rounds the positions.
    assert [score["nll"] for score in scores] == pytest.approx([first["nll"], second["nll"]], abs=0.1)
    assert [score["energy"] for score in scores] == pytest.approx([first["energy"], second["energy"]], abs=1e-3)


def test_an_interrupted_evaluation_says_where_its_results_are(enflow, tmp_path, monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("enflow.model.training.data.qm9.data_file", lambda: tmp_path / "qm9.npz")
    monkeypatch.setattr("enflow.model.training.evaluation.evaluate.evaluate", interrupt)
    code, out, err = enflow("evaluate", "qm9", "--out", str(tmp_path))
    assert (code, out) == (130, "")
    assert f"enflow: {tmp_path} has what was finished, and the same command continues\n" in err
    assert err.endswith("enflow: interrupted\n")


def test_an_interrupted_table_of_particles_says_where_its_results_are(enflow, tmp_path, monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("enflow.model.training.data.particles.load", lambda *_: None)
    monkeypatch.setattr("enflow.model.training.experiments.particle_benchmark.train_cells", interrupt)
    code, _, err = enflow("particles", "table", "dw4", "--folder", str(tmp_path))
    assert code == 130
    assert f"enflow: {tmp_path} has what was finished, and the same command continues\n" in err
    assert err.endswith("enflow: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a device that is always full")
def test_a_full_device_behind_the_output_is_one_line():
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "enflow.service", "--version"], stdout=full, stderr=subprocess.PIPE
        )
    assert ended.returncode == 1
    assert ended.stderr == b"enflow: output: No space left on device\n"


def test_the_version_is_that_of_the_package(enflow):
    assert enflow("--version") == (0, f"enflow {__version__}\n", "")


@pytest.mark.parametrize("command", ["", "sample", "data qm9"])
def test_the_short_form_of_help(enflow, command):
    assert enflow(*command.split(), "-h") == enflow(*command.split(), "--help")


def test_no_command_shows_the_help(enflow):
    code, out, _ = enflow()
    assert code == 0
    assert "import-en-flows" in out


def test_the_original_model_is_imported_and_loads(enflow, shared, tmp_path):
    from enflow.model.checkpoint import load

    code, out, _ = enflow("import-en-flows", str(shared / "reference/en_flows_qm9"), str(tmp_path / "w"), "--json")
    assert code == 0
    assert json.loads(out)["path"] == str(tmp_path / "w")
    cut_off = 65  # parameters of the output of the time, which is not used
    assert sum(p.numel() for p in load(tmp_path / "w").dynamics.parameters()) == 176_461 - cut_off


NOT_UTF_8 = os.fsdecode(b"out-\xff")
"""The name of a folder as Python receives it: half of a surrogate pair stands for the byte that is not UTF-8."""


def test_json_of_an_import_has_a_name_that_is_not_utf_8(enflow, shared: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = enflow("import-en-flows", str(shared / "reference" / "en_flows_qm9"), NOT_UTF_8, "--json")
    assert code == 0
    assert json.loads(out)["path"] == "out-\ufffd"
    assert (tmp_path / NOT_UTF_8 / "card.json").exists()


def test_json_of_a_training_has_a_name_that_is_not_utf_8(enflow, tmp_path: Path, monkeypatch) -> None:
    records = [{"step": 1, "passes": 2, "loss_x": 0.5}]
    monkeypatch.setattr("enflow.model.training.run.train", lambda *_, **__: iter(records))
    monkeypatch.setattr("enflow.model.training.export.export_state", lambda *_: SimpleNamespace(weights_sha256="0"))
    config = Path("model/training/configs/qm9.json")
    code, out, _ = enflow("train", str(config.absolute()), "--run", str(tmp_path), "--out", NOT_UTF_8, "--json")
    assert code == 0
    trained, written = (json.loads(line) for line in out.splitlines())
    assert trained == records[0]
    assert written == {"path": "out-\ufffd", "weights_sha256": "0"}
