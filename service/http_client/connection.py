"""The connection to a service: requests that are repeated where that helps, and streams that survive a break."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_exponential_jitter

from enflow.service.http_client.errors import ServiceError, from_answer, from_problem
from enflow.service.media_types import ESTIMATE, NDJSON

CONNECT_S = 10.0
"""Seconds after which a connection that is not established is given up."""

BACKOFF = wait_exponential_jitter(multiplier=0.5, max=20.0, jitter=0.5)
"""The wait before a repetition where the service names no time."""

LONGEST = 10.0
"""A stream is given up after this many times the seconds that the service estimated."""

BREAKS = 5
"""The breaks of a stream without a new result after which it is given up."""

Event = Mapping[str, Any]
T = TypeVar("T")


class Connection:
    """A connection to one service.

    Args:
        url: the address of the service, with the path prefix of its proxy.
        api_key: the key; None = the service needs none.
        timeout_s: seconds without data after which a connection counts as broken.
        patience_s: seconds for which a refused request is repeated.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float, patience_s: float) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)
        self.url = url
        self._answered = False
        with self._translated(safe=False):
            self.http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ServiceError) and error.passing),
            wait=_wait,
            stop=stop_before_delay(patience_s),
            retry_error_callback=_give_up,
        )

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def json(self, method: str, path: str, *, safe: bool = True, **request: Any) -> Any:
        """Return the JSON of an answer.

        Args:
            method, path: the endpoint.
            safe: the request may be sent twice: the second one has no further effect.
            request: arguments of `httpx.Client.build_request`.

        Raises:
            ServiceError: the service refused the request, or gave no answer.
        """

        def attempt() -> Any:
            with self.stream(method, path, safe=safe, **request) as answer:
                return json.loads(answer.read())

        return self.repeated(attempt)

    def repeated(self, call: Callable[[], T]) -> T:
        """Return the result of a call, which is repeated while its error may pass."""
        return self._retrying(call)

    @contextmanager
    def stream(self, method: str, path: str, *, safe: bool = True, **request: Any) -> Iterator[httpx.Response]:
        """Give an answer whose body is not read yet; see `json`. A body that breaks is an error in the context."""
        answer = self._retrying(self._open, method, path, safe=safe, **request)
        try:
            with self._translated(safe=safe):
                yield answer
        finally:
            answer.close()

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Event]:
        """Yield the events of a computation.

        (seed, index) fixes a molecule. So a stream that breaks is asked for again with its seed, and the results that
        came before are skipped.

        Raises:
            ServiceError: the service refused the request, or the stream broke again and again.
        """
        body, seen, breaks = dict(body), set[int](), 0
        while True:
            try:
                for event in self._events(path, body):
                    if event["event"] == "start":
                        body["seed"] = event["seed"]
                    index = _result_index(event)
                    if index in seen:
                        continue
                    if index is not None:
                        seen.add(index)
                        breaks = 0
                    yield event
            except ServiceError as error:
                breaks += 1
                if not error.passing or breaks > BREAKS:
                    raise
            else:
                return

    def _events(self, path: str, body: Mapping[str, Any]) -> Iterator[Event]:
        with self.stream("POST", path, json=body, headers={"Accept": NDJSON}) as answer:
            seconds = LONGEST * float(answer.headers.get(ESTIMATE, math.inf))
            end = time.monotonic() + seconds
            for line in answer.iter_lines():
                event = json.loads(line)
                if event["event"] == "error":
                    raise from_problem(event["problem"])
                yield event
                if event["event"] == "done":
                    return
                if time.monotonic() > end:
                    raise ServiceError(
                        f"found no end of the answer after {seconds:.0f} s, {LONGEST:.0f} times the estimate of the "
                        "service; a job has no time limit"
                    )
        raise ServiceError(f"{self.url}: the answer ended too early", passing=True)

    def _open(self, method: str, path: str, *, safe: bool, **request: Any) -> httpx.Response:
        with self._translated(safe=safe):
            answer = self.http.send(self.http.build_request(method, path, **request), stream=True)
            self._answered = True
            if answer.is_error:
                answer.read()
                raise from_answer(answer, safe=safe)
        return answer

    @contextmanager
    def _translated(self, *, safe: bool) -> Iterator[None]:
        """Raise an error of the transport as a ServiceError."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            # A service that answered before is being restarted; another one is probably not there at all.
            name = type(error).__name__
            message = f"{self.url}: found no service ({name}); start it by `enflow serve`"
            raise ServiceError(message, passing=self._answered) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise ServiceError(f"found the address {self.url!r}, expected one such as http://127.0.0.1:8000") from None
        except httpx.TransportError as error:
            text = f"{self.url}: the connection broke ({type(error).__name__}: {error})"
            raise ServiceError(text, passing=safe) from None


def _give_up(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, ServiceError)
    error.passing = False  # the patience is over, for whoever repeats around this call too
    raise error


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    named = error.retry_after if isinstance(error, ServiceError) else None
    return BACKOFF(state) if named is None else named


def _result_index(event: Event) -> int | None:
    for name in ("molecule", "score"):
        if name in event:
            index: int = event[name]["index"]
            return index
    return None
