"""The commands `enflow jobs ...` against a running service."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from enflow.service.__main__ import main
from tests.service.conftest import Api

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def jobs(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `enflow jobs ...`: (exit code, standard output, standard error)."""
    monkeypatch.setenv("ENFLOW_URL", str(api.http.base_url))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["enflow", "jobs", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return code or 0, *capsys.readouterr()

    return run


def test_a_job_from_its_start_to_its_file(jobs: Run, tmp_path: Path) -> None:
    code, out, _ = jobs("submit", '{"sample": {"n_molecules": 70, "n_atoms": 5}}', "--json")
    job = json.loads(out)["id"]
    assert code == 0
    code, out, _ = jobs("wait", job)
    assert (code, out.split()) == (0, [job, "sample", "done", "70", "of", "70"])
    assert job in jobs("list")[1]
    assert json.loads(jobs("show", job, "--json")[1])["done"] == 70
    for name, mark, count in [("m.sdf", "$$$$", 70), ("m.xyz", "Properties=", 70), ("m.ndjson", "\n", 70)]:
        code, out, err = jobs("results", job, "--out", str(tmp_path / name))
        assert (code, out) == (0, "")
        assert (tmp_path / name).read_text().count(mark) == count
    jobs("results", job, "--first", "60", "--count", "5", "--out", str(tmp_path / "part.json"))
    assert [each["index"] for each in json.loads((tmp_path / "part.json").read_text())["molecules"]] == [*range(60, 65)]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.ndjson", "m.sdf", "m.xyz", "part.json"]
    assert jobs("cancel", job)[0] == 0
    code, out, err = jobs("show", job)
    assert (code, out) == (1, "")
    assert err.startswith("enflow: found no job with this id")


def test_results_follow_a_symbolic_link(jobs: Run, tmp_path: Path) -> None:
    job = json.loads(jobs("submit", '{"sample": {"n_molecules": 1, "n_atoms": 5}}', "--json")[1])["id"]
    jobs("wait", job)
    (tmp_path / "disk").mkdir()
    target, link, loop = tmp_path / "disk" / "m.sdf", tmp_path / "link.sdf", tmp_path / "loop.sdf"
    link.symlink_to(target)  # which does not exist yet
    loop.symlink_to(loop)
    for _ in range(2):
        assert jobs("results", job, "--out", str(link))[0] == 0
        assert link.is_symlink()
        assert target.read_text().count("$$$$") == 1
    assert [each.name for each in target.parent.iterdir()] == ["m.sdf"]
    assert "Traceback" not in jobs("results", job, "--out", str(loop))[2]


def test_a_refusal_is_one_line(jobs: Run, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text('{"sample": {"n_molecules": 0}}')
    code, out, err = jobs("submit", str(tmp_path / "body.json"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("enflow: sample/n_molecules: ")


def test_a_job_from_a_closed_standard_input_is_one_line(jobs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert jobs("submit", "-") == (1, "", "enflow: standard input is closed, expected a file or a pipe behind it\n")


def test_waiting_for_a_job_that_is_cancelled_ends_with_an_error(jobs: Run, api: Api) -> None:
    api.client.steps, api.client.pause = 10**6, 0.01
    job = json.loads(jobs("submit", '{"sample": {"n_molecules": 7}}', "--json")[1])["id"]
    api.http.delete(f"/jobs/{job}")
    code, out, err = jobs("wait", job)
    assert (code, out.split()[2]) == (1, "cancelled")
    assert "is cancelled" in err
