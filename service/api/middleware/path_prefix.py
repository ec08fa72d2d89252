"""The path prefix of a proxy."""

import re

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from enflow.service.settings import PATH_PREFIX


class PathPrefixMiddleware:
    """Put the prefix of a proxy into `root_path`, from where the router and the OpenAPI description take it.

    A proxy may leave the prefix in the path or remove it; by ASGI `path` has it. The links of the pages are relative,
    so a wrong X-Forwarded-Prefix harms only its sender.

    Args:
        app: the application inside.
        prefix: the prefix; empty takes that of the header X-Forwarded-Prefix.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (prefix := self.prefix or _forwarded(Headers(scope=scope))):
            await self.app(scope, receive, send)
        elif scope["path"] == prefix and scope["method"] in ("GET", "HEAD"):
            await RedirectResponse(f"{prefix}/")(scope, receive, send)  # relative links need the slash
        else:
            path = scope["path"]
            scope.update(root_path=prefix, path=path if path.startswith(f"{prefix}/") else prefix + path)
            await self.app(scope, receive, send)


def _forwarded(headers: Headers) -> str:
    """Return the prefix that a proxy names; empty where there is none or it is no path."""
    prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
    return prefix if re.fullmatch(PATH_PREFIX, prefix) else ""
