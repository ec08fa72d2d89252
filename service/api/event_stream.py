"""Responses that grow while the answer is computed: JSON lines and server-sent events."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from enflow.service.api.uploads import wait_for_disconnect
from enflow.service.handlers.context import CallerGone, Emit, run_cancellable
from enflow.service.handlers.served_model import ServedModel
from enflow.service.media_types import SSE
from enflow.service.problems import Problem, from_exception
from enflow.service.rendering.encoders import Answer
from enflow.service.schemas.responses import ProblemOut
from enflow.service.schemas.stream_events import DoneEvent, ErrorEvent, StreamEvent

SILENCE_S = 2.0
"""Seconds without an event after which the state of the queue is sent: proxies close silent connections."""

HEADERS = {"cache-control": "no-store", "vary": "Accept", "x-accel-buffering": "no"}
"""Headers of a stream: no cache and no proxy may hold events back."""


class EventStream(Response):
    """A response whose events are sent while `produce` emits them.

    An error before the first event is an ordinary problem; a later one is the last event of the stream.

    Args:
        media_type: application/x-ndjson or text/event-stream.
        produce: the computation; it emits events and returns the whole answer.
        served: the model that computes.
        deadline: the end of the stream, in seconds since the epoch.
    """

    def __init__(
        self, media_type: str, produce: Callable[[Emit], Awaitable[Answer]], served: ServedModel, deadline: float
    ) -> None:
        super().__init__(media_type=media_type, headers=HEADERS | {"content-type": f"{media_type}; charset=utf-8"})
        del self.headers["content-length"]
        self.produce = produce
        self.served = served
        self.deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = _EventWriter(str(self.media_type), self.raw_headers, send)
        heartbeat = asyncio.create_task(self._send_progress_after_silence(writer))
        try:
            answer = await run_cancellable(
                self.produce(writer.emit), wait_for_disconnect(receive), self.served.stopping, self.deadline
            )
            await writer.emit(DoneEvent.after(answer.document))
        except CallerGone:
            raise
        except Exception as error:
            if not writer.started:
                raise
            document = from_exception(error).document(scope["state"]["request_id"])
            await writer.emit(ErrorEvent(event="error", problem=ProblemOut(**document)))
            await writer.close()
            if not isinstance(error, Problem):
                raise
        else:
            await writer.close()
        finally:
            heartbeat.cancel()

    async def _send_progress_after_silence(self, writer: "_EventWriter") -> None:
        while True:
            writer.wrote.clear()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await writer.wrote.wait()
            except TimeoutError:
                if writer.started:
                    await writer.emit(self.served.progress_event())


class _EventWriter:
    """The body of an event stream; its first event sends the headers."""

    def __init__(self, media_type: str, headers: Sequence[tuple[bytes, bytes]], send: Send) -> None:
        self.media_type = media_type
        self.headers = headers
        self.send = send
        self.started = False
        self.wrote = asyncio.Event()

    async def emit(self, event: StreamEvent) -> None:
        self.wrote.set()
        if not self.started:
            self.started = True
            await self.send({"type": "http.response.start", "status": 200, "headers": self.headers})
        text = event.model_dump_json(exclude_unset=True)
        lines = f"event: {event.event}\ndata: {text}\n\n" if self.media_type == SSE else f"{text}\n"
        await self.send({"type": "http.response.body", "body": lines.encode(), "more_body": True})

    async def close(self) -> None:
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})
