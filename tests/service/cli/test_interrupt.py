"""Ctrl-C during a command: what is finished is kept, and the command says where."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from enflow.model.chem.io.formats import read
from enflow.model.chem.io.xyz import write_xyz
from enflow.model.chem.molecule import Molecule
from enflow.model.chem.particle_systems import PARTICLE
from enflow.service.__main__ import main
from enflow.service.cli import likelihood, sample

MANY = 200
"""Particle systems, which are not all finished by the same step of the solver."""


@contextmanager
def _interrupting() -> Iterator[Callable[..., None]]:
    """A progress bar that sends Ctrl-C when the first result is finished."""
    sent = False

    def report(_task: str, done: int, _total: int, _note: str = "") -> None:
        nonlocal sent
        if done and not sent:
            sent = True
            signal.raise_signal(signal.SIGINT)

    yield report


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> object:
    """Run a command that Ctrl-C ends after its first result: its output and its messages."""
    for command in (sample, likelihood):
        monkeypatch.setattr(command, "progress", _interrupting)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["enflow", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 130
        return capsys.readouterr()

    return run


def test_finished_samples_are_written(interrupted) -> None:
    _, err = interrupted("sample", "dw4", "-n", str(MANY), "--seed", "1", "--tolerance", "draft", "--out", "some.xyz")
    kept = len(read(Path("some.xyz").read_text()))
    assert 1 <= kept < MANY
    assert f"{kept} of {MANY} molecules kept; {MANY - kept} x the request was cancelled, seed 1" in err
    assert err.endswith("enflow: some.xyz has what was finished\nenflow: interrupted\n")


def test_an_interrupt_before_the_first_result_is_reported(interrupted, monkeypatch) -> None:
    @contextmanager
    def interrupting() -> Iterator[Callable[..., None]]:
        signal.raise_signal(signal.SIGINT)
        yield lambda *_: None

    monkeypatch.setattr(sample, "progress", interrupting)
    assert interrupted("sample", "dw4", "--seed", "1", "--out", "none.xyz") == ("", "enflow: interrupted\n")
    assert not Path("none.xyz").exists()


def test_finished_samples_are_printed(interrupted) -> None:
    out, err = interrupted("sample", "dw4", "-n", str(MANY), "--seed", "1", "--tolerance", "draft")
    assert 1 <= len(read(out)) < MANY
    assert err.endswith("enflow: the output has what was finished\nenflow: interrupted\n")


def test_finished_scores_are_written(interrupted) -> None:
    square = 3.0 * np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]])
    moves = np.random.default_rng(0).normal(scale=0.3, size=(MANY, 4, 3)) * [1.0, 1.0, 0.0]
    Path("many.xyz").write_text(write_xyz(Molecule([PARTICLE] * 4, square + each) for each in moves))
    options = ("--weights", "dw4", "--tolerance", "draft", "--draws", "1", "--probes", "1")
    _, err = interrupted("likelihood", "many.xyz", *options, "--out", "scored.xyz")
    scored = read(Path("scored.xyz").read_text())
    assert 1 <= len(scored) < MANY
    assert all("nll" in each.properties for each in scored)
    assert err.endswith("enflow: scored.xyz has what was finished\nenflow: interrupted\n")
