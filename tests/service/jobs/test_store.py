"""The store: what is stored once stays, nothing is stored twice, and only one service computes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enflow.model.errors import ConfigError
from enflow.service.command_line import _serve
from enflow.service.jobs.records import JobPart, JobRecord
from enflow.service.jobs.store import JobStore, StoreError
from enflow.service.settings import Settings
from tests.service.jobs.databases import url as url  # noqa: PLC0414 - a fixture


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    found = JobStore(url)
    yield found
    found.close()


def job(name: str, size: int = 10, client: str = "lab", **fields: object) -> JobRecord:
    record = {"kind": "sample", "request": "{}", "seed": 2**53 - 1, "model": "qm9", "sha256": "0" * 64}
    record |= {"seconds_each": 0.5, "created": time.time(), **fields}
    return JobRecord(id=name, client=client, size=size, **record)  # type: ignore[arg-type]


def test_a_job_is_what_was_added(store: JobStore, url: str) -> None:
    added = job("a", request='{"n_atoms": 5}')
    store.add(added)
    other = JobStore(url)
    assert other.get("a") == store.get("a") == added
    assert other.get("b") is None
    other.close()


def test_a_part_is_stored_once_and_in_order(store: JobStore) -> None:
    store.add(job("a"))
    store.begin("a")
    first = JobPart(0, 6, b"one", failed=1, tried=9, seconds=2.0)
    assert store.store_part("a", JobPart(6, 10, b"two")) is None
    stored = store.store_part("a", first)
    assert stored is not None
    assert (stored.done, stored.failed, stored.tried, stored.state, stored.open) == (6, 1, 9, "running", True)
    assert stored.remaining_s == pytest.approx(4 * 2.0 / 6)
    assert store.store_part("a", first) is None
    ended = store.store_part("a", JobPart(6, 10, b"two"))
    assert ended is not None
    assert (ended.state, ended.open, ended.stored_bytes) == ("done", False, 6)
    assert [(each.start, each.stop, each.data) for each in store.parts("a", 0, 10)] == [(0, 6, b"one"), (6, 10, b"two")]
    assert [each.data for each in store.parts("a", 6, 7)] == [b"two"]
    assert [each.data for each in store.parts("a", 5, 6)] == [b"one"]


def test_a_job_that_has_ended_takes_no_part_and_ends_once(store: JobStore) -> None:
    store.add(job("a"))
    assert store.end("a", "cancelled")
    assert not store.end("a", "failed", "later")
    assert store.store_part("a", JobPart(0, 6, b"one")) is None
    found = store.get("a")
    assert found is not None
    assert (found.state, found.detail, found.done) == ("cancelled", "", 0)
    assert list(store.parts("a", 0, 10)) == []


def test_lists_are_of_a_client_and_in_order(store: JobStore) -> None:
    for age, (name, client) in enumerate([("a", "lab"), ("b", "other"), ("c", "lab")]):
        store.add(job(name, client=client, created=1000.0 + age))
    store.end("a", "failed", "why")
    assert [each.id for each in store.newest("lab", 10)] == ["c", "a"]
    assert [each.id for each in store.newest(None, 2)] == ["c", "b"]
    assert [each.id for each in store.unfinished()] == ["b", "c"]
    assert (store.count_open("lab"), store.count_open("nobody")) == (1, 0)


def test_ended_jobs_are_removed_by_age_and_by_size(store: JobStore) -> None:
    for name in "abc":
        store.add(job(name, size=1))
    for name in "ab":
        store.store_part(name, JobPart(0, 1, bytes(100)))
    assert store.remove_ended(time.time() - 1000) == 0
    assert store.make_room(200)
    assert [each.id for each in store.newest(None, 9)] != []
    assert store.make_room(150)
    assert {each.id for each in store.newest(None, 9)} == {"b", "c"}
    assert list(store.parts("a", 0, 1)) == []
    store.store_part("c", JobPart(0, 1, bytes(100)))
    assert store.remove_ended(time.time() + 1000) == 2
    store.add(job("d", stored_bytes=300))
    store.add(job("e", stored_bytes=50))
    store.end("e", "cancelled")
    assert not store.make_room(299)
    assert [store.get(name) is not None for name in "de"] == [True, True]
    assert store.make_room(300)
    assert [store.get(name) is not None for name in "de"] == [True, False]


def test_one_store_of_a_database_leads_until_it_closes(store: JobStore, url: str) -> None:
    other = JobStore(url)
    assert store.lead()
    assert not other.lead()
    assert store.lead()
    store.close()
    assert other.lead()
    other.close()


def test_a_file_that_cannot_be_opened_is_no_wrong_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service goes on without jobs: a container may have no folder that it can write."""
    with pytest.raises(StoreError, match=r"^ENFLOW_JOBS_URL: .*/dev/null/jobs\.sqlite cannot be opened"):
        JobStore("sqlite:////dev/null/jobs.sqlite")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user without a home
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="cannot be opened: Could not determine home directory"):
        JobStore("sqlite:///~/.local/state/enflow/jobs.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_the_service_starts_without_jobs_where_their_file_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Serving:
        def __init__(self, app: object, _: Settings) -> None:
            self.app = app

        def run(self) -> None:
            started.append(self.app)

    monkeypatch.setattr("enflow.service.api.server.Server", Serving)
    monkeypatch.setattr("enflow.service.api.app.create_app", lambda *_: "the application")
    _serve(Settings(jobs_url="sqlite:////dev/null/jobs.sqlite"), None, None)
    assert started == ["the application"]
    with pytest.raises(ConfigError, match="found no URL of a database"):
        _serve(Settings(jobs_url="nonsense"), None, None)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("nonsense", "found no URL of a database"),
        ("mongodb://localhost/x", "found no URL of a database"),
        ("mysql://localhost/x", "found no URL of a database"),
        ("postgresql://user:secret@127.0.0.1:1/none?connect_timeout=2", "cannot be opened"),
    ],
)
def test_a_wrong_url_is_refused_with_the_setting_and_without_the_password(wrong: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^ENFLOW_JOBS_URL: .*{reason}") as caught:
        JobStore(wrong)
    assert "secret" not in str(caught.value)
