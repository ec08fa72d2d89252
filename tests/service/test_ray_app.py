"""Two engines in Ray: by the config file on a cluster, and by `enflow serve --ray`. `make test-ray` runs this."""

import asyncio
import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from enflow.model.checkpoint import load_particles
from enflow.model.chem.elements import SYMBOLS
from enflow.service.client.config import ClientConfig
from enflow.service.client.portions import MIN_SIZE
from enflow.service.engine.loading import from_weights
from enflow.service.protocol.events import Event, Sampled
from enflow.service.protocol.requests import EngineSampleRequest
from enflow.service.protocol.status import Unavailable
from tests.ports import free_port
from tests.service.fake_client import FakeClient
from tests.service.ray_cluster import MARK, Cluster, marked, until
from tests.service.serving import tiny_formula_weights, tiny_particle_weights, tiny_weights
from tests.stubs import run

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own are many
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ray", reason="Ray is not installed: make test-ray installs it")
    place = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_formula_weights(place.with_name("tiny-formula"))
    tiny_particle_weights(place.with_name("dw4"), "dw4")
    return tiny_weights(place)


def expected(weights: Path, count: int, seed: int, tolerance: float) -> dict[int, Sampled]:
    """Return the molecules of one engine without Ray."""
    request = EngineSampleRequest(id="a", seed=seed, n_atoms=(9,) * count, rtol=tolerance, atol=tolerance)
    engine = from_weights(str(weights), "cpu", threads=1)
    return {event.index: event for event in run(engine, request) if isinstance(event, Sampled)}


def test_a_replica_with_other_weights_refuses_and_says_so(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that started after the files were replaced has another hash than the application."""
    from enflow.service import ray_app

    monkeypatch.setattr(ray_app, "REFUSAL_S", 0.0)

    class Replica(ray_app.EngineReplica):
        def __del__(self) -> None:  # Serve awaits that of the parent
            pass

    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="replica"))
    monkeypatch.setattr(ray_app.serve, "get_replica_context", lambda: context)
    replica, client = object.__new__(Replica), FakeClient()
    replica._config, replica._clients, replica._hashes = ClientConfig(), {str(weights): client}, {str(weights): "new"}

    async def first() -> list[Event]:
        request = EngineSampleRequest(id="a", seed=0, n_atoms=(5,))
        return await anext(replica.run(str(weights), "old", request, frozenset()))

    with pytest.raises(Unavailable, match="found weights with SHA-256 new on a replica, expected old"):
        asyncio.run(first())
    assert not client.submitted
    assert not replica.status(str(weights), "old").health.ready
    assert replica.status(str(weights), "new").health.ready


def assert_same(molecules: list[dict[str, Any]], wanted: dict[int, Sampled]) -> None:
    """Every molecule once, and the one that a single engine makes."""
    assert Counter(molecule["index"] for molecule in molecules) == dict.fromkeys(wanted, 1)
    for molecule in molecules:
        # Read by hand: weights drawn at random put atoms where the reader of files finds no molecule.
        atoms, one = [line.split() for line in molecule["xyz"].splitlines()[2:]], wanted[molecule["index"]]
        assert [atom[0] for atom in atoms] == [SYMBOLS[number - 1] for number in one.atomic_numbers]
        np.testing.assert_allclose([[float(x) for x in atom[1:4]] for atom in atoms], one.positions, atol=1e-3)


CALLERS = 60
"""Callers of a thousand molecules each, more than two engines do in the seconds that they are to have waiting: the
first few of them already where the machine is slow, and the queue takes no more."""


# deploy/serve.yml


@pytest.fixture(scope="module")
def cluster(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The config file, with two engines on CPUs, and room for a third."""
    os.environ[MARK] = "cluster"
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # of 5: tests may share the machine
    from enflow.service import ray_app

    config = yaml.safe_load((REPOSITORY / "deploy/serve.yml").read_text())
    port = free_port()
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    (application,) = config["applications"]
    application["args"] = {"device": "cpu", "threads": 1, "weights": str(weights), "chemistry": {"processes": 1}}
    application["runtime_env"]["env_vars"] = {"ENFLOW_ALLOW_OPEN": "1"}
    api, engine = application["deployments"]
    api |= {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}}
    engine["ray_actor_options"] = {"num_cpus": 0}
    quick = {"look_back_period_s": 2, "upscale_delay_s": 1, "downscale_delay_s": 10, "metrics_interval_s": 1}
    engine["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 3, **quick}
    place = tmp_path_factory.mktemp("serve") / "serve.yml"
    place.write_text(yaml.safe_dump(config))
    with ray_app.ray_cluster() as address:
        command = ["-c", "from ray.serve.scripts import cli; cli()", "run", "--non-blocking", "--address", address]
        done = subprocess.run([sys.executable, *command, str(place)], cwd=REPOSITORY, capture_output=True, text=True)
        assert not done.returncode, done.stderr
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
            until(lambda: _ready(http), "ready")
            from ray import serve

            handle = serve.get_deployment_handle("EngineReplica", ray_app.APPLICATION)
            yield Cluster(http, ray_app.RayReplicaPool(handle, weights))
    until(lambda: not marked("cluster"), "no process is left")


def test_the_load_spreads_and_each_engine_makes_the_same_molecules(cluster: Cluster, weights: Path) -> None:
    cluster.count(2)
    until(lambda: cluster.sees(2), "the application has seen both")
    asked = {"n_molecules": 80, "n_atoms": 9, "tolerance": 1e-4}
    for seed in (4, 5):
        answer = cluster.http.post("/sample", json=asked | {"seed": seed})
        assert answer.status_code == 200, answer.text
        assert_same(answer.json()["molecules"], expected(weights, 80, seed, 1e-4))

    def spread() -> bool:
        # One engine may get both portions of a request, and on a busy machine a third engine comes and goes.
        cluster.http.post("/sample", json=asked).raise_for_status()
        return sum(each >= MIN_SIZE for each in cluster.finished()) >= 2

    until(spread, "two engines have had a portion")


def test_a_killed_engine_loses_nothing(cluster: Cluster, weights: Path) -> None:
    count, found, killed = 160, [], False
    asked = {"n_molecules": count, "n_atoms": 9, "seed": 6, "tolerance": 1e-7}  # longer than it takes to find an engine
    headers = {"Accept": "application/x-ndjson"}
    with cluster.http.stream("POST", "/sample", json=asked, headers=headers) as answer:
        for line in answer.iter_lines():
            event = json.loads(line)
            assert event["event"] != "error", event
            if event["event"] == "progress" and not killed:
                victim = until(cluster.busy, "an engine that works")
                os.kill(victim.pid, signal.SIGKILL)
                killed = True
            if event["event"] == "molecule":
                found.append(event["molecule"])
    assert killed
    assert_same(found, expected(weights, count, 6, 1e-7))
    restarts = until(lambda: metric(cluster.http, "enflow_engine_restarts_total"), "the loss is counted")
    assert restarts >= 1
    assert victim.replica not in cluster.count(2)  # another replica is in its place


def metric(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(f'{name}{{model="tiny"}} '))


def test_an_engine_more_comes_under_load_and_helps(cluster: Cluster) -> None:
    before = cluster.count(2)
    until(lambda: cluster.sees(2), "the application has seen both")  # it admits, and deals out, by what it has seen
    asked = {"n_molecules": 1000, "n_atoms": 29, "seed": 9, "tolerance": 1e-7}
    headers = {"Accept": "application/x-ndjson"}
    with contextlib.ExitStack() as callers:
        for caller in range(CALLERS):
            answer = callers.enter_context(cluster.http.stream("POST", "/sample", json=asked, headers=headers))
            if answer.status_code in (429, 503):  # as much as one client, or all, may have waiting
                assert caller
                assert "queue" in answer.read().decode()
                break
            assert answer.status_code == 200
        new = cluster.count(3).keys() - before.keys()
        # What waited before there was a third now goes to it.
        until(lambda: any(cluster.steps(name) for name in new), "it works")
    cluster.count(2)  # it leaves when the load is gone


def test_a_caller_who_leaves_frees_the_engines(cluster: Cluster) -> None:
    def running() -> bool:
        return sum(status.stats.requests for status in cluster.statuses().values()) > 0

    asked = {"n_molecules": 500, "n_atoms": 29, "seed": 7, "tolerance": 1e-7}
    headers = {"Accept": "application/x-ndjson"}
    with cluster.http.stream("POST", "/sample", json=asked, headers=headers) as answer:
        lines = answer.iter_lines()  # kept: the connection ends with it
        next(lines)
        until(running, "it runs")
    until(lambda: not running(), "the engines are free")


def test_the_application_is_the_same(cluster: Cluster, weights: Path) -> None:
    cards = cluster.http.get("/models").json()["models"]
    assert [card["name"] for card in cards] == ["tiny", "tiny-formula", "dw4"]
    found = cluster.http.post("/sample", json={"formula": "CH4O", "seed": 4}).json()
    assert [found["model"]["name"], found["molecules"][0]["formula"]] == ["tiny-formula", "CH4O"]
    particles = cluster.http.post("/sample", json={"model": "dw4", "seed": 4}).json()["molecules"]
    flow = load_particles(weights.with_name("dw4"))
    np.testing.assert_allclose(particles[0]["positions"], flow.sample_positions(1, seed=4)[0].numpy(), atol=0.01)
    problem = cluster.http.post("/sample", json={"n_molecules": -1})
    assert (problem.status_code, problem.headers["content-type"]) == (422, "application/problem+json")
    assert "/likelihood" in cluster.http.get("/openapi.json").json()["paths"]


def test_replicas_follow_the_work_in_the_queues(weights: Path) -> None:
    from ray.serve.config import AutoscalingContext

    from enflow.service.ray_app import SECONDS_PER_REPLICA, replicas_wanted

    def wanted(seconds: dict[str, float]) -> float:
        given = dict.fromkeys(inspect.signature(AutoscalingContext.__init__).parameters)
        del given["self"]
        return replicas_wanted(AutoscalingContext(**given | {"aggregated_metrics": {"queue_seconds": seconds}}))[0]

    assert wanted({}) == 1
    assert wanted({"a": 0.1 * SECONDS_PER_REPLICA}) == 1
    assert wanted({"a": 3 * SECONDS_PER_REPLICA, "b": SECONDS_PER_REPLICA}) == 4


# enflow serve --ray


def test_the_command_serves_drains_and_leaves_no_process(weights: Path) -> None:
    port = free_port()
    environment = {**os.environ, MARK: "command", "ENFLOW_CHEMISTRY__PROCESSES": "1", "ENFLOW_DRAIN_S": "60"}
    options = ["--ray", "--replicas", "2", "--port", str(port), "--weights", str(weights), "--device", "cpu"]
    command = [sys.executable, "-m", "enflow.service", "serve", *options]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
            until(lambda: process.poll() is not None or _ready(http), "ready")
            answers: list[httpx.Response] = []
            asked = {"n_molecules": 160, "n_atoms": 9, "seed": 8, "tolerance": 1e-7}
            asking = threading.Thread(target=lambda: answers.append(http.post("/sample", json=asked)))
            asking.start()
            until(lambda: not asking.is_alive() or http.get("/health/ready").json()["queue"]["running"], "it runs")
            process.send_signal(signal.SIGTERM)
            asking.join()
        assert process.wait(120) == 0
        assert_same(answers[0].json()["molecules"], expected(weights, 160, 8, 1e-7))
    finally:
        process.kill()
        output = process.communicate()[1]
    until(lambda: not marked("command"), f"no process is left {output[-500:]}")


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False
