"""The background compilation of an engine: it switches between two steps, and reports each fact once."""

import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from enflow.model import checkpoint
from enflow.model.flow import compiled_velocity
from enflow.model.flow.compiled_velocity import CACHE, find_compiler
from enflow.service.client import process_client
from enflow.service.client.config import EngineSpec
from enflow.service.engine.compilation import BackgroundCompilation
from enflow.service.engine.core import Engine
from enflow.service.engine.loading import from_weights
from enflow.service.engine.process import Notice, _WorkerLoop
from enflow.service.protocol.events import Sampled
from enflow.service.protocol.requests import EngineSampleRequest
from tests import stubs
from tests.model.flow.compiled_weights import tiny_weights
from tests.stubs import run

REQUEST = EngineSampleRequest(id="one", seed=5, n_atoms=(6, 9, 3), rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("enflow.service.engine.compilation.LOWEST_PRIORITY", 0)  # the test waits for the process


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Weights without a compiled velocity."""
    tiny_weights(tmp_path / "weights")
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return str(tmp_path / "weights")


def notice(compilation: BackgroundCompilation) -> str:
    """The first report of a compilation."""
    while not (text := compilation.poll()):
        time.sleep(0.1)
    return text


def positions(events: list[object]) -> dict[int, np.ndarray]:
    return {event.index: event.positions for event in events if isinstance(event, Sampled)}


@pytest.mark.skipif(not find_compiler(), reason="no C++ compiler")
def test_an_engine_switches_while_a_request_runs(compiled_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = str(compiled_weights / "weights")
    expected = positions(list(run(Engine(checkpoint.load(weights)), REQUEST)))
    flow = checkpoint.load(weights)
    # The process finds code that another process has made meanwhile.
    monkeypatch.setenv(CACHE, str(compiled_weights / "cache"))
    engine, compilation = Engine(flow), BackgroundCompilation(flow, weights)
    engine.add(REQUEST)
    events = [event for _ in range(2) for event in engine.step()]
    assert flow.compiled is None
    assert not engine.idle
    assert notice(compilation) == "the velocity is compiled"
    assert flow.compiled is not None
    assert engine.check()
    while not engine.idle:
        events += engine.step()
    found = positions(events)
    assert found.keys() == expected.keys()
    for index, each in found.items():
        np.testing.assert_allclose(each, expected[index], atol=1e-3)
    assert compilation.poll() == ""
    assert BackgroundCompilation(checkpoint.load(weights), weights).poll() == "", "the next start finds the code"


def test_without_a_compiler_an_engine_computes_and_says_so_once(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    engine = from_weights(weights, "cpu", threads=1, compile_velocity=True)
    assert engine.compilation is not None
    assert "no C++ compiler" in engine.compilation.poll()
    assert engine.compilation.poll() == ""
    assert len(positions(list(run(engine, REQUEST)))) == 3


def test_a_compiler_that_fails_is_reported_once(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken-compiler"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert compiled_velocity.find_compiler() == str(broken)
    compilation = BackgroundCompilation(flow := checkpoint.load(weights), weights)
    assert notice(compilation).startswith("the velocity is not compiled: enflow: ")
    assert compilation.poll() == ""
    assert flow.compiled is None


def test_the_worker_sends_the_report_to_the_log_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, pipe, log = stubs.engine(), Mock(), Mock()
    engine.compilation = Mock(poll=Mock(side_effect=["the velocity is compiled", ""]))
    loop = _WorkerLoop(pipe, engine)
    for seconds in (1.0, 2.0):
        loop._report(time.monotonic() + seconds)
    (report,) = [call.args[0] for call in pipe.send.call_args_list if isinstance(call.args[0], Notice)]
    monkeypatch.setattr(process_client, "log", log)
    client = process_client.ProcessClient(EngineSpec("tests.stubs:engine"))
    client._worker = Mock()
    client._on_report(client._worker, report)
    log.info.assert_called_once_with("the velocity is compiled")
