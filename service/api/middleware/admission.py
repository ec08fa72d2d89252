"""Admission of a request: the API key, the rate of its client, and the number of open requests."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from enflow.service.api.auth import ApiKeys
from enflow.service.api.middleware.problem_response import send_problem
from enflow.service.chemistry.rdkit_pool import current_client
from enflow.service.problems import Problem, retry_after


class AdmissionMiddleware:
    """Refuse a request without a known key, above the rate of its client, or beyond the number of open requests.

    Args:
        app: the application inside.
        access: the API keys and the rates.
        max_open: number of open POST requests; each of them may hold a body in memory.
    """

    def __init__(self, app: ASGIApp, access: ApiKeys, max_open: int) -> None:
        self.app = app
        self.access = access
        self.max_open = max_open
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            scope["state"]["client"] = self._admit(scope)
        except Problem as problem:
            await send_problem(problem, scope, send)
            return
        current_client.set(scope["state"]["client"])
        self.open += scope["method"] == "POST"
        try:
            await self.app(scope, receive, send)
        finally:
            self.open -= scope["method"] == "POST"

    def _admit(self, scope: Scope) -> str:
        host = (scope.get("client") or ("local", 0))[0]
        client = self.access.admit(scope["method"], scope["path"], Headers(scope=scope), host)
        if scope["method"] == "POST" and self.open >= self.max_open:
            detail = f"found {self.open} open requests, expected fewer than {self.max_open}"
            raise Problem("unavailable", detail, headers=retry_after(5))
        return client
