"""The examples of README and docs run as written: shell, curl and Python, with the bundled weights and a service."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.tables import tables
from enflow.model.errors import InverseWarning
from enflow.model.training.evaluation.summary import readme_row
from enflow.service.__main__ import main
from tests.page.serving import serving

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))]
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str, having: str, document: str = "README.md") -> list[str]:
    """A document's fenced blocks of a language that contain a word."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", (REPOSITORY / document).read_text(), re.DOTALL | re.MULTILINE)
    return [body for tag, body in found if tag == language and having in body]


def lines(block: str) -> list[str]:
    """The commands of a shell block, each on one line: a backslash or an open quote continues a line."""
    found = [""]
    for line in block.splitlines():
        if line.startswith("#"):
            continue
        found[-1] += line.removesuffix("\\")
        if not line.endswith("\\") and found[-1].count("'") % 2 == 0:
            found.append("")
    return [line for line in found if line]


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in lines(block)]


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


def test_python_example_works_as_written(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    (block,) = blocks("python", "enflow.load")
    warnings.simplefilter("ignore", InverseWarning)
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
        output = capsys.readouterr()
        assert not end.value.code, f"{shlex.join(command)}: {output.err}"
        printed.append(output.out)
    assert (tmp_path / "molecules.sdf").read_text().count("$$$$") == 4
    assert [m["n_atoms"] for m in json.loads(printed[1])["molecules"]] == [12, 12]
    assert all(m["stable"] for m in json.loads(printed[1])["molecules"])
    assert len(printed[2].splitlines()) == 5
    assert (tmp_path / "scored.sdf").read_text().count("<nll>") == 4
    assert (tmp_path / "near.sdf").read_text().count("$$$$") == 4
    assert (tmp_path / "lj13.xyz").read_text().count("energy=") == 10


def test_the_table_of_results_shows_the_card():
    metrics = json.loads((REPOSITORY / "weights/qm9/card.json").read_text())["metrics"]
    row = readme_row(metrics)
    assert row in (REPOSITORY / "README.md").read_text().splitlines(), f"the card's row for the README is now\n{row}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^):]+)\)|^\[.+\]: (\S+)$", document.read_text(), re.MULTILINE)
    targets = [(first or second).partition("#")[::2] for first, second in links]
    places = [(document.parent / path if path else document, anchor) for path, anchor in targets]
    assert not [place for place, _ in places if not place.exists()]
    assert not [(place, anchor) for place, anchor in places if anchor and anchor not in anchors(place)]


def anchors(document: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_generated_tables_are_those_of_the_results():
    for (page, place), table in tables().items():
        document = (REPOSITORY / "docs" / page).read_text()
        assert f"<!-- {place} -->\n{table}\n<!-- end -->" in document, f"{page}: run `make docs`"
