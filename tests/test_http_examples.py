"""The examples of README and docs that ask a service run as written, with the bundled weights."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import blocks, commands, lines
from tests.page.serving import serving

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with the bundled weights, started as `make serve` starts it."""
    with serving(tmp_path_factory.mktemp("service") / "log") as address:
        yield address


def test_curl_examples_work_as_written(service, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    (block,) = blocks("sh", "curl")
    answers = []
    for command in commands(block):
        assert command[:2] == ["curl", "-s"]
        words = [word.replace(ADDRESS, service) for word in command]
        done = subprocess.run([*words, "--fail-with-body"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout} {done.stderr}"
        answers.append(done.stdout)
    assert (tmp_path / "molecules.sdf").read_text().count("$$$$") == 2
    results = json.loads(answers[1])["results"]
    assert [sorted(entry["parts"]) for entry in results] == [["base", "dequantizer", "divergence", "n_atoms"]] * 2
    assert [each["n_particles"] for each in json.loads(answers[2])["molecules"]] == [13]
    (grown,) = json.loads(answers[3])["molecules"]
    assert (grown["n_atoms"], grown["fragment_atoms"]) == (12, 3)
    assert json.loads(answers[4])["models"][0]["name"] == "qm9"


def curl(line: str, service: str, place: Path) -> tuple[int, str]:
    """Run a call of curl in a folder; return the status of the answer and its text, if the call prints it."""
    words = [word.replace(ADDRESS, service) for word in shlex.split(line, comments=True)]
    done = subprocess.run([*words, "-w", "\n%{http_code}"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    answer, _, status = done.stdout.rpartition("\n")
    return int(status), answer


def test_every_call_of_the_api_by_example_is_answered_as_it_says(service, tmp_path):
    """Later calls send files that earlier calls wrote; a comment after a call names its status if it is not 200."""
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    calls = [line for block in blocks("sh", "curl", "docs/api.md") for line in lines(block)]
    stated = [int(found[1]) if (found := re.search(r"  # (\d{3})$", call)) else 200 for call in calls]
    answers = [curl(call, service, tmp_path) for call in calls]
    wrong = [
        (call, status, text)
        for call, expected, (status, text) in zip(calls, stated, answers, strict=True)
        if status != expected
    ]
    assert not wrong
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(found) == {
        *("two.xyz", "three.sdf", "gallery.html", "molecules.zip", "dw4.xyz"),
        *("described.sdf", "described.csv", "ethanol.svg"),
    }
    assert found["three.sdf"].count(b"V3000") == 3
    printed = [text for _, text in answers if text]
    ranked = [json.loads(printed.pop(4))["molecules"] for _ in range(2)]  # best QED first, most probable first
    assert [len(molecules) for molecules in ranked] == [3, 3]
    assert ranked[0] == sorted(ranked[0], key=lambda each: -each["properties"]["qed"])
    assert ranked[1] == sorted(ranked[1], key=lambda each: each["nll"])
    assert [json.loads(text)["attempts"]["found"] for text in printed[:4]] == [4, 3, 2, 1]
    assert printed[4].count("event: molecule") == 3
    scored = [json.loads(text)["results"] for text in printed[5:8]]
    assert [len(results) for results in scored] == [2, 5, 1]
    assert not any("error" in entry for results in scored for entry in results)
    clusters, exact = json.loads(printed[8])["molecules"], json.loads(printed[9])["results"]
    assert [len(each["positions"]) for each in clusters] + [len(each["positions"]) for each in exact] == [13] * 2 + [
        4
    ] * 3
    walks = [json.loads(text)["molecules"] for text in printed[12:14]]
    assert [len(walk) for walk in walks] == [5, 4]
    assert max(walks[0][0]["distance"], walks[0][-1]["distance_to_end"]) < 0.1  # from one parent to the other


def test_the_api_from_python_works_as_written(service, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    job, rest = blocks("python", "Client", "docs/api.md")
    exec(compile(job.replace(ADDRESS, service), "docs/api.md", "exec"), {})
    assert capsys.readouterr().out == "done 8\n"
    assert (tmp_path / "job.sdf").read_text().count("$$$$") == 8
    exec(compile(rest.replace(ADDRESS, service), "docs/api.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6  # three molecules, two scores, the variations
    assert sum(" nats {'base': " in line for line in printed) == 2


def test_http_example_in_python_works_as_written(service, capsys):
    (block,) = blocks("python", "Client")
    exec(compile(block.replace(ADDRESS, service), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2
