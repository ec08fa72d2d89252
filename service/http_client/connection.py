"""The connection to a service: requests that are repeated where that helps, and streams that survive a break."""

import math
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_exponential_jitter

from enflow.service.http_client.answers import check_answer, decoded, read_document
from enflow.service.http_client.errors import ServiceError, from_problem
from enflow.service.http_client.first_bytes import FirstBytes
from enflow.service.http_client.request_body import request_body
from enflow.service.http_client.results import Json
from enflow.service.media_types import ESTIMATE, JSON, NDJSON

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

    Raises:
        ServiceError: the address or the key cannot be one.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float, patience_s: float) -> None:
        self.url, key = _checked_address(url), _checked_key(api_key)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)
        self._answered = False
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)
        self._retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ServiceError) and error.passing),
            wait=_wait,
            stop=stop_before_delay(patience_s),
            retry_error_callback=_give_up,
        )

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def json(
        self,
        method: str,
        path: str,
        fields: Collection[str],
        *,
        safe: bool = True,
        body: Mapping[str, Any] | None = None,
    ) -> Json:
        """Return the JSON object of an answer.

        Args:
            method, path: the endpoint.
            fields: the fields that the object has; without them it is not one of Enflow.
            safe: the request may be sent twice: the second one has no further effect.
            body: the fields of the request; see `request_body`.

        Raises:
            ServiceError: the service refused the request, gave no answer, or is not Enflow.
        """

        def attempt() -> Json:
            with self.stream(method, path, safe=safe, body=body) as answer:
                return read_document(answer, answer.read(), fields)

        return self.repeated(attempt)

    def repeated(self, call: Callable[[], T]) -> T:
        """Return the result of a call, which is repeated while its error may pass."""
        return self._retrying(call)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        accept: str = JSON,
        safe: bool = True,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Iterator[httpx.Response]:
        """Give an answer whose body is not read yet; see `json`. A body that breaks is an error in the context.

        Args:
            method, path, safe, body: see `json`.
            accept: the media type of the answer.
            params: the query.
        """
        headers = {"Accept": accept} | ({} if body is None else {"Content-Type": JSON})
        content = None if body is None else request_body(body)
        request = {"headers": headers, "content": content, "params": params}
        answer = self._retrying(self._open, method, path, accept, safe=safe, request=request)
        try:
            with self._translated(safe=safe), decoded(answer):
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
        with self.stream("POST", path, accept=NDJSON, body=body) as answer:
            seconds = LONGEST * float(answer.headers.get(ESTIMATE, math.inf))
            end = time.monotonic() + seconds
            for line in answer.iter_lines():
                event = read_document(answer, line, ["event"])
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

    def _open(self, method: str, path: str, accept: str, *, safe: bool, request: Mapping[str, Any]) -> httpx.Response:
        with self._translated(safe=safe):
            extensions = {"trace": FirstBytes(self.url)}
            answer = self.http.send(
                self.http.build_request(method, path, extensions=extensions, **request), stream=True
            )
            self._answered = True
            try:
                check_answer(answer, accept, safe=safe)
            except BaseException:
                answer.close()
                raise
        return answer

    @contextmanager
    def _translated(self, *, safe: bool) -> Iterator[None]:
        """Raise an error of the transport as a ServiceError."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            # A service that answered before is being restarted; another one is probably not there at all.
            raise ServiceError(f"{self.url}: {_no_connection(error)}", passing=self._answered) from None
        except httpx.LocalProtocolError:  # its text may have the key
            raise ServiceError(f"{self.url}: found a header that HTTP does not have, and sent nothing") from None
        except httpx.TransportError as error:
            if isinstance(error, httpx.RemoteProtocolError) and "illegal" in str(error):
                text = f"{self.url}: found an answer that is not HTTP ({error!s:.100}); expected an Enflow service"
                raise ServiceError(text) from None
            text = f"{self.url}: the connection broke ({type(error).__name__}: {error})"
            raise ServiceError(text, passing=safe) from None


def _checked_address(url: str) -> str:
    """Return the address of a service without white space around it."""
    try:
        found = httpx.URL(url.strip())
        found.host.encode("idna")  # as the look-up of the name does
        usable = found.scheme in ("http", "https") and found.host and (found.port or 0) < 1 << 16
    except (httpx.InvalidURL, UnicodeError):
        usable = False
    if not usable or "?" in url or "#" in url:
        expected = "one such as http://127.0.0.1:8000, without a query or fragment"
        raise ServiceError(f"found the address {url!r}, expected {expected}")
    return url.strip()


def _checked_key(key: str | None) -> str:
    """Return an API key without white space around it; the error does not repeat it."""
    key = (key or "").strip()
    for place, character in enumerate(key, start=1):
        if not "!" <= character <= "~":
            raise ServiceError(
                f"found a character in the API key, its number {place} of {len(key)}, that a key does not have; "
                "expected ASCII without spaces and control characters"
            )
    return key


def _no_connection(error: httpx.TransportError) -> str:
    """Return the reason why there is no connection: TLS, or no service at all."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return f"found no service ({type(error).__name__}); start it by `enflow serve`"
    hint = "" if isinstance(cause, ssl.SSLCertVerificationError) else "; the address of a service without it has http:"
    return f"found no TLS connection ({error}){hint}"


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
