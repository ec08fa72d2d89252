"""The commands `enflow jobs ...` against a running service."""

import io
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
    assert jobs("results", job, "--out", str(tmp_path / "M.SDF"))[0] == 0
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


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('{"self": 1}', "self: found a field self"),
        ('{"sample": {"temperature": NaN}}', "sample/temperature: found nan, expected a finite number"),
        ('{"sample": {"temperature": [1, 1e999]}}', "sample/temperature/1: found inf, expected a finite number"),
        ('{"sample": {"formula": "\\ud800"}}', r"sample/formula: found '\ud800' as character 1 of a text"),
        ('{"sample": \udcff}', "found no JSON: Expecting value"),
        ('{"sample": ' + "[" * 200_000, "found JSON that is nested too deeply"),
        ('{"sample": ' + "1" * 5000 + "}", "found no JSON: Exceeds the limit"),
        ("[" * 200_000, "[["),
        ("/dev/null", "found no JSON: Expecting value"),
        (".", ". cannot be read: Is a directory"),
    ],
    ids=["self", "nan", "inf", "surrogate", "byte", "deep", "digits", "long", "empty", "folder"],
)
def test_a_body_that_is_none_is_an_error_of_one_line(jobs: Run, body: str, error: str) -> None:
    code, out, err = jobs("submit", body)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"enflow: {error}")
    assert len(err) < 400


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_and_standard_input_may_have_a_byte_order_mark(
    jobs: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    content = '{"sample": {"n_molecules": 1, "n_atoms": 5}}'.encode(encoding)
    (tmp_path / "body.json").write_bytes(content)
    assert jobs("submit", str(tmp_path / "body.json"))[0] == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert jobs("submit", "-")[0] == 0


def test_a_file_that_is_no_text_is_an_error_of_one_line(jobs: Run, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_bytes(b'{"sample": "\xff"}')
    _, _, err = jobs("submit", str(tmp_path / "body.json"))
    assert err == "enflow: found bytes that are no text in utf-8, expected JSON in UTF-8\n"


def test_standard_input_that_is_closed_is_an_error(jobs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as after `<&-`
    code, _, err = jobs("submit", "-")
    assert (code, err) == (1, "enflow: standard input is closed, expected a file or a pipe behind it\n")


@pytest.mark.parametrize("command", [["show"], ["wait"], ["cancel"], ["results", "--out", "x.json"]])
@pytest.mark.parametrize("job_id", ["../models", ".."])
def test_what_is_no_id_is_an_error(jobs: Run, command: list[str], job_id: str) -> None:
    code, out, err = jobs(*command, job_id)
    assert (code, out) == (1, "")
    assert err == f"enflow: found no job {job_id!r}, expected an id of 32 hexadecimal digits\n"


def test_a_key_that_is_none_is_an_error_of_one_line(jobs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("open\nsesame", "é"):
        monkeypatch.setenv("ENFLOW_API_KEY", key)
        code, out, err = jobs("list")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("enflow: found a character in the API key")
        assert key not in err


def test_waiting_for_a_job_that_is_cancelled_ends_with_an_error(jobs: Run, api: Api) -> None:
    api.client.steps, api.client.pause = 10**6, 0.01
    job = json.loads(jobs("submit", '{"sample": {"n_molecules": 7}}', "--json")[1])["id"]
    api.http.delete(f"/jobs/{job}")
    code, out, err = jobs("wait", job)
    assert (code, out.split()[2]) == (1, "cancelled")
    assert "is cancelled" in err
