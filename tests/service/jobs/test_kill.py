"""A job whose process is killed at random: nothing is lost, doubled or changed."""

import json
import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from enflow.service.jobs.records import JobRecord
from enflow.service.jobs.store import JobStore
from enflow.service.model_card import read_model_card
from enflow.service.rendering.job_results import unpack
from tests.service.conftest import eventually
from tests.service.jobs.computing import compute, scaled
from tests.service.jobs.databases import url as url  # noqa: PLC0414 - a fixture
from tests.service.serving import weights_with_card

KILLS = 10
SIZE = 3000
PARTS = SIZE // 64
"""The parts of the job."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.service.jobs.computing"])


def started(folder: Path, url: str, parts: int) -> BaseProcess:
    process = CONTEXT.Process(target=compute, args=(folder, url, parts), daemon=True)
    process.start()
    return process


def results(store: JobStore) -> list[str]:
    return [line for part in store.parts("a", 0, SIZE) for line in unpack(part, 0, SIZE)]


def done(store: JobStore) -> int:
    job = store.get("a")
    assert job is not None
    return job.done


def test_a_job_is_complete_after_ten_kills_at_random(tmp_path: Path, url: str) -> None:
    card = read_model_card(weights_with_card(tmp_path))
    store = JobStore(url)
    request = json.dumps({"n_molecules": SIZE, "first_index": 7})
    store.add(JobRecord("a", "lab", "sample", request, 5, card.name, card.sha256, SIZE, 0.1, time.time()))
    chance, seen, cut = random.Random(0), list[str](), 0
    for _ in range(KILLS):
        before = done(store)
        process = started(tmp_path, url, PARTS // KILLS)
        # Without progress between two kills nothing could be doubled.
        eventually(lambda before=before: done(store) > before or done(store) == SIZE)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.join()
        cut += done(store) < SIZE
        eventually(lambda: len(results(store)) == done(store))  # a server may still commit for a client that is dead
        found = results(store)
        assert found[: len(seen)] == seen, "a result that was there has changed"
        seen = found
    assert cut == KILLS, "a kill came after the end of the job"
    process = started(tmp_path, url, 2 * PARTS)
    eventually(lambda: done(store) == SIZE)
    process.kill()
    process.join()
    job = store.get("a")
    assert job is not None
    assert (job.state, job.failed, job.tried) == ("done", 0, SIZE)
    molecules = [json.loads(line) for line in results(store)]
    assert [each["index"] for each in molecules] == list(range(7, 7 + SIZE))
    for each in molecules:
        hydrogen = each["xyz"].splitlines()[3].split()
        assert float(hydrogen[1]) == pytest.approx(scaled(each["index"]).positions[1, 0], abs=1e-6)
    store.close()
