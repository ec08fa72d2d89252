"""The trust in a request by its host name and by the page that sends it."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from enflow.service.api.middleware.problem_response import send_problem
from enflow.service.problems import Problem

PRIVATE_DOMAINS = ("localhost", "local", "internal", "home.arpa")
"""Domains in which nobody can register a public name (RFC 6761, 6762, 8375; ICANN reserved `internal`)."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN_SITE = ("same-origin", "none")
"""Values of Sec-Fetch-Site for a request of the service's own page, and of the user."""


class TrustedOriginMiddleware:
    """Refuse a request for a foreign host name, and a request of a foreign page that would compute.

    A page can give its own name the address of this machine (DNS rebinding); its requests have its name as Host. Names
    that nobody can register are safe: addresses, names without a dot, and those in `PRIVATE_DOMAINS`. Any page can also
    send a form or a text here without asking; `Sec-Fetch-Site`, or else `Origin`, shows that (as in net/http of Go,
    CrossOriginProtection).

    Args:
        app: the application inside.
        hosts: further host names, `*.` before a name for all names below it; `*` for any.
        origins: origins of foreign pages that may send requests; `*` for any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        self.app = app
        self.hosts = [each.lower() for each in hosts]
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._refusal(scope["method"], Headers(scope=scope))):
            await send_problem(problem, scope, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> Problem | None:
        name = _host_name(headers.get("host", ""))
        if not (_is_private(name) or self._is_listed(name)):
            detail = "found a host name that this service does not know, expected one of ENFLOW_ALLOWED_HOSTS"
            return Problem("forbidden", f"{detail}, an address, or a name without a dot")
        if method not in SAFE_METHODS and not self._is_trusted(headers):
            return Problem("forbidden", "found a request of a foreign page, expected its origin in ENFLOW_CORS_ORIGINS")
        return None

    def _is_listed(self, name: str) -> bool:
        return any(each in ("*", name) or (each.startswith("*.") and name.endswith(each[1:])) for each in self.hosts)

    def _is_trusted(self, headers: Headers) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if "*" in self.origins or origin in self.origins or site in OWN_SITE:
            return True
        if origin is None or site is not None:  # a program, or a browser that calls the page foreign
            return site is None
        place = origin.partition("://")[2].lower()
        # A proxy may replace Host; a page cannot set X-Forwarded-Host without asking.
        own = [headers.get(name, "").partition(",")[0].lower() for name in ("host", "x-forwarded-host")]
        return bool(place) and (place in own or ("*" not in self.hosts and self._is_listed(_host_name(place))))


def _host_name(host: str) -> str:
    """Return a host without its port, in lower case; empty where there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return host


def _is_private(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(tuple(f".{domain}" for domain in PRIVATE_DOMAINS))
    return True
