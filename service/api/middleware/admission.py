"""Admission of a request: its API key, the rate of its client, the number of open requests."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enflow.service.api.middleware.api_keys import ApiKeys
from enflow.service.api.middleware.problem_response import send_problem
from enflow.service.chemistry.rdkit_pool import current_client
from enflow.service.problems import Problem, retry_after


class AdmissionMiddleware:
    """Refuse a request without a known key, above the rate of its client, or beyond the number of open requests.

    Args:
        app: the application inside.
        access: the API keys and the rates.
        max_open: number of POST requests whose body has arrived and that are not answered.
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
        if scope["method"] == "POST":
            await self._run_in_place(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _run_in_place(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; the request is counted once its body is there: a slow sender costs no one else."""
        counted = False

        async def receive_and_count() -> Message:
            nonlocal counted
            message = await receive()
            if not counted and message["type"] == "http.request" and not message.get("more_body", False):
                self._check_open()
                self.open, counted = self.open + 1, True
            return message

        try:
            await self.app(scope, receive_and_count, send)
        finally:
            self.open -= counted

    def _admit(self, scope: Scope) -> str:
        host = (scope.get("client") or ("local", 0))[0]
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        client = self.access.admit(scope["method"], path, Headers(scope=scope), host)
        if scope["method"] == "POST":
            self._check_open()
        return client

    def _check_open(self) -> None:
        if self.open >= self.max_open:
            detail = f"found {self.open} open requests, expected fewer than {self.max_open}"
            raise Problem("unavailable", detail, headers=retry_after(5))
