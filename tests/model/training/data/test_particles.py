"""The samples of a system: split by chain and read back; a small run finds the entropy of DW4."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enflow.model.errors import ConfigError, DataError
from enflow.model.training.data import particles
from enflow.model.training.data.particles import SYSTEMS, generate, load


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("particles")
    system = SYSTEMS["dw4"]
    reduced = replace(
        system,
        annealing=replace(system.annealing, walkers=300, temperatures=80),
        floor=replace(system.floor, walkers=300, temperatures=80),
        chains=replace(system.chains, chains=60, samples=20, burn_in=50, thin=20),
        split=(40, 10, 10),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SYSTEMS, "dw4", reduced)
        generate("dw4", folder, seed=1)
    return folder


def test_a_system_is_sampled_and_read_back(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENFLOW_DATA", str(small))
    data = load("dw4")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [800, 200, 200]
    assert data.entropy == pytest.approx(
        7.14, abs=4 * data.entropy_error
    )  # of the full run, by `enflow data particles`
    assert data.entropy_error < 0.15
    assert data.potential is particles.DW4


def test_no_sample_of_one_part_occurs_in_another(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENFLOW_DATA", str(small))
    data = load("dw4")
    rows = np.concatenate([data.train, data.valid, data.test]).reshape(1200, -1)
    part_of = np.repeat([0, 1, 2], [800, 200, 200])
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    assert (part_of[first][inverse] == part_of).all()
    # A chain repeats a sample when it rejects; the first samples come from different chains.
    assert len(np.unique(data.train[:40].reshape(40, -1), axis=0)) == 40


def test_missing_samples_name_the_command_that_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENFLOW_DATA", str(tmp_path))
    with pytest.raises(DataError, match="run `enflow data particles`"):
        load("lj13")
    with pytest.raises(ConfigError, match="found system 'lj55'; expected dw4, lj13, qm9_positional"):
        load("lj55")


def test_qm9_positional_is_qm9_of_nineteen_atoms(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENFLOW_DATA", str(shared / "data"))
    data = load("qm9_positional")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [13808, 2497, 1813]  # SOURCES of the data
    assert data.train.shape[1:] == (19, 3)
    assert data.entropy is None
