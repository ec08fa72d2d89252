"""The application with a real engine in a real process, and a small flow with random weights."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from enflow.model.chem.io.formats import read
from enflow.model.chem.molecule import Molecule
from enflow.service.__main__ import main
from enflow.service.client.process_client import engine_client
from enflow.service.handlers.latent_geometry import rmsd
from enflow.service.protocol.requests import Structure
from enflow.service.settings import Settings
from tests.service.serving import one_worker, serving, tiny_weights

WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
PEROXIDE = "4\n\nO 0.7 0 0\nO -0.7 0 0\nH 1 0.9 0.1\nH -1 -0.2 0.9\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def http(weights: Path) -> Iterator[httpx.Client]:
    settings = Settings(weights=weights, device="cpu", threads=1, chemistry=one_worker(), drain_s=1)
    with serving(engine_client(settings), settings) as (http, _):
        _until_ready(http)
        yield http


def _until_ready(http: httpx.Client) -> None:
    end = time.monotonic() + 300
    while http.get("/health/ready").status_code != 200:
        assert time.monotonic() < end, http.get("/health/ready").text
        time.sleep(0.1)


def sample(http: httpx.Client, **body: object) -> dict[str, object]:
    answer = http.post("/sample", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def positions(molecule: dict[str, str]) -> np.ndarray:
    found = read(molecule["xyz"], "xyz")[0]
    assert isinstance(found, Molecule)
    return found.positions


def test_the_same_seed_gives_the_same_molecule_alone_in_company_and_by_index(http: httpx.Client) -> None:
    together = sample(http, n_molecules=6, seed=11)["molecules"]
    alone = sample(http, n_molecules=1, seed=11, first_index=4)["molecules"]
    assert alone[0]["index"] == together[4]["index"] == 4  # type: ignore[index]
    assert alone[0]["formula"] == together[4]["formula"]  # type: ignore[index]
    assert positions(alone[0]) == pytest.approx(positions(together[4]), abs=1e-3)  # type: ignore[index]
    other = sample(http, n_molecules=1, seed=12)["molecules"]
    assert other[0]["xyz"] != together[0]["xyz"]  # type: ignore[index]


def test_what_was_sampled_scores_the_same_when_it_is_uploaded(http: httpx.Client) -> None:
    """The same number: the file keeps all digits, and (seed, index) fixes the dequantizer's noise."""
    molecule = sample(http, n_atoms=6, seed=5, with_nll=True)["molecules"][0]  # type: ignore[index]
    assert sum(molecule["parts"].values()) == pytest.approx(molecule["nll"])
    body = {"structures": [{"format": "xyz", "data": molecule["xyz"]}], "seed": 5}
    (score,) = http.post("/likelihood", json=body).json()["results"]
    assert score["nll"] == pytest.approx(molecule["nll"], abs=1e-3)


def test_frames_go_from_noise_to_the_molecule(http: httpx.Client) -> None:
    molecule = sample(http, n_atoms=5, seed=3, frames=6)["molecules"][0]  # type: ignore[index]
    frames = molecule["frames"]
    assert [frame["t"] for frame in frames] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert frames[-1]["positions"] == pytest.approx(positions(molecule), abs=1e-3)
    assert all(0 <= each <= 1 for frame in frames for each in frame["certainty"])


def test_frames_stream_while_the_molecule_is_on_its_way(http: httpx.Client) -> None:
    headers = {"Accept": "application/x-ndjson"}
    answer = http.post("/sample", json={"n_atoms": 5, "seed": 3, "frames": 4}, headers=headers)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    names = [line["event"] for line in lines]
    assert "frame" in names[: names.index("molecule")]
    assert all(line["frame"]["positions"] for line in lines if line["event"] == "frame")


def test_walks_begin_at_their_parent(http: httpx.Client) -> None:
    body = {"structures": [{"format": "xyz", "data": PEROXIDE}], "scale": 0.0, "n_molecules": 1, "seed": 1}
    (same,) = http.post("/variations", json=body).json()["molecules"]
    assert same["distance"] < 1e-3
    assert same["formula"] == "H2O2"
    turned = "4\n\nH 0.1 1 0.9\nO 0 0.7 0\nH 0.9 -1 -0.2\nO 0 -0.7 0\n"  # the axes exchanged in a cycle, atoms mixed
    body = {"structures": [{"format": "xyz", "data": each} for each in (PEROXIDE, turned)], "steps": 3, "seed": 1}
    walk = http.post("/interpolate", json=body).json()["molecules"]
    parent, end = (Structure(np.array([8, 8, 1, 1]), _sorted(text)) for text in (PEROXIDE, turned))
    assert rmsd(parent, end) < 1e-6
    assert walk[0]["distance"] < 1e-3
    assert walk[2]["distance"] < 1e-3
    assert walk[2]["distance_to_end"] < 1e-3
    assert walk[2]["formula"] == "H2O2"


def _sorted(text: str) -> np.ndarray:
    (found,) = read(text, "xyz")
    assert isinstance(found, Molecule)
    return found.positions[np.argsort(-found.atomic_numbers, kind="stable")]


def test_a_caller_who_leaves_frees_the_device(http: httpx.Client) -> None:
    body = {"n_molecules": 500, "n_atoms": 29, "tolerance": 1e-7}
    with http.stream("POST", "/sample", json=body, headers={"Accept": "application/x-ndjson"}) as answer:
        for line in answer.iter_lines():
            if json.loads(line)["event"] == "progress":
                break
    end = time.monotonic() + 300
    while http.get("/health/ready").json()["queue"] != {"waiting": 0, "running": 0}:
        assert time.monotonic() < end, "its rows are still there"
        time.sleep(0.05)
    assert sample(http, n_atoms=3, seed=1)["attempts"]["found"] == 1  # type: ignore[index]


def test_a_passed_deadline_says_so(http: httpx.Client) -> None:
    answer = http.post("/sample", json={"n_molecules": 500, "n_atoms": 29, "tolerance": 1e-7, "deadline_s": 0.01})
    assert answer.status_code == 408, answer.text


def test_metrics_and_models_tell_about_the_engine(http: httpx.Client, weights: Path) -> None:
    sample(http, n_atoms=3, seed=1)
    text = http.get("/metrics").text
    steps = next(float(line.split()[-1]) for line in text.splitlines() if line.startswith("enflow_engine_steps_total{"))
    assert steps > 0
    assert 'enflow_model_info{device="cpu"' in text
    (card,) = http.get("/models").json()["models"]
    assert json.loads((weights / "card.json").read_text()).items() <= card.items()
    assert (card["kind"], card["elements"], card["max_atoms"]) == ("molecules", ["H", "C", "N", "O", "F"], 29)


def test_the_command_serves_and_stops_on_a_signal(weights: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "ENFLOW_DRAIN_S": "1", "ENFLOW_CHEMISTRY__PROCESSES": "1", "OMP_NUM_THREADS": "1"}
    serve = ["serve", "--port", "0", "--weights", str(weights), "--threads", "1"]
    command = [sys.executable, "-m", "enflow.service", *serve]
    log = tmp_path / "log"
    with log.open("w") as sink, subprocess.Popen(command, stderr=sink, env=environment) as process:
        port = _port(process, log)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
            _until_ready(http)
            assert sample(http, seed=1)["seed"] == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(300) in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all("Traceback" not in str(line) for line in lines)
    assert [line["status"] for line in lines if line.get("route") == "/sample"] == [200]


def test_new_work_is_refused_with_503_while_the_service_stops_and_a_second_signal_ends_it(
    weights: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "ENFLOW_DRAIN_S": "600", "ENFLOW_CHEMISTRY__PROCESSES": "1", "OMP_NUM_THREADS": "1"}
    serve = ["serve", "--port", "0", "--weights", str(weights), "--threads", "1"]
    log, body = tmp_path / "log", {"n_molecules": 500, "n_atoms": 29, "tolerance": 1e-7}
    command = [sys.executable, "-m", "enflow.service", *serve]
    with log.open("w") as sink, subprocess.Popen(command, stderr=sink, env=environment) as process:
        url = f"http://127.0.0.1:{_port(process, log)}"
        with httpx.Client(base_url=url, timeout=60) as http:
            _until_ready(http)
            with http.stream("POST", "/sample", json=body, headers={"Accept": "application/x-ndjson"}) as running:
                lines = running.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                while (answer := httpx.post(f"{url}/sample", json={"seed": 1}, timeout=60)).status_code == 200:
                    time.sleep(0.05)  # the signal is noticed ten times a second
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) > 0
                assert answer.json()["detail"] == "the service is stopping; repeat it in 10 s"
                assert httpx.get(f"{url}/health/live", timeout=60).status_code == 200
                assert next(lines)  # the running request goes on
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) in (0, -signal.SIGTERM)


def _port(process: "subprocess.Popen[bytes]", log: Path) -> str:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if "running on" in line:
                return line.partition("http://127.0.0.1:")[2].split()[0].strip('" ')
        time.sleep(0.1)
    pytest.fail(f"it ended: {log.read_text()}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [("weights.safetensors", "SHA-256"), ("card.json", "is not JSON")],
)
def test_damaged_weights_are_one_clear_line(
    weights: Path,
    tmp_path: Path,
    damage: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for file in weights.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 100 if file.name == damage else None])
    monkeypatch.setattr(sys, "argv", ["enflow", "serve", "--port", "0", "--weights", str(tmp_path)])
    kept = logging.getLogger().handlers[:]
    with pytest.raises(SystemExit) as ended:
        main()
    logging.getLogger().handlers[:] = kept
    output = capfd.readouterr().err
    assert ended.value.code == 1
    assert output.count("\n") == 1
    assert message in output


def test_an_answer_at_the_deadline_has_the_finished_molecules(http: httpx.Client) -> None:
    """Three small molecules are finished early; the others take longer than the first deadline on any machine."""
    for deadline_s in (2.0, 8.0, 32.0, 128.0):
        body = {"n_atoms": [2, 2, 2, *[29] * 450], "tolerance": 1e-7, "deadline_s": deadline_s, "seed": 1}
        response = http.post("/sample", json=body)
        if response.status_code == 200 and response.json()["molecules"]:
            break
        assert response.status_code in (200, 408), response.text
    answer = response.json()
    found, failed = ([each["index"] for each in answer[name]] for name in ("molecules", "failed"))
    assert found
    assert sorted(found + failed) == list(range(453))
    assert {each["reason"] for each in answer["failed"]} == {"deadline"}
