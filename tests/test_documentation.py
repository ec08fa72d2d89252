"""What README and docs show is run as written: shell, curl and Python, on the bundled weights and a real service."""

import contextlib
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import nll_moves, particles, trials
from model.training.summary import readme_row
from service.__main__ import main

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str, having: str, document: str = "README.md") -> list[str]:
    """A document's fenced blocks of a language that contain a word."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", (REPOSITORY / document).read_text(), re.DOTALL | re.MULTILINE)
    return [body for tag, body in found if tag == language and having in body]


def commands(block: str) -> list[list[str]]:
    lines = (shlex.split(line, comments=True) for line in block.splitlines())
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with the bundled weights, as `make serve` starts it; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("service") / "log"
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--threads", "1"]
    with log.open("w") as told, subprocess.Popen(command, cwd=REPOSITORY, stdout=told, stderr=told) as process:
        try:
            while process.poll() is None and not ready(f"http://127.0.0.1:{port}"):
                time.sleep(0.2)
            assert process.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)


def ready(address: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{address}/health/ready", timeout=5).status_code == 200
    return False


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
    assert json.loads(answers[3])["models"][0]["name"] == "qm9"


def curl(line: str, service: str, place: Path) -> tuple[int, str]:
    """Run a line of curl in a folder: the status of the answer, and the answer where it is printed."""
    words = [word.replace(ADDRESS, service) for word in shlex.split(line, comments=True)]
    done = subprocess.run([*words, "-w", "\n%{http_code}"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    answer, _, status = done.stdout.rpartition("\n")
    return int(status), answer


def test_every_call_of_the_api_by_example_is_answered_as_it_says(service, tmp_path):
    """In order, since later ones send what earlier ones wrote; a comment after a call names its status if not 200."""
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    lines = [line for block in blocks("sh", "curl", "docs/api.md") for line in block.splitlines() if line[:4] == "curl"]
    said = [int(found[1]) if (found := re.search(r"  # (\d{3})$", line)) else 200 for line in lines]
    answers = [curl(line, service, tmp_path) for line in lines]
    wrong = [
        (line, status, text)
        for line, expected, (status, text) in zip(lines, said, answers, strict=True)
        if status != expected
    ]
    assert not wrong
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(found) == {"two.xyz", "three.sdf", "gallery.html", "molecules.zip", "dw4.xyz"}
    assert found["three.sdf"].count(b"V3000") == 3
    printed = [text for _, text in answers if text]
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


def test_the_api_from_python_works_as_written(service, capsys):
    first, second = blocks("python", "httpx", "docs/api.md")
    exec(compile(first.replace(ADDRESS, service), "docs/api.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 6  # three molecules, three scores
    exec(compile(second.replace(ADDRESS, service), "docs/api.md", "exec"), {})
    assert capsys.readouterr().out == "2\n"


def test_http_example_in_python_works_as_written(service, capsys):
    (block,) = blocks("python", "httpx")
    exec(compile(block.replace(ADDRESS, service), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_python_example_works_as_written(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    (block,) = blocks("python", "model.checkpoint")
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("NLL") == 3


def test_shell_examples_work_as_written(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("sh", "enflow sample")
    printed = []
    for command in commands(block):
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        assert not end.value.code, f"{shlex.join(command)}: {told.err}"
        printed.append(told.out)
    assert (tmp_path / "molecules.sdf").read_text().count("$$$$") == 4
    assert [m["n_atoms"] for m in json.loads(printed[1])["molecules"]] == [12, 12]
    assert all(m["stable"] for m in json.loads(printed[1])["molecules"])
    assert len(printed[2].splitlines()) == 5
    assert (tmp_path / "scored.sdf").read_text().count("<nll>") == 4
    assert (tmp_path / "lj13.xyz").read_text().count("energy=") == 10


def test_the_table_of_results_shows_the_card():
    metrics = json.loads((REPOSITORY / "weights/qm9/card.json").read_text())["metrics"]
    row = readme_row(metrics)
    assert row in (REPOSITORY / "README.md").read_text().splitlines(), f"the card's row for the README is now\n{row}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


def test_the_page_of_the_particles_shows_what_was_measured():
    results = [*(REPOSITORY / "benchmarks" / "results").glob("particles_*.json")]
    documents = {(document := json.loads(path.read_text()))["system"]: document for path in results}
    assert documents.keys() >= {"dw4", "lj13"}
    page = (REPOSITORY / "docs" / "particles.md").read_text()
    for name, section in particles.sections(documents).items():
        assert f"<!-- {name} -->\n{section}\n<!-- end -->" in page, "python -m benchmarks.particles"


def results(name: str) -> dict[str, Any]:
    return json.loads((REPOSITORY / "benchmarks" / "results" / f"{name}.json").read_text())


def test_the_tables_of_the_training_show_what_was_measured():
    page, trained, moved = (REPOSITORY / "docs" / "science.md").read_text(), results("trials"), results("nll_moves")
    table = trials.section(trained["trials"])
    assert f"<!-- ablation -->\n{table}\n<!-- end -->" in page, "python -m benchmarks.trials table"
    diary = (REPOSITORY / "docs" / "training.md").read_text()
    assert f"<!-- trials -->\n{trials.tables(trained['trials'])}\n<!-- end -->" in diary, (
        "python -m benchmarks.trials table"
    )
    assert f"<!-- nll moves -->\n{nll_moves.section(moved['moves'])}\n<!-- end -->" in page
