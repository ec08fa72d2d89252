"""A problem document sent by a middleware, outside of any route."""

from starlette.types import Scope, Send

from enflow.service.problems import MEDIA_TYPE, Problem


async def send_problem(problem: Problem, scope: Scope, send: Send) -> None:
    """Send a problem as a complete response."""
    body = problem.body(scope["state"]["request_id"])
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.kind.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
