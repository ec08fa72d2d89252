"""The first bytes of a connection: a server that speaks another protocol is known by them."""

import socket
from collections.abc import Mapping
from typing import Any

import httpx

from enflow.service.http_client.errors import ServiceError

HTTP = b"HTTP/"
"""The first bytes of an answer."""

SHOWN = 40
"""The most bytes that an error shows."""


class FirstBytes:
    """A `trace` of httpx for one request, which looks at the first bytes that come on a new connection without TLS.

    A parser of HTTP waits for the end of the headers: after a banner such as SSH-2.0-OpenSSH_9.6 for nothing.

    Args:
        url: the address of the service, for the error.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._socket: socket.socket | None = None

    def __call__(self, name: str, info: Mapping[str, Any]) -> None:
        """Follow the request.

        Raises:
            ServiceError: the first bytes are not those of HTTP.
            httpx.ReadTimeout: none came in time.
        """
        match name:
            case "connection.connect_tcp.complete":
                self._socket = info["return_value"].get_extra_info("socket")
            case "connection.start_tls.started":
                self._socket = None
            case "http11.receive_response_headers.started" if self._socket:
                self._check(self._socket, info["request"].extensions["timeout"]["read"])

    def _check(self, connected: socket.socket, timeout_s: float | None) -> None:
        connected.settimeout(timeout_s)
        try:
            found = connected.recv(SHOWN, socket.MSG_PEEK)
        except TimeoutError:
            raise httpx.ReadTimeout("timed out") from None
        except OSError:
            return  # httpx finds the same, and says it
        if found[: len(HTTP)] != HTTP[: len(found)]:
            text = f"found an answer that is not HTTP (it begins with {found!r}); expected an Enflow service"
            raise ServiceError(f"{self._url}: {text}")
