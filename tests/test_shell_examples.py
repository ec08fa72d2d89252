"""The commands in the README run as written, with the bundled weights."""

import json
import shlex
import sys

import pytest

from enflow.service.__main__ import main
from tests.documents import blocks, commands


def test_shell_examples_work_as_written(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("sh", "enflow sample")
    printed = []
    for command in commands(block):
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        assert not end.value.code, f"{shlex.join(command)}: {output.err}"
        printed.append(output.out)
    assert (tmp_path / "molecules.sdf").read_text().count("$$$$") == 4
    assert [m["n_atoms"] for m in json.loads(printed[1])["molecules"]] == [12, 12]
    assert all(m["stable"] for m in json.loads(printed[1])["molecules"])
    assert len(printed[4].splitlines()) == 5
    assert (tmp_path / "scored.sdf").read_text().count("<nll>") == 4
    assert (tmp_path / "near.sdf").read_text().count("$$$$") == 4
    assert (tmp_path / "lj13.xyz").read_text().count("energy=") == 10
