"""Logs and metrics count and name the events, and hold no part of an upload."""

import contextlib
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.datastructures import Headers

from enflow.service.api.middleware.request_context import trace_id
from enflow.service.telemetry import configure_logs
from tests.service.conftest import Api

SECRET = "surely-nobody-else-writes-this"


def samples(api: Api) -> dict[str, float]:
    text = api.http.get("/metrics").text
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_requests_molecules_and_the_engine(api: Api) -> None:
    before = samples(api)
    api.http.post("/sample", json={"n_molecules": 2})
    api.http.post("/sample", json={"n_molecules": 0})
    api.http.get(f"/{SECRET}")
    after = samples(api)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["enflow_requests_total['/sample', '200', 'POST']"] == 1
    assert grown["enflow_requests_total['/sample', '422', 'POST']"] == 1
    assert grown["enflow_requests_total['404', 'GET', 'unmatched']"] == 1
    assert grown["enflow_molecules_total['sampled', 'stable']"] == 2
    assert grown["enflow_queue_seconds_count[]"] == 1
    assert {f"enflow_engine_{name}['tiny']" for name in ("waiting", "running", "memory_bytes")} <= set(after)
    assert not any(SECRET in name for name in after)


@contextlib.contextmanager
def logging_as_in_service() -> Iterator[io.StringIO]:
    """Yield standard error in memory; pytest's own file is read and truncated while the service writes."""
    kept, level = logging.getLogger().handlers[:], logging.getLogger().level
    with contextlib.redirect_stderr(io.StringIO()) as output:
        configure_logs("debug")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the caller's log is its own
    yield output
    logging.getLogger().handlers[:] = kept
    logging.getLogger().setLevel(level)


def test_logs_are_json_lines_without_a_word_of_the_upload(api: Api) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"X-Request-ID": "mine-8", "Traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    with logging_as_in_service() as output:
        api.http.post(
            "/likelihood",
            content=f"1\n{SECRET}\n{SECRET} 0 0 0\n",
            headers={**headers, "Content-Type": "chemical/x-xyz"},
        )
        api.http.post(f"/{SECRET}", json={SECRET: SECRET}, headers=headers)
        api.client.refuse = RuntimeError(SECRET)
        api.http.post("/sample", json={}, headers=headers)
        api.http.get("/health/live")  # an answer goes out before its line is written, the next is later than both
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert SECRET not in str(lines)
    requests = [line for line in lines if line["event"] == "request" and line["request_id"] == "mine-8"]
    assert [each["status"] for each in requests] == [200, 404, 500]
    assert requests[0]["trace_id"] == trace
    (defect,) = [line for line in lines if line["event"] == "defect"]
    assert defect["error"] == "RuntimeError"
    assert any("fake_client.py" in frame for frame in defect["frames"])


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "kept"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-a-field-of-a-later-version", True),  # a later version is read as far as this one
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}", False),
        (TRACE, False),
    ],
)
def test_a_trace_is_kept_where_it_is_well_formed(traceparent: str, kept: bool) -> None:
    """The cases are those of W3C Trace Context, section 3.2; another header begins a new trace."""
    trace = trace_id(Headers({"traceparent": traceparent}))
    assert (trace == TRACE) == kept
    assert re.fullmatch("[0-9a-f]{32}", trace)


def test_the_logs_of_libraries_are_json_without_messages_of_exceptions() -> None:
    with logging_as_in_service() as output:
        try:
            raise ValueError(SECRET)
        except ValueError:
            logging.getLogger("a.library").exception("it failed")
    (line,) = [json.loads(each) for each in output.getvalue().splitlines()]
    assert line["event"] == "it failed"
    assert line["exception"] == "ValueError"
